"""``python -m bonito.answering``: run the stage."""

import sys

from bonito.answering.stage import main

if __name__ == "__main__":
    sys.exit(main())
