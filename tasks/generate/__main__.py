"""``python -m tasks.generate``: run the stage."""

import sys

from tasks.generate.stage import main

if __name__ == "__main__":
    sys.exit(main())
