"""A damaged part of a file (a row group, a slide, a page) costs that part, with its reason; the
parts before and behind it are read, under their own numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable


def _read(path: Path, **options: Any) -> tuple[list[Document], list[Reject]]:
    found = list(detect.read(path, ReadOptions(**options)))
    return (
        [item for item in found if isinstance(item, Document)],
        [item for item in found if isinstance(item, Reject)],
    )


def _rows(count: int) -> pa.Table:
    texts = [f"Row {number} of the pump's log. " * 5 for number in range(1, count + 1)]
    return pa.table({"id": range(count), "text": texts})


def _overwrite(path: Path, start: int, end: int) -> None:
    data = bytearray(path.read_bytes())
    data[start:end] = b"\xab" * (end - start)
    path.write_bytes(data)


def _break_groups(path: Path, *groups: int) -> None:
    metadata = pq.read_metadata(path)
    for group in groups:
        texts = metadata.row_group(group).column(1)
        start = texts.dictionary_page_offset or texts.data_page_offset
        _overwrite(path, start, start + texts.total_compressed_size)


@pytest.mark.parametrize("groups", [(1,), (0, 3), (5,)])
def test_a_row_group_that_is_damaged_costs_its_rows(
    tmp_path: Path, groups: tuple[int, ...]
) -> None:
    pq.write_table(_rows(6000), tmp_path / "a.parquet", row_group_size=1000)
    _break_groups(tmp_path / "a.parquet", *groups)
    documents, rejects = _read(tmp_path / "a.parquet")
    lost = {1000 * group + number for group in groups for number in range(1, 1001)}
    assert [document.member for document in documents] == [
        f"#{number}" for number in range(1, 6001) if number not in lost
    ]
    assert all(item.text.startswith(f"Row {item.member[1:]} of") for item in documents)
    assert [(item.member, item.reason) for item in rejects] == [
        (f"#{1000 * group + 1}", "damaged") for group in groups
    ]
    for item, group in zip(rejects, groups, strict=True):
        rows = f"rows {1000 * group + 1}-{1000 * group + 1000} (row group {group + 1}): "
        assert item.detail.startswith(rows)


def test_a_parquet_file_without_a_good_row_group_is_one_reject(tmp_path: Path) -> None:
    pq.write_table(_rows(300), tmp_path / "a.parquet", row_group_size=100)
    _break_groups(tmp_path / "a.parquet", 0, 1, 2)
    with pytest.raises(Unreadable, match=r"no part of it .*: rows 1-100 \(row group 1\)"):
        _read(tmp_path / "a.parquet")


def _write_arrow(path: Path, opened: Callable[..., Any], compression: str | None) -> list[int]:
    """Write six batches of 1,000 rows, and return where each begins."""
    table = _rows(6000)
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(path), "wb") as sink,
        opened(sink, table.schema, options=options) as writer,
    ):
        places = []
        for batch in table.to_batches(max_chunksize=1000):
            places.append(sink.tell())
            writer.write_batch(batch)
        return places


#: Bytes of a message's header at most.
_HEADER = 240


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_record_batch_that_is_damaged_costs_its_rows(
    tmp_path: Path, compression: str | None
) -> None:
    path = tmp_path / "a.arrow"
    places = _write_arrow(path, pa.ipc.new_file, compression)
    _overwrite(path, places[2] + _HEADER, places[3])
    documents, (reject,) = _read(path)
    assert [document.member for document in documents] == [
        f"#{number}" for number in range(1, 6001) if not 2000 < number <= 3000
    ]
    assert documents[-1].text.startswith("Row 6000 of")
    assert (reject.member, reject.reason) == ("#2001", "damaged")
    assert reject.detail.startswith("rows 2001-3000 (record batch 3): ")


def test_a_record_batch_whose_header_is_damaged_says_that_its_rows_are_not_counted(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.arrow"
    places = _write_arrow(path, pa.ipc.new_file, None)
    _overwrite(path, places[2], places[2] + 40)
    documents, (reject,) = _read(path)
    assert len(documents) == 5000 and documents[2000].text.startswith("Row 3001 of")
    assert reject.detail.startswith("rows that the numbers below leave out (record batch 3): ")


def test_an_arrow_stream_is_read_up_to_its_damaged_batch(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    places = _write_arrow(path, pa.ipc.new_stream, "zstd")
    _overwrite(path, places[2] + _HEADER, places[3])
    found: list[Any] = []
    with pytest.raises(Unreadable, match="damaged: a stream, which .* behind row 2000: .*ZSTD"):
        for item in detect.read(path, ReadOptions()):
            found.append(item)
    assert [item.member for item in found] == [f"#{number}" for number in range(1, 2001)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "line",
    [
        "50," + "long " * 5000,
        '50,"' + 'a ""long"" text, ' * 2000 + '"',
        '50,"two lines' + "{end}" + "long " * 5000 + '"',
        '50,"' + "long " * 5000 + "{end}" + 'two lines"',
    ],
)
@pytest.mark.parametrize("head", ["id,text", "id,note"])
def test_a_line_of_a_csv_file_that_is_too_long_costs_its_row(
    tmp_path: Path, line: str, end: str, head: str
) -> None:
    rows = [f'{number},"Row {number}, of the pump"' for number in range(1, 101)]
    rows[49] = line.replace("{end}", end)
    (tmp_path / "a.csv").write_bytes(end.join([head, *rows, ""]).encode())
    documents, (reject,) = _read(tmp_path / "a.csv", max_bytes=5000)
    numbers = [number for number in range(1, 101) if number != 50]
    if head == "id,text":
        assert [document.member for document in documents] == [f"#{n}" for n in numbers]
        texts = [document.text for document in documents]
        assert texts == [f"Row {number}, of the pump" for number in numbers]
    else:  # no column of texts: it is read as a table
        lines = [f"id: {number} | note: Row {number}, of the pump" for number in numbers]
        assert documents[0].text.split("\n")[:-1] == lines
    assert (reject.member, reject.reason) == ("#50", "too_large")


def test_a_csv_file_whose_header_is_too_long_is_one_reject(tmp_path: Path) -> None:
    for head in ("text," + "long " * 2000, "title " * 2000 + "\nid,text"):
        (tmp_path / "a.csv").write_text(f"{head}\n1,one row\n2,another row\n")
        with pytest.raises(Unreadable, match="too_large: a line of more than 0 MiB"):
            _read(tmp_path / "a.csv", max_bytes=5000)
