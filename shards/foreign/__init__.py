"""Published pseudo-labels of others into label shards, and label sets into their files."""
