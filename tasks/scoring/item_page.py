"""What ``make why`` and the page of evaluation share: the name of an item's page, and that of the
answers, by which a run is found whatever its own name is.
"""

from __future__ import annotations

import re
from pathlib import Path

from tasks.core.files import fingerprint, sha256_file


def page_name(item_id: str) -> str:
    """Return a safe name of a file, without an ending: another one for every id."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", item_id)[:60].strip(".-")
    return safe if safe == item_id else f"{safe}-{fingerprint(item_id)[:8]}".lstrip("-")


def name_answers(predictions: Path) -> str:
    """Return the name of the answers in a file (``predictions.parquet``), from its bytes alone: a
    run that takes its evaluation from DVC's cache has the same as the run that made it.
    """
    return sha256_file(predictions)[:12]
