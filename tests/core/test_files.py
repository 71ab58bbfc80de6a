"""Files are whole or absent, and the same rows give the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import (
    MANIFEST,
    atomic_path,
    fingerprint,
    keep_newest,
    read_json,
    read_sealed,
    read_table,
    row_seed,
    sha256_file,
    staged_folder,
    sweep,
    verify,
    write_json,
    write_manifest,
    write_sealed,
    write_table,
)

_TABLE = pa.table({"text": [f"row {number}" for number in range(500)], "n": list(range(500))})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": True})
    with pytest.raises(RuntimeError), atomic_path(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"old": True} and [child.name for child in tmp_path.iterdir()] == [
        "a.json"
    ]


def test_a_failed_stage_leaves_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        staged_folder(tmp_path / "out", tmp_path / "scratch") as folder,
    ):
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_newest_entries_stay_and_the_one_in_use(tmp_path: Path) -> None:
    for age, name in enumerate("abcd"):
        (tmp_path / name).mkdir() if age % 2 else (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    keep_newest(tmp_path, 2, keep=tmp_path / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]
    keep_newest(tmp_path, 5)
    assert len(list(tmp_path.iterdir())) == 3
    keep_newest(tmp_path, 0, keep=tmp_path / "c")
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_staged_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with staged_folder(tmp_path / "out", tmp_path / "scratch") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    write_table(tmp_path / "one.parquet", _TABLE)
    write_table(
        tmp_path / "two.parquet",
        pa.concat_tables([_TABLE.slice(0, 100), _TABLE.slice(100)]).combine_chunks(),
    )
    assert sha256_file(tmp_path / "one.parquet") == sha256_file(tmp_path / "two.parquet")


@pytest.mark.parametrize("position", [0.02, 0.3, 0.6, 0.97])
def test_a_flipped_byte_is_found(tmp_path: Path, position: float) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, _TABLE)
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(PipelineError, match=r"a\.parquet cannot be read"):
        read_table(path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="run the stage that writes it"):
        read_table(tmp_path / "absent.parquet")


def test_fingerprints_and_seeds_depend_on_values_and_order_alone() -> None:
    assert fingerprint("a", {"x": 1, "y": 2}) == fingerprint("a", {"y": 2, "x": 1})
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    # Written down so that a change of the rule, which would change every sample, cannot pass
    # unseen.
    assert (
        row_seed(1, "passage", "exqa", 0)
        == row_seed(1, "passage", "exqa", 0)
        != row_seed(2, "passage", "exqa", 0)
    )
    assert 0 <= row_seed(1, "x") < 2**31


@pytest.mark.parametrize("position", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_sealed_table_is_taken_only_whole(tmp_path: Path, position: float) -> None:
    """Also where the byte stands in Parquet's footer, which its own checksums do not cover."""
    path = tmp_path / "shard.parquet"
    assert read_sealed(path) is None
    write_sealed(path, _TABLE)
    assert read_sealed(path) == _TABLE
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(PipelineError, match=r"shard\.parquet is damaged"):
        read_sealed(path)


def test_a_table_without_its_seal_does_not_count(tmp_path: Path) -> None:
    write_sealed(tmp_path / "shard.parquet", _TABLE)
    (tmp_path / "shard.sha256").unlink()
    assert read_sealed(tmp_path / "shard.parquet") is None


def test_what_a_stage_wrote_is_checked_and_what_a_user_brings_is_not(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_json(tmp_path / "mine" / "manifest.json", [1])
    verify(tmp_path / "mine")
    verify(tmp_path / "mine" / "manifest.json")
    write_table(tmp_path / "out" / "rows.parquet", _TABLE)
    write_json(tmp_path / "out" / "summary.json", {})
    write_manifest(tmp_path / "out")
    verify(tmp_path / "out")
    (tmp_path / "out" / "summary.json").write_text("[]")
    verify(tmp_path / "out" / "rows.parquet")
    with pytest.raises(PipelineError, match=r"out/summary\.json is damaged .*make repair"):
        verify(tmp_path / "out")
    (tmp_path / "out" / "rows.parquet").unlink()
    with pytest.raises(PipelineError, match=r"out/rows\.parquet is missing"):
        verify(tmp_path / "out" / "rows.parquet")
    (tmp_path / "out" / MANIFEST).write_text("[]x")
    with pytest.raises(PipelineError, match=r"manifest\.sha256\.json is damaged"):
        verify(tmp_path / "out")


def test_two_folders_change_places_and_what_was_there_goes(tmp_path: Path) -> None:
    for word in ("old", "new"):
        with staged_folder(tmp_path / "out", tmp_path / "scratch") as folder:
            write_json(folder / "a.json", word)
    assert read_json(tmp_path / "out" / "a.json") == "new" and not (tmp_path / "scratch").exists()


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / ".shard.parquet.123.partial").write_text("half")
    (tmp_path / "journal" / "shard.parquet").write_text("whole")
    sweep(tmp_path)
    assert [path.name for path in (tmp_path / "journal").iterdir()] == ["shard.parquet"]


def test_a_table_that_was_read_back_is_written_to_the_same_bytes(tmp_path: Path) -> None:
    """What a killed stage finds in its journal goes out as what it had computed itself: Parquet has
    another name than Arrow for what is in a list.
    """
    table = pa.table({"item_id": ["a", "b"], "golds": [["x"], []], "scores": [[0.5], []]})
    write_table(tmp_path / "one.parquet", table)
    write_table(tmp_path / "two.parquet", read_table(tmp_path / "one.parquet"))
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
