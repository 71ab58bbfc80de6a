"""Reads a hostile file for tests; puts another parser in place of a library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

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


def replace_rtf_parser(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put a module on the workers' path, too, in place of the library that reads RTF."""
    package = folder / "libraries" / "striprtf"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "striprtf.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder / "libraries"))
