"""``python -m tasks.verify``: run the stage."""

import sys

from tasks.verify.stage import main

if __name__ == "__main__":
    sys.exit(main())
