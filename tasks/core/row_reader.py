"""Rows of a file or of a dataset on the Hugging Face hub, one at a time.

An error is one line that names the file and, where there are lines, the line.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tasks.core.errors import PipelineError
from tasks.core.secrets import hub_token

Row = dict[str, Any]

#: Text formats, which may also end in .gz, and binary formats.
_TEXT, _BINARY = (".jsonl", ".ndjson", ".csv", ".tsv"), (".parquet", ".arrow")
#: Bytes of a CSV file that are parsed at once: no row may be longer.
_BLOCK = 1 << 24


def holds_rows(path: Path) -> bool:
    """Tell from a file's name whether :func:`read_rows` reads it."""
    return path.name.endswith(_BINARY) or path.name.removesuffix(".gz").endswith(_TEXT)


def read_rows(path: Path, infer_types: bool = False) -> Iterator[Row]:
    """Yield the rows of a JSONL, CSV or TSV file (.gz too), or of a Parquet or Arrow file.

    CSV cells are text. With ``infer_types`` a CSV column is one of numbers or truth values if its
    first 16 megabytes are, and if they print as they were written: ``007`` and ``12.50`` are text.
    """
    if not holds_rows(path):
        raise PipelineError(
            f"{path}: rows must be in a file of {', '.join(_TEXT)} (.gz too), "
            f"{' or '.join(_BINARY)}"
        )
    suffix = Path(path.name.removesuffix(".gz")).suffix
    try:
        if suffix in (".jsonl", ".ndjson"):
            yield from (
                _parse(line, f"{path} line {number}")
                for number, line in read_lines(path)
                if line.strip()
            )
        else:
            for batch in _read_batches(path, suffix, infer_types):
                yield from batch.to_pylist()
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except (OSError, ValueError, OverflowError, csv.Error, pa.ArrowException) as error:
        raise PipelineError(f"{path} cannot be read: {error}") from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of a UTF-8 file, which may be packed with gzip."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"{path} line {number} is not UTF-8: save the file as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise PipelineError(f"{path} cannot be read after line {number}: {error}") from error


def read_hub_rows(
    name: str, config: str, split: str, revision: str = "", label_names: bool = False
) -> Iterator[Row]:
    """Stream the rows of a dataset on the hub; ``label_names`` replaces label numbers by names."""
    from datasets import ClassLabel, load_dataset  # type: ignore[attr-defined]

    try:
        rows = load_dataset(
            name,
            config or None,
            split=split,
            revision=revision or None,
            streaming=True,
            token=hub_token(),
        )
        labels = {
            column: kind
            for column, kind in (rows.features or {}).items()
            if label_names and isinstance(kind, ClassLabel)
        }
        for row in rows:
            yield row | {column: kind.int2str(row[column]) for column, kind in labels.items()}
    except Exception as error:  # the hub's client raises many kinds
        raise PipelineError(
            f"hub dataset {name!r} cannot be read: {type(error).__name__}: {error}"
        ) from error


def read_arrow_batches(source: Any) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an open Arrow file or Arrow stream."""
    reader = open_arrow(source)
    if isinstance(reader, pa.RecordBatchReader):
        yield from reader
        return
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def open_arrow(source: Any) -> Any:
    """Return a ``pa.RecordBatchFileReader`` of an open Arrow file, of whose batches each can be
    read alone; or the ``pa.RecordBatchReader`` of an Arrow stream.
    """
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _parse(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{where} is not valid JSON: {error}") from error
    if not isinstance(row, dict):
        raise PipelineError(f"{where} is not a JSON object")
    if "\\ud" in line.lower():
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            # No file could hold it: a later stage would end in a trace.
            raise PipelineError(
                f"{where} has half a character (a lone \\ud... escape): write it whole"
            ) from error
    return row


def _read_batches(path: Path, suffix: str, infer_types: bool) -> Iterator[pa.RecordBatch]:
    if suffix == ".parquet":
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield from file.iter_batches(1024)
    elif suffix == ".arrow":
        with pa.memory_map(str(path)) as source:
            yield from read_arrow_batches(source)
    else:
        yield from _read_csv(path, "," if suffix == ".csv" else "\t", infer_types)


def _read_csv(path: Path, delimiter: str, infer_types: bool) -> Iterator[pa.RecordBatch]:
    header = next(_split_lines(path, delimiter), None)
    if header is None:
        return
    names = header[1]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PipelineError(
            f"{path} line 1 has the column {twice!r} twice: give each a name of its own"
        )
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK)
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)

    def read_as(types: dict[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        convert = pyarrow.csv.ConvertOptions(column_types=types)
        with pyarrow.csv.open_csv(path, read, parse, convert) as batches:
            yield from batches

    types = dict.fromkeys(names, pa.string())
    try:
        if infer_types:
            texts, values = next(read_as(types), None), next(read_as({}), None)
            if texts is not None and values is not None:
                types |= _printable_types(texts, values)
        yield from read_as(types)
    except (pa.ArrowInvalid, OSError):
        _find_broken_line(path, delimiter, len(names))
        raise


def _printable_types(texts: pa.RecordBatch, values: pa.RecordBatch) -> dict[str, pa.DataType]:
    """Return the types of the number and truth columns whose values print as their cells."""
    return {
        field.name: field.type
        for field in values.schema
        if pa.types.is_boolean(field.type)
        or (
            (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
            and all(
                text == ("" if value is None else str(value))
                for text, value in zip(
                    texts[field.name].to_pylist(), values[field.name].to_pylist(), strict=True
                )
            )
        )
    }


def _find_broken_line(path: Path, delimiter: str, columns: int) -> None:
    """Raise an error that names the first broken line of a CSV file: Arrow does not name it.

    A line is broken if it cannot be read or has another number of cells than the header.
    """
    for number, cells in _split_lines(path, delimiter):
        if cells and len(cells) != columns:
            raise PipelineError(
                f"{path} line {number} has {len(cells)} cells, the header has {columns}"
            )


def _split_lines(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(_BLOCK)
    reader = csv.reader((line for _, line in read_lines(path)), delimiter=delimiter)
    yield from ((reader.line_num, cells) for cells in reader)
