"""Parquet files: the same rows give the same bytes however they come, and damage is found."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import choose, row_seed, sha256_file
from tasks.core.params import Params
from tasks.core.parquet import Batches, TableWriter, read_table, write_batches, write_table
from tasks.core.rows import PASSAGES
from tests.conftest import ROOT, assert_pages_are_checked, passage_table

_TABLE = pa.table({"text": [f"row {number}" for number in range(500)], "n": list(range(500))})


@pytest.mark.parametrize(
    ("rows", "size"),
    [(0, 1), (5, 1), (4096, 1000), (4096, 4096), (9001, 1000), (9001, 4096), (9001, 9000)],
)
def test_batches_give_the_bytes_of_the_whole_table(tmp_path: Path, rows: int, size: int) -> None:
    table = passage_table(rows)
    write_table(tmp_path / "whole", table)
    write_batches(
        tmp_path / "parts", (table.slice(start, size) for start in range(0, rows, size)), PASSAGES
    )
    assert sha256_file(tmp_path / "whole") == sha256_file(tmp_path / "parts")
    batches = Batches(tmp_path / "parts", PASSAGES)
    assert len(batches) == rows and all(len(batch) <= 4096 for batch in batches)
    assert pa.concat_tables([PASSAGES.empty_table(), *batches]).equals(table) and read_table(
        tmp_path / "parts"
    ).equals(table)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(pa.ArrowInvalid):
        write_batches(
            tmp_path / "parts",
            [passage_table(5), passage_table(1).drop_columns(["text"])],
            PASSAGES,
        )
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="absent is missing: run the stage that writes it"):
        list(Batches(tmp_path / "absent", PASSAGES))
    write_table(tmp_path / "old", passage_table(3).drop_columns(["section"]))
    with pytest.raises(PipelineError, match="old lacks the column 'section'"):
        list(Batches(tmp_path / "old", PASSAGES))
    write_table(tmp_path / "cut", passage_table(300))
    content = bytearray((tmp_path / "cut").read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "cut").write_bytes(content)
    with pytest.raises(PipelineError, match="cut cannot be read as Parquet"):
        list(Batches(tmp_path / "cut", PASSAGES))


def test_the_choice_takes_those_with_the_smallest_seeds(params: Params) -> None:
    keys = [f"key-{number}" for number in range(50)]
    smallest = sorted(range(50), key=lambda place: row_seed(3, "passage", keys[place]))[:7]
    assert choose(iter(keys), 7, 3, "passage").to_pylist() == sorted(smallest)
    assert (
        choose(iter(keys), 0, 3, "passage").to_pylist()
        == choose(iter(keys), 90, 3, "passage").to_pylist()
        == list(range(50))
    )


@pytest.mark.parametrize("position", [0.02, 0.3, 0.6, 0.97])
def test_a_flipped_byte_is_found(tmp_path: Path, position: float) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, _TABLE)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(PipelineError, match=r"a\.parquet cannot be read"):
        read_table(path)


def test_a_table_that_was_read_back_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    """What a killed stage finds in its journal goes out as what it had computed itself: Parquet has
    another name than Arrow for what is in a list.
    """
    table = pa.table({"item_id": ["a", "b"], "golds": [["x"], []], "scores": [[0.5], []]})
    write_table(tmp_path / "one.parquet", table)
    write_table(tmp_path / "two.parquet", read_table(tmp_path / "one.parquet"))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()


@pytest.mark.parametrize("rows", [0, 1, 4095, 4096, 9001])
def test_rows_and_tables_give_the_bytes_of_one_write(tmp_path: Path, rows: int) -> None:
    table = pa.table({"text": [f"row {n}" for n in range(rows)], "parts": [["a"]] * rows})
    table = table.cast(pa.schema([("text", pa.string()), ("parts", pa.list_(pa.string()))]))
    write_table(tmp_path / "whole", table)
    with TableWriter(tmp_path / "pieces", table.schema) as writer:
        for row in table.slice(0, rows // 2).to_pylist():
            writer.add(row)
        for start in range(rows // 2, rows, 700):
            writer.write(table.slice(start, 700))
        assert not (tmp_path / "pieces").exists()
    assert writer.rows == rows
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()


def test_a_writer_that_is_left_by_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), TableWriter(tmp_path / "rows", _TABLE.schema) as writer:
        writer.write(_TABLE)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_pages_are_checked(tmp_path: Path) -> None:
    write_table(tmp_path / "rows", _TABLE)
    assert_pages_are_checked(tmp_path / "rows")
    pq.write_table(_TABLE, tmp_path / "bare", compression="zstd")
    with pytest.raises(pytest.fail.Exception):
        assert_pages_are_checked(tmp_path / "bare")


def test_one_module_writes_parquet() -> None:
    """So that no file of a stage is without checksums."""
    writers = {
        path.relative_to(ROOT).as_posix()
        for top in ("tasks", "bonito", "flows", "scripts")
        for path in (ROOT / top).rglob("*.py")
        if re.search(r"ParquetWriter\(|\.to_parquet\(|pq\.write_table\(", path.read_text())
    }
    assert writers == {"tasks/core/parquet.py"}


def test_readers_verify_the_checksums(tmp_path: Path) -> None:
    """At the end of a column's last page some flipped bytes give another value in silence where
    they do not; both ways to read.
    """
    table = passage_table(300)
    write_table(tmp_path / "rows", table)
    content, silent = (tmp_path / "rows").read_bytes(), 0
    chunk = pq.read_metadata(tmp_path / "rows").row_group(0).column(PASSAGES.names.index("text"))
    last = chunk.dictionary_page_offset or chunk.data_page_offset
    last += chunk.total_compressed_size
    for position in range(last - 300, last):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / "cut").write_bytes(damaged)
        try:
            if pq.read_table(tmp_path / "cut").equals(table):
                continue
        except (pa.ArrowInvalid, OSError):
            continue
        silent += 1
        for read in (read_table, lambda path: list(Batches(path, PASSAGES))):
            with pytest.raises(PipelineError, match="cannot be read as Parquet"):
                read(tmp_path / "cut")
    assert silent
