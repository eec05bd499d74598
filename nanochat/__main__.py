"""`python -m nanochat`: the command line of the library (nanochat/cli.py)."""

import sys

from nanochat.cli import main

if __name__ == "__main__":
    sys.exit(main())
