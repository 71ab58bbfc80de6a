"""CSV, TSV, JSONL, JSON, Parquet and Arrow: every row is a document, read as a stream."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tasks.ingest.readers import columnar, delimited
from tasks.ingest.readers.columns import TableRow, get_text
from tasks.ingest.readers.decoding import decode, tidy
from tasks.ingest.readers.detect import ARROW, PARQUET
from tasks.ingest.readers.document import (
    Builder,
    Document,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
)
from tasks.ingest.readers.markdown import find_headings

#: Characters of one document of a table that is read as a whole.
_TABLE_CHARS = 1 << 20
#: Bytes of text that a byte of a Parquet or Arrow file may stand for; 10 are usual.
_MOST_RATIO = 100
#: Bytes that a row counts for at least.
_LEAST_ROW = 100
#: Rows of which one must have the text's column.
_FIRST_ROWS = 100


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield one document a row from ``options.text_column``, by default ``text``.

    Raises :class:`Unreadable` where the first rows lack the column (:func:`read_texts`). By
    default, a CSV or TSV file without it is read as a table (:func:`read_table`).
    """
    name, rows = _format(path), read_rows(path, options)
    titles: list[tuple[int, dict[str, Any]]] = []
    first = next(rows, None)
    while first and first[0] == delimited.TITLE and isinstance(first[1], dict):
        titles.append((delimited.TITLE, first[1]))
        first = next(rows, None)
    broken: list[TableRow] = []
    # Only a row that can be read tells which columns there are.
    while first and isinstance(first[1], Unreadable) and len(broken) < _FIRST_ROWS:
        broken.append(first)
        first = next(rows, None)
    rows = chain(broken, [first] if first else [], rows)
    by_default = not options.text_column and name in ("csv", "tsv")
    lacks_text = first and not (isinstance(first[1], Unreadable) or "text" in first[1])
    if by_default and (lacks_text or not (first or broken)):
        yield from read_table(chain(titles, rows), name)
    else:
        for _, row in titles:
            detail = f"a line above the header: {get_text(row, '')[:100]}"
            yield Reject("", "no_text_column", detail)
        yield from read_texts(rows, name, options.text_column or "text")


def _format(path: Path) -> str:
    """Return a table's format, by its first bytes, else by its suffix."""
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(PARQUET):
        return "parquet"
    if head == ARROW:
        return "arrow"
    suffix = path.suffix.lower().lstrip(".")
    return {"ndjson": "jsonl", "tab": "tsv", "feather": "arrow"}.get(suffix, suffix)


def read_texts(rows: Iterable[TableRow], format: str, column: str) -> Iterator[ReaderItem]:
    """Yield one document a row from ``column``; a row without it is a reject.

    Raises :class:`Unreadable` where none of the first :data:`_FIRST_ROWS` rows has it.
    """
    items = (_read_text(place, row, format, column) for place, row in rows)
    # Rejects are small, and the first row with the column ends the wait for it.
    first: list[Document | Reject] = []
    for item in islice(items, _FIRST_ROWS):
        first.append(item)
        if isinstance(item, Document) or item.reason == "empty":
            break
    else:
        rejects = [item for item in first if isinstance(item, Reject)]
        lacking = [reject for reject in rejects if reject.reason == "no_text_column"]
        if lacking:
            yield from (reject for reject in rejects if reject not in lacking)
            raise Unreadable("no_text_column", lacking[0].detail)
    yield from first
    yield from items


def _read_text(
    place: int, row: dict[str, Any] | Unreadable, format: str, column: str
) -> Document | Reject:
    member = f"#{place}"
    try:
        if isinstance(row, Unreadable):
            raise row
        text = tidy(get_text(row, column))
    except Unreadable as problem:
        return Reject(member, problem.reason, problem.detail)
    if text.strip():
        return Document(text, format, member, find_headings(text))
    return Reject(member, "empty", f"nothing in column {column!r}")


def read_table(rows: Iterable[TableRow], format: str, title: str = "") -> Iterator[ReaderItem]:
    """Yield a table as documents of about :data:`_TABLE_CHARS`, each below ``title``: a row a line,
    each cell with its column's name, if it has one, so that a passage is clear without the header.
    """
    builder, first, last, divided = Builder(separator="\n"), 0, 0, False
    builder.heading(1, title)
    for place, row in rows:
        if isinstance(row, Unreadable):
            yield Reject(f"#{place}", row.reason, row.detail)
            continue
        named = ((name, value) for name, value in row.items() if name is not None)
        cells = ((_one_line(name), _one_line(value)) for name, value in named)
        builder.paragraph(
            " | ".join(f"{name}: {value}" if name else value for name, value in cells if value)
        )
        first, last = first or place, place
        if builder.length > _TABLE_CHARS:
            yield builder.document(format, member=f"#{first}-{last}")
            builder, first, divided = Builder(separator="\n"), 0, True
            builder.heading(1, title)
    if first or not divided:
        yield builder.document(format, member=f"#{first}-{last}" if divided else "")


def _one_line(value: Any) -> str:
    parts = value if isinstance(value, list) else [value]
    texts = (str(part) for part in parts if part is not None)
    return " ".join(tidy(" ".join(texts)).split())


def read_rows(path: Path, options: ReadOptions) -> Iterator[TableRow]:
    """Yield the rows of a table file, by its signature and suffix.

    Raises :class:`Unreadable` where the whole file cannot be read.
    """
    name, column = _format(path), options.text_column or "text"
    if name == "parquet":
        return _refuse_bomb(columnar.read_parquet(path, column), path, options)
    if name == "arrow":
        return _refuse_bomb(columnar.read_arrow(path, column), path, options)
    if name in ("csv", "tsv"):
        return delimited.read(path, options, "\t" if name == "tsv" else "", column)
    return _json(path, options) if name == "json" else _jsonl(path, options)


def _refuse_bomb(rows: Iterable[TableRow], path: Path, options: ReadOptions) -> Iterator[TableRow]:
    """Yield rows; raise :class:`Unreadable` where they have more text than such a file can hold.

    A text that is written once may be that of a billion rows.
    """
    most = max(4 * options.max_bytes, _MOST_RATIO * path.stat().st_size)
    left = most
    for place, row in rows:
        values = row.values() if isinstance(row, dict) else ()
        left -= max(_LEAST_ROW, *(len(str(value)) for value in values), 0)
        if left < 0:
            detail = f"more than {most >> 20} MiB of text in {path.stat().st_size >> 10} KiB"
            raise Unreadable("too_large", f"{detail}: the rows from {place} on are left out")
        yield place, row


def _jsonl(path: Path, options: ReadOptions) -> Iterator[TableRow]:
    with path.open("rb") as stream:
        if b"\0" in stream.read(4):  # UTF-16 or UTF-32, which has no lines of bytes
            yield from _parse_lines(decode(_read_whole(path, options))[0])
            return
        stream.seek(0)
        for place, line in enumerate(_lines(stream, options.max_bytes), 1):
            if line is None:
                yield (
                    place,
                    Unreadable("too_large", f"a line of more than {options.max_bytes >> 20} MiB"),
                )
            elif line.strip():
                yield place, _parse_object(line)


def _lines(stream: io.BufferedReader, limit: int) -> Iterator[bytes | None]:
    """Yield lines, and None for a line of more than ``limit`` bytes, which is never held whole."""
    while line := stream.readline(limit + 1):
        if len(line) <= limit:
            yield line.removeprefix(b"\xef\xbb\xbf")
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(1 << 20)
        yield None


def _parse_lines(text: str) -> Iterator[TableRow]:
    for place, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield place, _parse_object(line)


def _parse_object(line: bytes | str) -> dict[str, Any] | Unreadable:
    try:
        value = json.loads(line)
    except RecursionError:
        return Unreadable("nested_too_deep", "values inside values inside values ...")
    except ValueError as error:
        return Unreadable("damaged", f"not a JSON object: {type(error).__name__} {error}")
    return _as_row(value)


def _as_row(value: Any) -> dict[str, Any] | Unreadable:
    if isinstance(value, str):
        return {"text": value}
    return value if isinstance(value, dict) else Unreadable("damaged", "not a JSON object")


def _read_whole(path: Path, options: ReadOptions) -> bytes:
    """Return the bytes of a table that cannot be streamed."""
    size = path.stat().st_size
    if size > options.max_bytes:
        raise Unreadable(
            "too_large",
            f"{size >> 20} MiB, the most is {options.max_bytes >> 20}: save it as UTF-8 JSON "
            "Lines, those are streamed",
        )
    return path.read_bytes()


def _json(path: Path, options: ReadOptions) -> Iterator[TableRow]:
    text, _ = decode(_read_whole(path, options))
    try:
        value = json.loads(text)
    except ValueError as error:
        # JSON Lines under the wrong name is common.
        rows = _parse_lines(text)
        first = next(rows, None)
        if first and isinstance(first[1], dict) and "\n" in text.strip():
            yield from chain([first], rows)
            return
        raise Unreadable("damaged", f"not valid JSON: {type(error).__name__} {error}") from error
    for place, row in enumerate(value if isinstance(value, list) else [value], 1):
        yield place, _as_row(row)
