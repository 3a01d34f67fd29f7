"""The loaders that `python -m benchmarks.loader` compares, one module each, imported in processes of their own.

A module has `write(folder, clips)`, which stores the clips as its loader wants them, and `batches(folder, workers)`,
which yields batches without end: (waveform float32 [B, 160000], labels float32 [B, 447, 250], clip keys). A module
whose batches look otherwise has `opened(batch)`, which makes that of one, for the check alone; `VALUES` says what its
labels are, if not the logits themselves.
"""
