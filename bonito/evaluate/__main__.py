"""``python -m bonito.evaluate``: run the stage."""

import sys

from bonito.evaluate.stage import main

if __name__ == "__main__":
    sys.exit(main())
