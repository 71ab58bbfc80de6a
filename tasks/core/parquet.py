"""Parquet tables of every stage, written with page checksums that readers verify."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path
from tasks.core.rows import PASSAGES, require

#: Rows of a row group, and the most rows of a batch.
GROUP = 4096


class TableWriter:
    """One Parquet file, written from rows and tables in bounded memory, whole or not at all.

    The bytes depend on the rows and their order alone, not on the pieces they came in. Use it as a
    context manager; :meth:`close` may end the file earlier.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = _with_arrow_names(schema)
        self._waiting_rows: list[dict[str, Any]] = []
        self._waiting: list[pa.Table] = []
        self._waiting_count = 0
        self._stack = contextlib.ExitStack()
        partial = self._stack.enter_context(atomic_path(path))
        self._file = self._stack.enter_context(
            pq.ParquetWriter(partial, self._schema, compression="zstd", write_page_checksum=True)
        )

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stack.__exit__(kind, error, trace)

    def add(self, row: dict[str, Any]) -> None:
        """Write one row; a column that it lacks is null."""
        self._waiting_rows.append(row)
        if len(self._waiting_rows) == GROUP:
            self._take_rows()

    def write(self, table: pa.Table) -> None:
        """Write the rows of a table that has the file's columns."""
        self._take_rows()
        self._take(table)

    def close(self) -> None:
        """Write the waiting rows and rename the file; a second call does nothing."""
        if not self._file.is_open:
            return
        with self._stack:
            self._take_rows()
            if self._waiting_count or not self.rows:
                self._write_groups(self._join_waiting(), self._waiting_count)

    def _take_rows(self) -> None:
        if self._waiting_rows:
            self._take(pa.Table.from_pylist(self._waiting_rows, self._schema))
            self._waiting_rows = []

    def _take(self, table: pa.Table) -> None:
        self.rows += len(table)
        self._waiting.append(table)
        self._waiting_count += len(table)
        if self._waiting_count >= GROUP:
            joined = self._join_waiting()
            whole = len(joined) - len(joined) % GROUP
            self._write_groups(joined, whole)
            # A copy: a slice would keep the written rows in memory.
            rest = pa.concat_tables([self._schema.empty_table(), joined.slice(whole)])
            self._waiting, self._waiting_count = [rest.combine_chunks()], len(rest)

    def _join_waiting(self) -> pa.Table:
        tables = [table.cast(_with_arrow_names(table.schema)) for table in self._waiting]
        return pa.concat_tables([self._schema.empty_table(), *tables])

    def _write_groups(self, table: pa.Table, rows: int) -> None:
        for start in range(0, max(rows, 1), GROUP):
            self._file.write_table(table.slice(start, min(GROUP, rows - start)).combine_chunks())


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as one Parquet file, see :class:`TableWriter`."""
    write_batches(path, [table], table.schema)


def write_batches(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema as one Parquet file, see :class:`TableWriter`."""
    with TableWriter(path, schema) as writer:
        for table in tables:
            writer.write(table)


def _with_arrow_names(schema: pa.Schema) -> pa.Schema:
    """Return the schema with Arrow's default name for the values of a list.

    A table read from Parquet has another name there, and the name is part of the file's bytes.
    """
    return pa.schema(
        [
            field.with_type(pa.list_(field.type.value_type))
            if pa.types.is_list(field.type)
            else field
            for field in schema
        ],
        schema.metadata,
    )


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file; a :class:`PipelineError` names a missing or damaged one."""
    with readable(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def need_columns(path: Path, columns: list[str], setting: str, takes: str) -> None:
    """Refuse a file that the user names in a setting where it is no Parquet or lacks a column;
    ``takes`` says what it should be.
    """
    try:
        present = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{setting}: {path} cannot be read as Parquet: {takes}") from error
    missing = [name for name in columns if name not in present]
    if missing:
        raise PipelineError(f"{setting}: {path} has no column {missing[0]!r}: {takes}")


@dataclass(frozen=True)
class Batches:
    """A file's rows as tables of ``schema``, at most 4096 rows each.

    Every iteration reads the file again and verifies its checksums.
    """

    path: Path
    schema: pa.Schema

    def __len__(self) -> int:
        """Return the file's rows."""
        with readable(self.path):
            return int(pq.read_metadata(self.path).num_rows)

    def __iter__(self) -> Iterator[pa.Table]:
        """Yield the batches; a missing column is an error that names it."""
        # Buffering ahead would keep the whole file in memory.
        with (
            readable(self.path),
            pq.ParquetFile(self.path, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            require(file.schema_arrow.empty_table(), self.schema, self.path)
            # One thread: each of several keeps memory of its own, and a batch is small.
            for batch in file.iter_batches(GROUP, columns=self.schema.names, use_threads=False):
                yield require(pa.Table.from_batches([batch]), self.schema, self.path)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as Python objects, those of one batch at a time."""
        for table in self:
            yield from table.to_pylist()


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn errors of a missing or damaged Parquet file into a :class:`PipelineError` naming it."""
    try:
        yield
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing: run the stage that writes it") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(
            f"{path} cannot be read as Parquet ({error}): delete it and run its stage again"
        ) from error


def concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Concatenate tables of one schema; no tables give an empty table."""
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def gather(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return rows, each the values of the schema's columns, as a table; Python objects are held of
    4096 rows at once.
    """
    left, parts = iter(rows), []
    while batch := list(islice(left, GROUP)):
        columns = zip(*batch, strict=True)
        arrays = [
            pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)
        ]
        parts.append(pa.table(arrays, schema=schema))
    return concat(parts, schema)


def column_values(batches: Iterable[pa.Table], name: str) -> Iterator[Any]:
    """Yield the values of a column as Python objects, those of one batch at a time."""
    for batch in batches:
        yield from batch[name].to_pylist()


def passage_texts(passages: Path) -> Iterator[str]:
    """Yield the texts of a file of passages (rows.PASSAGES), those of one batch at a time."""
    return column_values(Batches(passages, pa.schema([PASSAGES.field("text")])), "text")


def take_rows(batches: Iterable[pa.Table], places: np.ndarray) -> Iterator[pa.Table]:
    """Yield the rows at ``places`` (int64, ascending) of all batches together, batch by batch."""
    start = 0
    for batch in batches:
        first, last = np.searchsorted(places, [start, start + len(batch)])
        yield batch.take(pa.array(places[first:last] - start))
        start += len(batch)


def rows_at(batches: Iterable[pa.Table], places: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield the rows at ``places`` as :func:`take_rows` does, as Python objects."""
    for batch in take_rows(batches, places):
        yield from batch.to_pylist()
