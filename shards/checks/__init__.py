"""Whether a dataset is whole, and what to do where it is not."""
