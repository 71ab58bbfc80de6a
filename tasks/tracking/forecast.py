"""Puts the forecast of ``make plan`` and what came into the MLflow run that register made.

``python -m tasks.tracking.forecast RUN_ID FILE TEXT``: the text becomes the tag ``forecast``, the
file an artifact. MLflow's metrics stay few: a forecast is compared with its own run alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.core.stage import one_line_errors
from tasks.tracking.mlflow_store import connect, store_errors
from tasks.tracking.registry import Ledger

#: The tag, and the folder of the artifact.
TAG, FOLDER = "forecast", "plan"


def main(argv: Sequence[str] | None = None) -> int:
    """Log them; return 0, or 2 where the store does not take them."""
    run_id, file, text = sys.argv[1:] if argv is None else argv
    with one_line_errors("forecast"):
        ledger = Ledger(connect(), run_id)
        with store_errors():
            ledger.tags({TAG: text})
            ledger.files([Path(file)], FOLDER)
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
