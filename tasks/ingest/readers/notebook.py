"""Jupyter notebooks: the text and the code of the cells as Markdown, without their outputs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.ingest.readers.decoding import decode, tidy
from tasks.ingest.readers.document import Document, ReaderItem, ReadOptions, Unreadable
from tasks.ingest.readers.markdown import find_headings


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the notebook as one document."""
    try:
        notebook = json.loads(decode(path.read_bytes())[0])
    except ValueError as error:
        raise Unreadable("damaged", f"not valid JSON: {error}") from error
    cells = list(_cells(notebook))
    text = "\n\n".join(filter(str.strip, map(_show_cell, cells)))
    outputs = sum(len(cell.get("outputs") or ()) for cell in cells)
    left_out = (("output", outputs),) if outputs else ()
    yield Document(text, "notebook", headings=find_headings(text), left_out=left_out)


def _cells(notebook: Any) -> Iterator[dict[str, Any]]:
    # Before version 4 the cells were in worksheets.
    sheets = notebook.get("worksheets") if isinstance(notebook, dict) else None
    for sheet in sheets or [notebook]:
        if not isinstance(sheet, dict) or not isinstance(sheet.get("cells"), list):
            raise Unreadable("damaged", "a notebook without cells")
        yield from (cell for cell in sheet["cells"] if isinstance(cell, dict))


def _show_cell(cell: dict[str, Any]) -> str:
    """Return a cell as Markdown. Code is fenced, so that its comments are no headings."""
    source = cell.get("source", cell.get("input", ""))
    parts = source if isinstance(source, list) else [source]
    text = tidy("".join(part for part in parts if isinstance(part, str)))
    if cell.get("cell_type") == "heading":  # of an earlier version
        return f"{'#' * (cell['level'] if cell.get('level') in range(1, 7) else 1)} {text}"
    if cell.get("cell_type") != "code" or not text.strip():
        return text
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
    return f"{fence}\n{text}\n{fence}"
