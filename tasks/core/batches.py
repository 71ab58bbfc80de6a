"""Parquet files that go through memory a batch at a time, however long they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.files import GROUP, atomic_path, readable
from tasks.core.rows import require


@dataclass(frozen=True)
class Batches:
    """A file's rows as tables of ``schema``, at most 4096 rows each, read anew whenever it is
    iterated over. Checksums are verified.
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
            for batch in file.iter_batches(GROUP, columns=self.schema.names):
                yield require(pa.Table.from_batches([batch]), self.schema, self.path)


def write_batches(path: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write tables of one schema as one Parquet file.

    The bytes are those of :func:`tasks.core.files.write_table` of all of them together.
    """
    with (
        atomic_path(path) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True) as file,
    ):
        held, written = schema.empty_table(), False
        for table in tables:
            held = pa.concat_tables([held, table])
            while len(held) >= GROUP:
                file.write_table(held.slice(0, GROUP).combine_chunks())
                # A copy: a slice would keep alive what was written.
                held, written = (
                    pa.concat_tables([schema.empty_table(), held.slice(GROUP)]).combine_chunks(),
                    True,
                )
        if len(held) or not written:
            file.write_table(held.combine_chunks())
