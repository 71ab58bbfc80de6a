"""``python -m tasks.baseline``: run the stage."""

import sys

from tasks.baseline.stage import main

if __name__ == "__main__":
    sys.exit(main())
