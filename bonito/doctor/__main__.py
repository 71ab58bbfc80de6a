"""``python -m bonito.doctor``: run the command."""

import sys

from bonito.doctor.command import main

if __name__ == "__main__":
    sys.exit(main())
