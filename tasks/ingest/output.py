"""Parquet files of rows that come one by one, in bounded memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP = 4096


class Rows:
    """A Parquet file written as rows come, a row group at a time.

    The bytes depend on the rows alone.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, **row: Any) -> dict[str, Any]:
        """Add one row, and return it."""
        self._rows.append(row)
        if len(self._rows) >= _GROUP:
            self._flush()
        return row

    def close(self) -> None:
        """Write what is left and the file's end."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []
