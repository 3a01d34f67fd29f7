"""`python -m benchmarks`: every benchmark in turn."""

from benchmarks import arms

if __name__ == "__main__":
    arms.main()
