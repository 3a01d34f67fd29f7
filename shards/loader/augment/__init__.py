"""Augmentations: pure functions from a batch to a new one, labels along with the sound."""
