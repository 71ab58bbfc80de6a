"""The columns of the tables in a corpus, and which of them holds the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from tasks.core.errors import one_line
from tasks.core.files import row_seed
from tasks.ingest.discovery import CorpusFile, discover
from tasks.ingest.readers.detect import SUFFIXES
from tasks.ingest.readers.document import ReadOptions, Unreadable, printable
from tasks.ingest.readers.tables import read_rows
from tasks.start.draw import BYTES

#: Tables that are opened, and rows and columns of each.
_TABLES, _ROWS, _COLUMNS = 20, 50, 40
#: Words of a column's cells, on average, that make it one of long text.
_LONG = 10
_SEED = 1
#: Columns and tables that a line names.
_SHOWN, _NOTES = 12, 3
#: Without the text's column these are read as tables (docs/corpus.md).
_READ_WHOLE = (".csv", ".tsv", ".tab")


@dataclass(frozen=True)
class Columns:
    """The columns of one table, with the texts of its first rows."""

    table: str
    texts: dict[str, list[str]]

    def long(self) -> list[str]:
        """Return the columns that hold long text."""
        return [
            name
            for name, texts in self.texts.items()
            if sum(len(text.split()) for text in texts) >= _LONG * max(len(texts), 1)
        ]

    def names(self) -> str:
        """Return the columns' names as a line shows them."""
        more = f" and {len(self.texts) - _SHOWN} more" if len(self.texts) > _SHOWN else ""
        return one_line(printable(", ".join(list(self.texts)[:_SHOWN]))) + more


def find_tables(corpus: Path, follow_links: bool = False) -> list[Columns]:
    """Return the columns of tables without a column ``text``, of the first in a seeded order."""
    files = [
        file
        for file in discover(corpus, follow_links)
        if not file.problem and SUFFIXES.get(PurePosixPath(file.name).suffix.lower()) == "tables"
    ]
    files.sort(key=lambda file: (row_seed(_SEED, "file", file.name), file.name))
    found = (Columns(file.name, _read(file)) for file in files[:_TABLES])
    return [columns for columns in found if columns.texts and "text" not in columns.texts]


def choose_column(tables: list[Columns]) -> str:
    """Return the column that alone holds long text in each table; empty where there is none."""
    found = {tuple(columns.long()) for columns in tables}
    return names[0] if len(found) == 1 and len(names := found.pop()) == 1 else ""


def tell_tables(tables: list[Columns]) -> list[str]:
    """Return lines on tables that are not read a document a row, and how they would be; first on
    those that are read all the same.
    """
    alike: dict[tuple[bool, str], list[str]] = {}
    for columns in tables:
        whole = PurePosixPath(columns.table).suffix.lower() in _READ_WHOLE
        alike.setdefault((whole, columns.names()), []).append(columns.table)
    lines = []
    for (whole, names), files in sorted(alike.items(), key=lambda kind: (not kind[0][0], kind[1]))[
        :_NOTES
    ]:
        first = one_line(min(files))
        more = f" (and {len(files) - 1} like it)" if len(files) > 1 else ""
        state = "is read as a table; for" if whole else "has no column text and is not read; for"
        lines.append(
            f"{first}{more} {state} a document a row: SET=ingest.text_column=COLUMN "
            f"(one of {names})"
        )
    return lines


def _read(file: CorpusFile) -> dict[str, list[str]]:
    path = Path(file.place)
    rows = [dict(_flatten(row)) for row in _rows(path, "")]
    names = list(dict.fromkeys(name for row in rows for name in row))[:_COLUMNS]
    if all(value is None for row in rows for value in row.values()):
        # Of Parquet and Arrow files one column is read at a time.
        whole = {name: [dict(_flatten(row)) for row in _rows(path, name)] for name in names}
        return {
            inner: [_text(row.get(inner)) for row in rows]
            for rows in whole.values()
            for inner in dict.fromkeys(name for row in rows for name in row)
        }
    return {name: [_text(row.get(name)) for row in rows] for name in names}


def _rows(path: Path, column: str) -> list[dict[str, Any]]:
    """Return the first rows of a table; none where it cannot be read."""
    try:
        rows = islice(read_rows(path, ReadOptions(text_column=column, max_bytes=BYTES)), _ROWS)
        return [row for place, row in rows if place and isinstance(row, dict)]
    except (Unreadable, OSError, ValueError, RecursionError, pa.ArrowException):
        return []


def _flatten(row: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the columns of a row; those inside an object have dotted names."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{before}{name}.")
        elif name and name != "(more)":  # without a header there is no name
            yield f"{before}{name}", value


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
