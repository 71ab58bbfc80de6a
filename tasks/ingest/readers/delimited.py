"""CSV and TSV: the rows below the header, read as a stream."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tasks.ingest.readers import headers
from tasks.ingest.readers.columns import TableRow
from tasks.ingest.readers.decoding import detect
from tasks.ingest.readers.document import ReadOptions, Unreadable

#: The number of a line above the header; its text has no column.
TITLE = 0
#: A byte that its encoding does not know, as Python escapes it; or the mark of a long line.
_UNDECODED = re.compile("[\ud800-\udfff]")
#: Stands in a CSV file in place of a line that is too long: no encoding gives it.
_LONG_LINE = "\ud800"


def read(path: Path, options: ReadOptions, delimiter: str, column: str) -> Iterator[TableRow]:
    """Yield the lines above the header, numbered :data:`TITLE`, then the rows below it.

    An empty ``delimiter`` is found in the first lines. Raises :class:`Unreadable` where the header
    cannot be read.
    """
    with path.open("rb") as raw:
        sample = raw.read(1 << 20)
    # A sample may end inside a character; only whole lines are judged.
    encoding = detect(sample[: sample.rfind(b"\n") + 1] or sample)
    csv.field_size_limit(min(options.max_bytes, 1 << 30))
    long_line = f"a line of more than {options.max_bytes >> 20} MiB"
    with path.open("r", encoding=encoding, errors="surrogateescape", newline="") as stream:
        reader = csv.reader(
            _text_lines(stream, options.max_bytes),
            delimiter=delimiter or _delimiter(sample, encoding, column),
        )
        rows: Iterator[list[str]] = filter(None, reader)
        try:
            above, header, rows = headers.find_header(rows, column)
            for cells in above:
                if _LONG_LINE in "".join(cells):
                    raise Unreadable("too_large", f"{long_line}, and its header cannot be told")
                yield TITLE, _join_cells(cells)
            names = _name_columns(_need_readable(header, encoding, long_line))
            for place, cells in enumerate(rows, 1):
                yield place, _make_row(cells, names, encoding, long_line)
        except (csv.Error, UnicodeDecodeError) as error:
            raise Unreadable("damaged", f"line {reader.line_num + 1}: {error}") from error


def _need_readable(header: list[str], encoding: str, long_line: str) -> list[str]:
    """Return the header; raise :class:`Unreadable` where a part of it is not known."""
    text = "".join(header)
    if _LONG_LINE in text:
        raise Unreadable("too_large", f"{long_line}: its header")
    if _UNDECODED.search(text):
        raise Unreadable("damaged", f"its header has bytes that are not {encoding}")
    return header


def _make_row(
    cells: list[str], names: list[str], encoding: str, long_line: str
) -> dict[str, Any] | Unreadable:
    """Return a row by the names of its columns, all in one text where there are no names; or why
    it cannot be read.
    """
    text = "".join(cells)
    if _LONG_LINE in text:
        return Unreadable("too_large", long_line)
    if _UNDECODED.search(text):
        return Unreadable("damaged", f"bytes that are not {encoding}")
    if not names:
        return _join_cells(cells)
    row: dict[str, Any] = dict(zip_longest(names, cells[: len(names)]))
    more = cells[len(names) :]
    return row | {"(more)": more} if more else row


def _join_cells(cells: list[str]) -> dict[str, Any]:
    """Return a row without names of columns as one text."""
    return {"": " | ".join(cell for cell in cells if cell.strip())}


def _name_columns(header: list[str]) -> list[str]:
    """Return each column's name, with its number where several have one name or none."""
    counts = Counter(header)
    return [
        name if counts[name] == 1 else f"{name or 'column'} ({number})"
        for number, name in enumerate(header, 1)
    ]


def _text_lines(stream: io.TextIOWrapper, limit: int) -> Iterator[str]:
    """Yield lines; for one of more than ``limit`` characters, which is never held whole, a line
    with :data:`_LONG_LINE`, after a quote where a quoted cell begins or ends in it.
    """
    for line in iter(partial(stream.readline, limit + 1), ""):
        if len(line) <= limit:
            yield line
            continue
        quotes, rest = 0, line
        while rest:
            quotes += rest.count('"')
            rest = "" if rest.endswith(("\n", "\r")) else stream.readline(1 << 20)
        yield '"' * (quotes % 2) + _LONG_LINE + "\n"


def _delimiter(sample: bytes, encoding: str, column: str) -> str:
    """Return what divides the cells of the first line that has two; a header of ``column`` alone
    ends the search.
    """
    lines = (
        sample.decode(encoding, errors="replace").lstrip("\ufeff").split("\n", headers.MOST_TITLES)
    )
    for line in lines[: headers.MOST_TITLES]:
        mark = max(",;\t|", key=line.count)
        if mark in line:
            return mark
        if line.strip().strip('"') == column:
            break
    return ","
