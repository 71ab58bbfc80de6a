"""``python -m tasks.evaluate``: run the stage."""

import sys

from tasks.evaluate.stage import main

if __name__ == "__main__":
    sys.exit(main())
