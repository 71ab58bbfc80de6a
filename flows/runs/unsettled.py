"""Whether ingest may give another result although nothing changed: it could not read some files.

DVC compares inputs: it skips ingest, or takes its result from a cache, also where the reader of a
file was ended. It hashes a corpus only when the stage has ended.
"""

from __future__ import annotations

from pathlib import Path

from tasks.core.files import read_if_there

INGEST = "ingest"


def explain_unsettled(checkout: Path) -> str:
    """Return in words how many files ingest of a checkout may read now; empty for none."""
    told = read_if_there(checkout / "artifacts" / INGEST / "summary.json") or {}
    count = int(told.get("unsettled", 0))
    return f"{count:,} files that it did not read may be read now" if count else ""
