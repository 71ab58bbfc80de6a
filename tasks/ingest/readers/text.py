"""Plain text: the format of files that fit no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Document, ReaderItem, ReadOptions


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document."""
    text, encoding = decode(path.read_bytes())
    yield Document(text, "text", encoding=encoding)
