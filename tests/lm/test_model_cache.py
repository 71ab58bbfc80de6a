"""The cache of models that the pipeline makes keeps what was used last, within a size."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.core.store import is_whole
from tasks.lm.model_cache import LIMIT, make_checkpoint


def _make(folder: Path, name: str, size: int, age: float) -> None:
    make_checkpoint(folder / name, 8, lambda out: (out / "w").write_bytes(b"w" * size) and None)
    moment = 1e9 - age
    os.utime(folder / name, (moment, moment))


def _left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_used_ones_stay_as_far_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "0.0001")  # 100,000 bytes
    for age, name in enumerate(("d", "c", "b")):
        _make(tmp_path, name, 40_000, 100 - age)
    make_checkpoint(tmp_path / "a", 8, lambda out: (out / "w").write_bytes(b"w" * 30_000) and None)
    assert _left(tmp_path) == {"a", "b"}
    make_checkpoint(
        tmp_path / "big", 8, lambda out: (out / "w").write_bytes(b"w" * 200_000) and None
    )
    assert _left(tmp_path) == {"big"}, "what was just made stays, however large"


def test_the_number_is_bounded_too(tmp_path: Path) -> None:
    for number in range(3):
        make_checkpoint(tmp_path / str(number), 2, lambda out: (out / "w").write_text("w") and None)
    assert len(_left(tmp_path)) == 2


@pytest.mark.parametrize("text", ["much", "0", "-3", "nan"])
def test_a_limit_that_is_no_size_is_one_line_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(LIMIT, text)
    with pytest.raises(PipelineError, match=f"BONITO_CACHE_GB='{text}'"):
        make_checkpoint(tmp_path / "a", 2, lambda out: None)
    assert not _left(tmp_path)


def test_what_is_made_is_sealed_and_only_what_the_dead_left_goes(tmp_path: Path) -> None:
    dead, alive = tmp_path / "x.99999999.partial", tmp_path / f"y.{os.getppid()}.partial"
    for folder in (dead, alive):
        folder.mkdir()
    _make(tmp_path, "a", 10, 0)
    assert is_whole(tmp_path / "a")
    assert not dead.exists() and alive.exists()


def test_what_others_are_making_takes_no_place_of_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT, "0.0001")  # 100,000 bytes
    other = tmp_path / f"y.{os.getppid()}.partial"
    other.mkdir()
    (other / "w").write_bytes(b"w" * 90_000)
    os.utime(other, (4e9, 4e9))  # the last changed one
    _make(tmp_path, "a", 40_000, 0)
    make_checkpoint(tmp_path / "b", 8, lambda out: (out / "w").write_bytes(b"w" * 40_000) and None)
    assert _left(tmp_path) == {"a", "b", other.name}
