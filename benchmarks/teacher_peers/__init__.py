"""What benchmarks.teachers measures teachers beside: published loops, and bare matrix products."""
