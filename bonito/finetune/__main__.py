"""``python -m bonito.finetune``: run the stage."""

import sys

from bonito.finetune.stage import main

if __name__ == "__main__":
    sys.exit(main())
