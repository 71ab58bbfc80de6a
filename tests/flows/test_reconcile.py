"""Which runs a start may end: those of this machine that nobody works on, and with the outcome that
they had. Without a server.
"""

from __future__ import annotations

import datetime
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows import reconcile
from flows.runs import last_run, worktree
from flows.runs.dvc_repro import StageOutcome
from flows.runs.repair import find_damaged
from tasks.core.lock import hold_lock

_LONG_AGO = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)


def _run(**more: Any) -> Any:
    return SimpleNamespace(
        **{"tags": [], "infrastructure_pid": None, "start_time": _LONG_AGO, **more}
    )


def test_a_run_of_another_machine_is_left_alone() -> None:
    here, there = f"host:{socket.gethostname()}", "host:another"
    assert not reconcile._is_of_another_machine(_run(tags=["x", here]))
    assert reconcile._is_of_another_machine(_run(tags=["x", there]))
    assert reconcile._is_of_another_machine(_run(infrastructure_pid="another:7"))
    assert not reconcile._is_of_another_machine(
        _run(infrastructure_pid=f"{socket.gethostname()}:7")
    )


def test_a_run_of_another_checkout_on_this_machine_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two checkouts may share a server. Only its own knows whether a run holds it."""
    monkeypatch.setattr(reconcile, "CODE", tmp_path / "mine")
    here = f"host:{socket.gethostname()}"
    other = tmp_path / "other"
    other.mkdir()
    theirs = _run(tags=[here, f"checkout:{other}"])
    assert reconcile._is_of_another_checkout(theirs)
    assert not reconcile._is_of_another_checkout(_run(tags=[here, f"checkout:{tmp_path / 'mine'}"]))
    other.rmdir()
    assert not reconcile._is_of_another_checkout(theirs), "moved or removed: nothing runs there"


def test_a_run_that_names_no_machine_is_left_alone_in_its_first_minutes() -> None:
    now = datetime.datetime.now(datetime.UTC)
    assert reconcile._is_of_another_machine(_run(start_time=now))
    assert reconcile._is_of_another_machine(_run(start_time=None))
    assert not reconcile._is_of_another_machine(_run()), "killed before it could name its machine"


def test_a_run_lives_while_its_checkout_is_held_and_in_its_first_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "CODE", tmp_path)
    assert not reconcile._may_live(_run(), "mine")
    assert reconcile._may_live(_run(start_time=datetime.datetime.now(datetime.UTC)), "mine")
    lock = worktree._lock_of(tmp_path, "mine")
    lock.parent.mkdir(parents=True)
    with hold_lock(lock, "pipeline"):
        assert reconcile._may_live(_run(), "mine")
    assert not reconcile._may_live(_run(), "mine")


def test_a_dead_runs_page_says_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "CODE", tmp_path)
    folder = worktree.folder_of(tmp_path, "mine")
    folder.mkdir(parents=True)
    assert reconcile._state("mine", "id-1").name == "Crashed"
    last_run.write_outcomes(folder, "mine", [StageOutcome("ingest", "ran", 1.0)], "id-1")
    assert reconcile._state("mine", "id-1").name == "Completed"
    assert reconcile._state("mine", "id-2").name == "Crashed", "of another run"
    failed = StageOutcome("ingest", "failed", 1.0, "no documents")
    last_run.write_outcomes(folder, "mine", [failed], "id-2")
    state = reconcile._state("mine", "id-2")
    assert (state.name, state.message) == ("Failed", "ingest: no documents")


def test_an_object_whose_bytes_are_not_its_names_is_damaged(tmp_path: Path) -> None:
    objects = tmp_path / "files" / "md5"
    whole = objects / "90" / "0150983cd24fb0d6963f7d28e17f72"  # of "abc"
    damaged = objects / "91" / "0150983cd24fb0d6963f7d28e17f72"
    for path in (whole, damaged):
        path.parent.mkdir(parents=True)
        path.write_text("abc")
    assert find_damaged(tmp_path) == [damaged]
