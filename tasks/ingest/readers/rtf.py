"""Rich Text Format, through striprtf."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.document import Builder, ReaderItem, ReadOptions, Unreadable


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document; a line of the source is a paragraph."""
    from striprtf.striprtf import rtf_to_text

    try:
        # RTF is ASCII with escapes; its header names the code page of the rest.
        text = tidy(rtf_to_text(path.read_bytes().decode("latin-1"), errors="strict"))
    except (ValueError, LookupError, IndexError, AttributeError, TypeError) as error:
        raise Unreadable("damaged", f"not readable as RTF: {error}") from error
    builder = Builder()
    for line in text.split("\n"):
        builder.paragraph(line)
    yield builder.document("rtf")
