"""``python -m tasks.register``: run the stage."""

import sys

from tasks.register.stage import main

if __name__ == "__main__":
    sys.exit(main())
