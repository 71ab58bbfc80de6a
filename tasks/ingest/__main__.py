"""``python -m tasks.ingest``: run the stage."""

import sys

from tasks.ingest.stage import main

if __name__ == "__main__":
    sys.exit(main())
