"""What stays of the checkpoints of trainings."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pyarrow as pa
import pytest

from tasks.core.params import Params
from tasks.core.stage import Stage
from tasks.core.store import MANIFEST, seal_folder
from tasks.lm.checkpoints import (
    checkpoints_of,
    forget_removed,
    last_whole_checkpoint,
    note_passages,
    prune_checkpoints,
)

#: A checkpoint has 100 kB beside its manifest.
_SIZE = 100_000


def _training(parent: Path, name: str, steps: list[int], age: float, ended: bool) -> Path:
    for step in steps:
        folder = parent / name / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "optimizer.pt").write_bytes(b"o" * _SIZE)
        seal_folder(folder)
    if ended:
        (parent / name / "finished").touch()
    os.utime(parent / name, (1e9 - age, 1e9 - age))
    return parent / name


def _left(parent: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in parent.glob("*/checkpoint-*")}


def test_ended_trainings_go_first_and_the_last_one_of_an_unfinished_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _training(tmp_path, "ended", [10, 20], 0, True)
    _training(tmp_path, "killed", [10, 20], 5, False)
    _training(tmp_path, "older", [100, 90], 9, False)
    prune_checkpoints(tmp_path, 0.00062)
    assert len(_left(tmp_path)) == 6, "there is room"
    prune_checkpoints(tmp_path, 0.00041)
    assert _left(tmp_path) == {
        "killed/checkpoint-10",
        "killed/checkpoint-20",
        "older/checkpoint-90",
        "older/checkpoint-100",
    }
    prune_checkpoints(tmp_path, 0.00032)
    assert "older/checkpoint-90" not in _left(tmp_path) and len(_left(tmp_path)) == 3
    assert "unfinished trainings" not in caplog.text
    prune_checkpoints(tmp_path, 0.0001)
    assert _left(tmp_path) == {"killed/checkpoint-20", "older/checkpoint-100"}
    assert "2 unfinished trainings have checkpoints of 0.0 GB" in caplog.text


def test_of_a_removed_passage_no_training_stays_but_an_unfinished_one_of_other_settings(
    tmp_path: Path,
) -> None:
    for name, settings, passages, ended in (
        ("same", "s", ["a", "b"], True),
        ("gone", "s", ["a", "gone"], True),
        ("gone-other", "t", ["a", "gone"], True),
        ("killed", "s", ["gone"], False),
        ("killed-other", "t", ["gone"], False),
        ("own", "s", ["a", "b", "c"], False),
    ):
        folder = _training(tmp_path, name, [10], 0, ended)
        note_passages(folder, settings, pa.array(passages))
    for name, ended in (("unknown", True), ("unknown-killed", False)):
        (_training(tmp_path, name, [10], 0, ended) / "learned.json").write_bytes(b"\xff")
    forget_removed(tmp_path, "s", pa.array(["a", "b", "c"]))
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {"same", "killed-other", "own", "unknown-killed"}


@pytest.mark.parametrize("damage", ["no mark", "cut short", "flipped", "missing file"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    folder = _training(tmp_path, "killed", [9, 10], 0, False)
    newest = folder / "checkpoint-10"
    assert last_whole_checkpoint(folder) == newest, "of the highest step, not the last in letters"
    state = newest / "optimizer.pt"
    match damage:
        case "no mark":
            (newest / MANIFEST).unlink()
        case "cut short":
            state.write_bytes(b"o" * (_SIZE - 100))
        case "flipped":
            state.write_bytes(b"o" * (_SIZE - 1) + b"n")
        case _:
            state.unlink()
    assert last_whole_checkpoint(folder) == folder / "checkpoint-9"
    assert not newest.exists()
    assert last_whole_checkpoint(tmp_path / "absent") is None


def test_a_checkpoint_before_a_damaged_one_stays(tmp_path: Path) -> None:
    folder = _training(tmp_path, "killed", [10, 20, 30], 0, False)
    (folder / "checkpoint-30/optimizer.pt").write_bytes(b"cut")
    prune_checkpoints(tmp_path, 0.00001)
    assert _left(tmp_path) == {"killed/checkpoint-20", "killed/checkpoint-30"}
    assert last_whole_checkpoint(folder) == folder / "checkpoint-20"


def test_the_running_training_keeps_its_own_and_loses_them_when_its_output_is_there(
    tmp_path: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage("finetune", params, {}, tmp_path / "out", tmp_path)
    key = "k" * 64
    folder = _training(tmp_path / "checkpoints", key[:24], [10, 20], 0, False)
    _training(tmp_path / "checkpoints", "other", [10], 5, True)
    with caplog.at_level(logging.INFO), stage.afterwards:
        with checkpoints_of(stage.work, key, 0.00001, stage.afterwards) as lent:
            assert lent == folder
            assert _left(folder.parent) == {f"{key[:24]}/checkpoint-{n}" for n in (10, 20)}
        assert len(_left(folder.parent)) == 2, "its output is not there yet"
    assert not _left(folder.parent)
    assert "removed " in caplog.text and "finetune.checkpoints_gb = 1e-05" in caplog.text


def test_a_stage_that_failed_keeps_its_checkpoints(tmp_path: Path, params: Params) -> None:
    """Also where the training has ended, and the disk was full behind it."""
    stage = Stage("finetune", params, {}, tmp_path / "out", tmp_path)
    folder = _training(tmp_path / "checkpoints", "k" * 24, [10, 20], 0, False)
    with pytest.raises(KeyError), stage.afterwards:
        with checkpoints_of(stage.work, "k" * 64, 0.00001, stage.afterwards):
            pass
        raise KeyError
    assert len(_left(folder.parent)) == 2
