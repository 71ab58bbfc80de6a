"""Stages of a trial whose libraries are loaded before their turn."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.core.process import is_alive, process_mark
from tasks.start.apart import run_apart
from tasks.start.launch import Early
from tests.conftest import ROOT

_LOADING = """
import os, pathlib, time
pathlib.Path("loading").write_text(str(os.getpid()))
time.sleep(0.5)
"""
_WORK = """
import os, sys
print(" 1/1 rows")
print("I am", os.getpid(), *sys.argv[1:])
"""


def _stage(folder: Path, loading: str = _LOADING) -> Path:
    """Make a folder with the real stages and one more, ``sleepy``."""
    package = folder / "tasks/sleepy"
    package.mkdir(parents=True)
    (folder / "tasks/__init__.py").write_text(f"__path__.append({str(ROOT / 'tasks')!r})")
    (package / "__init__.py").touch()
    (package / "stage.py").write_text(loading)
    (package / "__main__.py").write_text(_WORK)
    return folder


def _await(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.is_file() and path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return path.read_text()


def test_a_stage_that_has_loaded_goes_on_and_its_loading_counts(tmp_path: Path) -> None:
    folder, early = _stage(tmp_path), Early(["sleepy"], tmp_path)
    pid = _await(folder / "loading")
    time.sleep(1.5)  # somebody else works
    began = time.monotonic()
    found = run_apart("sleepy", folder, {"rows": Path("a b.parquet")}, early=early)
    assert found.seconds >= 0.5 and found.seconds > time.monotonic() - began
    told = (folder / "sleepy.log").read_text()
    assert f"I am {pid} --params params.yaml --out sleepy --rows a b.parquet" in told
    assert found.marks and found.peak_mb > 1
    (folder / "loading").unlink()
    run_apart("sleepy", folder, {}, early=early)
    assert not (folder / "loading").exists(), "the second time it is started as always"
    early.close()


def test_a_stage_that_nobody_took_is_ended(tmp_path: Path) -> None:
    early = Early(["sleepy", "later"], _stage(tmp_path))
    stage = process_mark(int(_await(tmp_path / "loading")))
    early.close()
    assert not is_alive(stage)


def test_one_that_dies_as_it_loads_is_started_again_and_says_why(tmp_path: Path) -> None:
    folder = _stage(tmp_path, "raise SystemExit('error: no room')")
    (folder / "tasks/sleepy/__main__.py").write_text("raise SystemExit('error: no room')")
    early = Early(["sleepy"], folder)
    with pytest.raises(PipelineError, match="no room"):
        run_apart("sleepy", folder, {}, early=early)
    early.close()
