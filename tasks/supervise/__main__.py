"""``python -m tasks.supervise``: run the stage."""

import sys

from tasks.supervise.stage import main

if __name__ == "__main__":
    sys.exit(main())
