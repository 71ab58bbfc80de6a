"""Which checkpoint a training goes on from."""

from __future__ import annotations

from pathlib import Path

from tasks.core.store import seal_folder
from tasks.lm.checkpoints import last_whole_checkpoint


def test_the_newest_is_the_one_of_the_highest_step(tmp_path: Path) -> None:
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        seal_folder(tmp_path / f"checkpoint-{step}")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_one_without_its_mark_is_removed(tmp_path: Path) -> None:
    for step in (3, 6):
        (tmp_path / f"checkpoint-{step}").mkdir()
    seal_folder(tmp_path / "checkpoint-3")
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    assert not (tmp_path / "checkpoint-6").exists()
    assert last_whole_checkpoint(tmp_path / "absent") is None
