"""``python -m bonito.train_answering``: run the stage."""

import sys

from bonito.train_answering.stage import main

if __name__ == "__main__":
    sys.exit(main())
