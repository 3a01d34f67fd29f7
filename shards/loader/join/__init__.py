"""Which clips a source has, and where their audio and labels lie."""
