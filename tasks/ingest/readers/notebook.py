"""Jupyter notebooks: the text and the code of the cells as Markdown, without their outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingest.readers.decoding import decode, tidy
from tasks.ingest.readers.document import Document, ReaderItem, ReadOptions, Reject, Unreadable
from tasks.ingest.readers.markdown import find_headings


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the notebook as one document, and a reject for each cell that cannot be read.

    Raises :class:`Unreadable` where none can.
    """
    try:
        notebook = json.loads(decode(path.read_bytes())[0])
    except ValueError as error:
        raise Unreadable("damaged", f"not valid JSON: {error}") from error
    texts: list[str] = []
    rejects: list[Reject] = []
    outputs = 0
    for number, cell in enumerate(_cells(notebook), 1):
        try:
            texts.append(_show_cell(cell))
        except Unreadable as problem:
            rejects.append(Reject(f"!cell {number}", problem.reason, problem.detail))
        else:
            told = cell.get("outputs")
            outputs += len(told) if isinstance(told, list) else 0
    if rejects and not texts:
        raise Unreadable(rejects[0].reason, f"no cell can be read: {rejects[0].detail}")
    text = "\n\n".join(filter(str.strip, texts))
    left_out = (("output", outputs),) if outputs else ()
    yield from rejects
    yield Document(text, "notebook", headings=find_headings(text), left_out=left_out)


def _cells(notebook: Any) -> Iterator[Any]:
    # Before version 4 the cells were in worksheets.
    sheets = notebook.get("worksheets") if isinstance(notebook, dict) else None
    for sheet in sheets or [notebook]:
        if not isinstance(sheet, dict) or not isinstance(sheet.get("cells"), list):
            raise Unreadable("damaged", "a notebook without cells")
        yield from sheet["cells"]


def _show_cell(cell: Any) -> str:
    """Return a cell as Markdown. Code is fenced, so that its comments are no headings.

    Raises :class:`Unreadable` where it is no cell, or its source no text.
    """
    if not isinstance(cell, dict):
        raise Unreadable("damaged", "not a cell but a value")
    source = cell.get("source", cell.get("input", ""))
    parts: list[Any] = source if isinstance(source, list) else [source or ""]
    if not all(isinstance(part, str) for part in parts):
        raise Unreadable("damaged", "its source is no text")
    text = tidy("".join(parts))
    if cell.get("cell_type") == "heading":  # of an earlier version
        return f"{'#' * (cell['level'] if cell.get('level') in range(1, 7) else 1)} {text}"
    if cell.get("cell_type") != "code" or not text.strip():
        return text
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}\n{text}\n{fence}"
