"""``python -m tasks.validate``: run the stage."""

import sys

from tasks.validate.stage import main

if __name__ == "__main__":
    sys.exit(main())
