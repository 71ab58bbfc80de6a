"""Parquet and Arrow: a damaged row group or record batch costs its own rows, and the others keep
their numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.row_reader import open_arrow
from tasks.ingest.readers.columns import TableRow, find_column
from tasks.ingest.readers.document import Unreadable, explain

_DAMAGED = (pa.ArrowException, OSError)
#: Rows that are read at a time.
_ROWS = 256
#: Bytes before the first message of an Arrow file.
_ARROW_HEAD = 8


@dataclass(frozen=True)
class _Part:
    """A row group or record batch: its name, its batches, and how many rows it has, which may be
    unknown (None).
    """

    name: str
    batches: Callable[[], Iterable[pa.RecordBatch]]
    count: Callable[[], int | None]


def read_parquet(path: Path, column: str) -> Iterator[TableRow]:
    """Yield the rows of a Parquet file. A row group that cannot be read is one
    :class:`Unreadable` at its first row that is lost.

    Raises :class:`Unreadable` where no row group can be read, and an error of Arrow's where the
    file cannot be opened.
    """
    with pq.ParquetFile(path) as file:
        name = find_column(file.schema_arrow.names, column)
        read = partial(file.iter_batches, batch_size=_ROWS, columns=[name] if name else None)
        done = 0
        try:
            for batch in read():
                yield from _rows_of(batch, column, done)
                done += batch.num_rows
            return
        except _DAMAGED:
            # A batch lies across small groups. Which one is damaged shows where each is read
            # alone: that takes longer, so only now.
            parts = (
                _Part(
                    f"row group {group + 1}",
                    partial(read, row_groups=[group]),
                    partial(_count_group, file, group),
                )
                for group in range(file.num_row_groups)
            )
        yield from _read_parts(parts, column, done)


def read_arrow(path: Path, column: str) -> Iterator[TableRow]:
    """Yield the rows of an Arrow file or stream: the format in which ``datasets`` saves. A record
    batch of a file that cannot be read is one :class:`Unreadable`.

    Raises :class:`Unreadable` where no record batch of the file can be read, or where a stream
    cannot be read on: where its next batch begins is then unknown. Raises an error of Arrow's where
    the file cannot be opened.
    """
    with pa.memory_map(str(path)) as source:
        reader = open_arrow(source)
        if isinstance(reader, pa.RecordBatchReader):
            yield from _read_stream(reader, column)
            return
        counts = cache(partial(_count_rows, path))
        parts = (
            _Part(
                f"record batch {number + 1}",
                partial(_read_batch, reader, number, column),
                partial(_count_batch, counts, number),
            )
            for number in range(reader.num_record_batches)
        )
        yield from _read_parts(parts, column)


def _read_stream(batches: Iterable[pa.RecordBatch], column: str) -> Iterator[TableRow]:
    done = 0
    try:
        for whole in batches:
            for batch in _slices(whole, column):
                yield from _rows_of(batch, column, done)
                done += batch.num_rows
    except _DAMAGED as error:
        problem = explain(error)
        detail = f"a stream, which ends for its reader behind row {done}: {problem.detail}"
        raise Unreadable(problem.reason, detail) from error


def _read_parts(parts: Iterable[_Part], column: str, done: int = 0) -> Iterator[TableRow]:
    """Yield the rows after the first ``done`` ones, and an :class:`Unreadable` for each part that
    cannot be read, at its first row that is lost.

    Raises :class:`Unreadable` where no part can be read.
    """
    begin, is_read = 0, done > 0
    lost: list[tuple[int, Unreadable]] = []
    for part in parts:
        if begin < done and begin + (part.count() or 0) <= done:
            begin += part.count() or 0
            continue
        place = begin
        try:
            for batch in part.batches():
                if place + batch.num_rows > done:
                    yield from lost
                    lost, is_read = [], True
                    new = batch.slice(max(done - place, 0))
                    yield from _rows_of(new, column, max(done, place))
                place += batch.num_rows
        except _DAMAGED as error:
            problem, count = explain(error), part.count()
            place = max(done, place)
            end = place if count is None else max(begin + count, place)
            rows = (
                "rows that the numbers below leave out"
                if count is None
                else f"rows {place + 1}-{end}"
            )
            detail = f"{rows} ({part.name}): {problem.detail}"
            lost.append((place + 1, Unreadable(problem.reason, detail)))
            place = end
            if is_read:
                yield from lost
                lost = []
        begin = place
    if lost:
        problem = lost[0][1]
        raise Unreadable(problem.reason, f"no part of it can be read: {problem.detail}")


def _count_rows(path: Path) -> list[int]:
    """Return the rows of each record batch of an Arrow file, as its header says, up to the first
    header that cannot be read.
    """
    counts = []
    with pa.memory_map(str(path)) as source:
        source.seek(_ARROW_HEAD)
        try:
            for message in pa.ipc.MessageReader.open_stream(source):
                if message.type == "record batch":
                    # Without columns nothing but the header is read.
                    counts.append(pa.ipc.read_record_batch(message, pa.schema([])).num_rows)
        except _DAMAGED:
            return counts
    return counts


def _count_group(file: pq.ParquetFile, group: int) -> int:
    return int(file.metadata.row_group(group).num_rows)


def _count_batch(counts: Callable[[], list[int]], number: int) -> int | None:
    return next(islice(counts(), number, None), None)


def _read_batch(reader: Any, number: int, column: str) -> Iterator[pa.RecordBatch]:
    yield from _slices(reader.get_batch(number), column)


def _slices(batch: pa.RecordBatch, column: str) -> Iterator[pa.RecordBatch]:
    """Yield a record batch of Arrow in pieces.

    Raises ``pa.ArrowInvalid`` where a text would begin or end outside the batch: as the file is in
    memory as it is, the process would end of it. That a text is UTF-8 is seen at its row.
    """
    name = find_column(batch.schema.names, column)
    if name:
        texts = batch.column(name)
        if pa.types.is_string(texts.type):
            texts.view(pa.binary()).validate(full=True)
        elif pa.types.is_large_string(texts.type):
            texts.view(pa.large_binary()).validate(full=True)
        else:
            texts.validate()
    for start in range(0, batch.num_rows, _ROWS):
        yield batch.slice(start, _ROWS)


def _rows_of(batch: pa.RecordBatch, column: str, before: int) -> Iterator[TableRow]:
    """Yield a batch's rows with the text's column alone: a value of another column that Python
    cannot hold (a date of the year 10,000) costs nothing. Without the column: the names, no values.
    """
    name = find_column(batch.schema.names, column)
    if not name:
        empty: dict[str, Any] = dict.fromkeys(batch.schema.names)
        yield from ((before + number, empty) for number in range(1, batch.num_rows + 1))
        return
    for number, value in enumerate(batch.column(name), before + 1):
        try:
            yield number, {name: value.as_py()}
        except (pa.ArrowException, ValueError, OverflowError) as error:
            yield number, explain(error)
