"""Finished work: kept under a key of all it depends on, and counted only while it is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core import store as store_module
from tasks.core.code import imported_files
from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file, write_json
from tasks.core.parquet import write_table
from tasks.core.store import (
    MANIFEST,
    Store,
    is_still_whole,
    is_whole,
    keep_newest,
    keep_only,
    seal_folder,
    verify,
    work_key,
)
from tests.conftest import ROOT, Code

#: Module whose code is in a key -> a module below it that decides what is kept.
WORKERS = {
    "tasks.generate.stage": "tasks.lm.prompts",
    "tasks.ingest.file_pool": "tasks.ingest.readers.pdf",
    "tasks.lm.merged": "tasks.lm.loading",
    "tasks.lm.training": "tasks.lm.fused_lora",
    "tasks.scoring.predict": "tasks.scoring.ranking",
    "bonito.evaluate.judging": "tasks.lm.engine",
}
_TABLE = pa.table({"text": [f"row {number}" for number in range(500)], "n": list(range(500))})


@pytest.mark.parametrize("value", [_TABLE, {"losses": [1.5, None]}], ids=["table", "json"])
@pytest.mark.parametrize("position", [0.0, 0.02, 0.5, 0.9, 0.999])
def test_a_value_counts_only_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, value: object, position: float
) -> None:
    """Also where the byte stands in Parquet's footer, which its own checksums do not cover."""
    store = Store(tmp_path, "key", keep=1)
    assert store.get("rows") is None and not store.has("rows")
    store.put("rows", value)
    assert Store(tmp_path, "key", keep=1).get("rows") == value
    (path,) = (path for path in tmp_path.glob("key/rows.*") if path.suffix != ".sha256")
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 1
    path.write_bytes(data)
    assert store.get("rows") is None and f"{path} is damaged" in caplog.text
    assert store.remember("rows", lambda: value) == value == store.get("rows")


def test_a_value_without_its_mark_or_with_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    store, mark = Store(tmp_path, "key", keep=1), tmp_path / "key" / "rows.sha256"
    for spoil in (lambda: mark.write_text("{"), lambda: mark.write_text("[1]"), mark.unlink):
        store.put("rows", _TABLE)
        spoil()
        assert store.get("rows") is None


def test_what_is_kept_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path, "key", keep=1)
    assert store.remember("n", lambda: 1) == store.remember("n", lambda: 2) == 1


def test_the_keys_last_used_stay(tmp_path: Path) -> None:
    for age, key in enumerate("abc"):
        Store(tmp_path, key, keep=3).put("n", age)
        os.utime(tmp_path / key, (1000 + age, 1000 + age))
    assert Store(tmp_path, "a", keep=2).get("n") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c"]


def test_a_key_holds_parts_and_code(edited_code: Code) -> None:
    first = work_key("tasks.scoring.f1", "a")
    assert first != work_key("tasks.scoring.f1", "b") and first != work_key("tasks.lm.prompts", "a")
    edited_code.edit("tasks.scoring.f1", "from __future__", "# A comment.\nfrom __future__")
    edited_code.edit("tasks.core.lock", "patience: float = 4.0", "patience: float = 5.0")
    assert work_key("tasks.scoring.f1", "a") == first
    edited_code.edit("tasks.core.errors", "known = sorted(known)", "known = list(known)")
    assert work_key("tasks.scoring.f1", "a") != first


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize(
    "other", ["tasks.register.stage", "tasks.supervise.stage", "bonito.remix.stage"]
)
def test_another_stage_does_not_change_a_key(worker: str, other: str) -> None:
    path = ROOT.joinpath(*other.split(".")).with_suffix(".py")
    assert path.is_file() and path not in imported_files(worker)


@pytest.mark.parametrize(("worker", "module"), WORKERS.items())
def test_the_code_that_decides_the_result_changes_a_key(worker: str, module: str) -> None:
    assert ROOT.joinpath(*module.split(".")).with_suffix(".py") in imported_files(worker)


def test_a_sealed_folder_is_whole_until_it_changes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_table(folder / "inner" / "rows.parquet", _TABLE)
    assert not is_whole(folder)
    seal_folder(folder)
    seal_folder(folder)
    assert is_whole(folder)
    (folder / "inner" / "rows.parquet").write_bytes(b"")
    assert not is_whole(folder)
    (folder / "inner" / "rows.parquet").unlink()
    assert not is_whole(folder)


def test_a_whole_folder_is_read_once_and_again_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = tmp_path / "model", list[Path]()
    monkeypatch.setattr(
        store_module, "sha256_file", lambda path: read.append(path) or sha256_file(path)
    )
    assert not is_still_whole(folder)
    folder.mkdir()
    (folder / "weights").write_bytes(b"abc")
    assert not is_still_whole(folder), "not sealed yet"
    seal_folder(folder)
    read.clear()
    assert is_still_whole(folder) and is_still_whole(folder)
    assert read == [folder / "weights"]
    (folder / "weights").write_bytes(b"abd")
    os.utime(folder / "weights", ns=(1, 1))
    assert not is_still_whole(folder) and not is_still_whole(folder)
    (folder / "weights").write_bytes(b"abc")
    assert is_still_whole(folder)


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


def test_what_a_stage_wrote_is_checked_and_what_a_user_brings_is_not(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    write_json(tmp_path / "mine" / "manifest.json", [1])
    verify(tmp_path / "mine")
    verify(tmp_path / "mine" / "manifest.json")
    write_table(tmp_path / "out" / "rows.parquet", _TABLE)
    write_json(tmp_path / "out" / "summary.json", {})
    seal_folder(tmp_path / "out")
    verify(tmp_path / "out")
    (tmp_path / "out" / "summary.json").write_text("[]")
    verify(tmp_path / "out" / "rows.parquet")
    with pytest.raises(PipelineError, match=r"out/summary\.json is damaged .*make repair"):
        verify(tmp_path / "out")
    (tmp_path / "out" / "rows.parquet").unlink()
    with pytest.raises(PipelineError, match=r"out/rows\.parquet is missing, though manifest\.sha"):
        verify(tmp_path / "out" / "rows.parquet")
    (tmp_path / "out" / MANIFEST).write_text("[]x")
    with pytest.raises(PipelineError, match=r"manifest\.sha256\.json is damaged"):
        verify(tmp_path / "out")


def test_a_file_that_a_stage_did_not_write_is_refused_beside_what_it_wrote(tmp_path: Path) -> None:
    write_json(tmp_path / "out" / "summary.json", {})
    seal_folder(tmp_path / "out")
    (tmp_path / "out" / "rows.parquet").write_bytes(b"x")
    with pytest.raises(PipelineError, match=r"does not name rows\.parquet"):
        verify(tmp_path / "out" / "rows.parquet")


def test_what_is_no_longer_named_is_removed_under_every_key(tmp_path: Path) -> None:
    for key in ("a", "b"):
        for name in ("kept", "gone"):
            Store(tmp_path, key, keep=2).put(name, 1)
    keep_only(tmp_path, {"kept"})
    assert {path.stem for path in tmp_path.glob("*/*")} == {"kept"}
    assert Store(tmp_path, "a", keep=2).get("kept") == 1


def test_what_earlier_settings_made_stays_within_a_bound_while_its_texts_are_there(
    tmp_path: Path,
) -> None:
    """A run that went back to earlier settings did everything again."""
    made = {"both": ["a", "b"], "one": ["a"], "gone": ["a", "gone"], "unknown": []}
    store = Store(tmp_path, "key", keep=2)
    for age, (name, texts) in enumerate(made.items()):
        store.put(name, 1, texts)
        for path in tmp_path.glob(f"key/{name}.*"):
            os.utime(path, (1000 + age, 1000 + age))
    (tmp_path / "key" / "one.texts").write_text("[")
    keep_only(tmp_path, {"now"}, lambda: ["a", "b"])
    assert {path.stem for path in tmp_path.glob("*/*")} == {"both"}, "damage: not known either"
    store.put("one", 1, ["a"])
    size = sum(path.stat().st_size for path in tmp_path.glob("key/one.*"))
    keep_only(tmp_path, {"now"}, lambda: ["a", "b"], most_bytes=size)
    assert {path.stem for path in tmp_path.glob("*/*")} == {"one"}, "the last written stays"
    keep_only(tmp_path, {"now"}, lambda: ["b"])
    assert not list(tmp_path.glob("*/*"))
