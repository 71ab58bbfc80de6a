"""What is wrong with a corpus before a run starts: files that DVC cannot hash, and labelled items
that would be read as documents.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

#: Files that a line names.
_SHOWN = 3


def tell_unhashable(corpus: Path) -> str:
    """Return one line on the files of a folder that DVC cannot hash; empty where there are none.

    DVC hashes every file before ingest starts: it would end in an error of its own, or wait for a
    pipe for ever.
    """
    found = [
        f"{os.fsencode(path).decode(errors='backslashreplace')} ({problem})"
        for path in _walk(corpus)
        if (problem := _find_problem(path))
    ]
    if not found:
        return ""
    shown = ", ".join(found[:_SHOWN])
    more = f" and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    return (
        f"a run hashes every file of its corpus, and cannot hash {shown}{more}: "
        "correct that, or move it out of the folder"
    )


def is_inside(items: Path, corpus: Path) -> bool:
    """Tell whether a file is the corpus, or in its folder, itself or as a link."""
    return _find_inside(items, corpus) is not None


def tell_items_read(items: Path, corpus: Path, ingest: Mapping[str, Any]) -> str:
    """Return one line where ingest would read the labelled items as documents; else empty.

    JSONL without the column of the texts is not read, nor is what is in a hidden folder. ``ingest``
    has the settings of that section.
    """
    inner = _find_inside(items, corpus) if items.is_file() else None
    if inner is None or any(part.startswith(".") for part in inner.parts):
        return ""
    if not _is_document(items, ingest.get("text_column", "")):
        return ""
    return (
        f"{items} is in the corpus {corpus}, so the run would read the answers as documents: move "
        "it out of the folder"
    )


def _find_inside(items: Path, corpus: Path) -> Path | None:
    for place in (items.resolve(), Path(os.path.abspath(items))):
        for root in (corpus.resolve(), Path(os.path.abspath(corpus))):
            if place.is_relative_to(root):
                return place.relative_to(root)
    return None


def _is_document(path: Path, text_column: str) -> bool:
    """Tell whether a reader finds a text in a file."""
    from tasks.ingest.readers.detect import read  # rarely needed: items are rarely in the corpus
    from tasks.ingest.readers.document import Document, ReadOptions

    try:
        parts = read(path, ReadOptions(text_column=text_column))
        return any(isinstance(part, Document) for part in parts)
    except Exception:  # noqa: BLE001  what its parser cannot read ingest does not read either
        return False


def _walk(corpus: Path) -> Iterator[Path]:
    if corpus.is_file():
        yield corpus
    for folder, folders, files in os.walk(corpus):
        folders.sort()
        yield from (Path(folder) / name for name in sorted(files))


def _find_problem(path: Path) -> str:
    try:
        str(path).encode()
        mode = path.stat().st_mode
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return "a link to nothing, or to itself" if path.is_symlink() else f"{error.strerror}"
    if not stat.S_ISREG(mode):
        return "a pipe, a socket or a device"
    return "" if os.access(path, os.R_OK) else "no permission to read it"
