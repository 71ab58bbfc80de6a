"""Files that go through memory in batches: the same bytes, the same errors, and the same choice as
when they are read whole.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core.batches import Batches, write_batches
from tasks.core.errors import PipelineError
from tasks.core.files import choose, read_table, row_seed, sha256_file, write_table
from tasks.core.params import Params
from tasks.core.rows import PASSAGES
from tests.conftest import passage_table


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
    with pytest.raises(PipelineError, match="absent is missing"):
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
