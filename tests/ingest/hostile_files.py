"""Reads a hostile file for tests, and packs some."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import ReadOptions, Reject, Unreadable
from tasks.ingest.reasons import REASONS


def reasons(path: Path, **options: Any) -> list[tuple[str, str]]:
    """Return (place inside the file, reason) of everything in a file that cannot be used."""
    found = []
    try:
        for item in detect.read(path, ReadOptions(**options)):
            if isinstance(item, Reject):
                found.append((item.member, item.reason))
    except Unreadable as problem:
        found.append(("", problem.reason))
    assert all(reason in REASONS for _, reason in found)
    return found


def zipped(members: dict[str, bytes]) -> bytes:
    """Return a ZIP archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()
