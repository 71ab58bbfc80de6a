"""``python -m flows.matrix``: run the command."""

import sys

from flows.matrix.command import main

if __name__ == "__main__":
    sys.exit(main())
