"""`python -m sed_distill`: the same as the console script."""

import sys

from sed_distill.cli import main

if __name__ == "__main__":
    sys.exit(main())
