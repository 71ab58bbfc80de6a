"""Reads a file with the readers, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable

STORY = (
    "The pump was stopped at noon. Its bearing had run hot since Monday. A fitter changed it "
    "by the evening."
)


def read(path: Path, **options: Any) -> list[Document | Reject]:
    items = detect.read(path, ReadOptions(**options))
    return [item for item in items if isinstance(item, Document | Reject)]


def read_one(path: Path, **options: Any) -> Document:
    (document,) = read(path, **options)
    assert isinstance(document, Document)
    return document


def refusal(path: Path, **options: Any) -> Unreadable:
    with pytest.raises(Unreadable) as problem:
        read(path, **options)
    return problem.value
