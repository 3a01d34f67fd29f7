"""What stored labels become in a batch: targets and weights, dense or as codes."""
