"""``python -m tasks.finetune``: run the stage."""

import sys

from tasks.finetune.stage import main

if __name__ == "__main__":
    sys.exit(main())
