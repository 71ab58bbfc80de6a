"""``python -m bonito.remix``: run the stage."""

import sys

from bonito.remix.stage import main

if __name__ == "__main__":
    sys.exit(main())
