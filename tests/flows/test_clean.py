"""``make clean`` removes what it says, and nothing under a run, a page or a stage that is at work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.runs.readers import reading
from flows.runs.worktree import Run, hold
from tasks.core.lock import hold_lock
from tests.conftest import ROOT


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """A checkout with the work of a run ``mine``."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in (".work/runs", ".work/ingest", ".runs/mine/.work/ingest", ".mypy_cache", "data"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("x")
    return tmp_path


def _clean(main: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "clean", f"PYTHON={sys.executable}"],
        cwd=main,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_removes_work_files_where_nothing_works(main: Path) -> None:
    with hold(Run("mine", main, main / ".runs/mine", {})):
        pass
    done = _clean(main)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in main.iterdir()} == {".git", "data"}


def test_it_refuses_while_something_works_and_names_it(main: Path) -> None:
    run = Run("mine", main, main / ".runs/mine", {})
    for busy, told in (
        (hold(run), f"run 'mine' is in progress (process {os.getpid()})"),
        (reading(main, ["mine"]), "a page, a matrix or another run reads run 'mine'"),
        (hold_lock(main / ".work/plan.lock", "x"), "make plan or another command is at work"),
        (hold_lock(main / ".work/ingest/lock", "x"), "a stage is at work in .work/ingest"),
        (
            hold_lock(main / ".runs/mine/.work/ingest/lock", "x"),
            "a stage is at work in .runs/mine/.work/ingest",
        ),
    ):
        with busy:
            refused = _clean(main)
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error: clean: {told}"), refused.stderr
        assert "nothing was removed" in refused.stderr
        assert (main / ".runs/mine/.work/ingest/file").exists()
        assert (main / ".work/runs/file").exists()


def test_a_work_folder_that_is_a_link_goes_and_its_target_stays(main: Path) -> None:
    (main / ".work").rename(main / "elsewhere")
    (main / ".work").symlink_to("elsewhere")
    assert _clean(main).returncode == 0
    assert {path.name for path in main.iterdir()} == {".git", "data", "elsewhere"}
    assert (main / "elsewhere/ingest/file").exists()


def test_it_needs_no_package(main: Path) -> None:
    """It works before ``make setup``, and after its environment is gone."""
    command = [sys.executable, "-I", "-S", "-c"]
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from flows.runs.clean import main; main()"
    )
    subprocess.run([*command, program], cwd=main, check=True, timeout=60)
    assert not (main / ".runs").exists()
