"""The name of an item's page, which ``make why`` writes and the page of evaluation leads to."""

from __future__ import annotations

import re

from tasks.core.files import fingerprint


def page_name(item_id: str) -> str:
    """Return a safe name of a file, without an ending: another one for every id."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", item_id)[:60].strip(".-")
    return safe if safe == item_id else f"{safe}-{fingerprint(item_id)[:8]}".lstrip("-")
