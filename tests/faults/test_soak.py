"""The soak itself: what it counts, and how several processes share it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.faults import covered, ports
from tests.faults.catalogue import Fault, faults
from tests.faults.journal import Journal
from tests.faults.shares import _take


def _covered(module: str, stage: str = "") -> set[str]:
    files = covered.covered_files(f"tests.faults.{module}", stage)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_trials_of_a_stage_count_while_it_and_those_before_it_stay_the_same() -> None:
    of_ingest, of_verify = _covered("kills", "ingest"), _covered("kills", "verify")
    read = {"tasks/ingest/stage.py", "tasks/ingest/readers/rtf.py", "tasks/core/files.py"}
    world = {"tests/faults/kills.py", "tests/faults/moments.py", "tests/faults/libraries.py"}
    assert read | world | {"params.yaml", "tests/conftest.py"} <= of_ingest <= of_verify
    assert {"tasks/verify/stage.py", "tasks/verify/guard.py"} <= of_verify - of_ingest
    assert "tasks/ingest/templates/report.html" in of_ingest
    assert not {path for path in of_verify if path.startswith(("tasks/register/", "flows/"))}


@pytest.mark.parametrize("fault", [fault for fault in faults() if not fault.stage])
def test_trials_that_choose_among_stages_need_all_of_tasks(fault: Fault) -> None:
    whole = {path for path in (ROOT / "tasks").rglob("*.py")}
    module = fault.trial.__module__
    assert whole <= covered.covered_files(module)
    assert ROOT.joinpath(*module.split(".")).with_suffix(".py") in covered.covered_files(module)


@pytest.mark.parametrize("module", ["runs", "servers", "stopped"])
def test_trials_of_whole_runs_need_what_a_toy_repository_is_made_of(module: str) -> None:
    needed = {"flows/adapt.py", "bonito/dvc.yaml", "prefect.yaml", "tests/toy.py", ".dvc/config"}
    assert needed <= _covered(module)


def test_other_code_starts_a_fault_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world: Any = SimpleNamespace(branches=tmp_path / "branches")
    chosen = [fault for fault in faults() if fault.name == "SIGKILL of ingest"]
    kept = Fault("SIGKILL of ingest", lambda world, chance: "", "ingest")
    journal = Journal(tmp_path / "results.json", 1, chosen)
    journal.begin()
    journal.make(kept, 0, world)
    again = Journal(tmp_path / "results.json", 1, chosen)
    again.begin()
    assert (again.count, again.made, again.has(kept.name, 0)) == (1, 0, True)
    monkeypatch.setattr("tests.faults.journal.code_version", lambda module, stage: "other")
    later = Journal(tmp_path / "results.json", 1, chosen)
    later.begin()
    assert not later.has(kept.name, 0)


def test_processes_write_one_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world: Any = SimpleNamespace(branches=tmp_path / "branches")
    fault = Fault("SIGKILL of ingest", lambda world, chance: "", "ingest")
    broken = Fault("disk full", lambda world, chance: "it breaks")
    first, second = (Journal(tmp_path / "results.json", 1, [fault, broken]) for _ in range(2))
    first.begin()
    second.read()
    for number, journal in enumerate((first, second, second)):
        monkeypatch.setattr("tests.faults.journal.commit", lambda: "ab" if number else "cd")
        journal.make(fault, number, world)
    first.make(broken, 0, world)
    rows = {row["fault"]: row for row in json.loads((tmp_path / "results.json").read_text())}
    assert rows[fault.name]["commits"] == {"cd": 1, "ab": 2}
    assert (rows[fault.name]["trials"], rows[fault.name]["kept"]) == (3, 3)
    assert (rows[broken.name]["trials"], rows[broken.name]["kept"]) == (1, 0)
    assert first.broken


def test_what_is_left_takes_the_mean_time_of_its_fault(tmp_path: Path) -> None:
    quick, slow = Fault("disk full", lambda w, c: ""), Fault("hostile template", lambda w, c: "")
    journal = Journal(tmp_path / "results.json", 1, [])
    journal.rows = [{"fault": quick.name, "seconds": 60}, {"fault": quick.name, "seconds": 180}]
    journal.done = {(quick.name, 0), (quick.name, 1)}
    journal.planned = [(quick, number) for number in range(4)]
    assert journal.minutes_left() == 4.0
    journal.planned += [(slow, 0)]
    journal.jobs = 2
    assert journal.minutes_left() == 3.0


def test_one_process_takes_a_trial(tmp_path: Path) -> None:
    assert [_take(tmp_path, "a/b", number) for number in (1, 1, 2)] == [True, False, True]
    assert _take(None, "a/b", 1)


def test_processes_of_a_soak_share_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[set[int]] = []
    for job in range(3):
        monkeypatch.setenv(ports.JOB, str(job))
        found.append({ports.find_port() for _ in range(50)})
        assert len(found[-1]) == 50
    assert len(set().union(*found)) == 150
