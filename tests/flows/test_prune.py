"""``make prune``: which checkouts of runs can be removed, and that the others stay."""

from __future__ import annotations

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from flows.runs import prune, readers
from flows.runs.last_run import write_outcomes
from flows.runs.readers import READ
from flows.runs.worktree import Run, hold
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.lock import hold_lock, share_lock
from tasks.tracking.mlflow_store import connect, experiment_id, shown_uri
from tests.flows.test_worktree import _git

_DAY = 86_400.0
_AGES = {
    "mine-old": 90,
    "mine-older": 100,
    "mine": 60,
    "busy": 80,
    "own-name": 70,
    "toy.cell-a.1234": 50,
    "toy.cell-b.5678": 40,
    "fresh": 1,
}


@pytest.fixture
def main(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with runs of the ages in ``_AGES``, in days."""
    folder = tmp_path / "main"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, "mlflow.db")
    (folder / ".gitignore").write_text(".runs/\n.work/\nmlflow.db\n")
    _git(folder, "init", "--quiet")
    _git(folder, "add", "-A")
    _git(folder, "commit", "--quiet", "-m", "first")
    for name in _AGES:
        path = folder / ".runs" / name
        _git(folder, "worktree", "add", "--quiet", "--detach", str(path))
        profile = name.partition("-")[0]
        # Neither a matrix's cell nor a run with a name of one's own has a make command.
        command = "" if name == "own-name" else f"make run PROFILE={profile} SET='a.b=1 2'"
        if not name.startswith("toy."):
            write_outcomes(path, name, [], command=command)
    _age(folder)
    return folder


def _age(main: Path) -> None:
    for name, days in _AGES.items():
        then = time.time() - days * _DAY
        for path in ((main / ".runs" / name).rglob("*"), [main / ".runs" / name]):
            for file in path:
                os.utime(file, (then, then))


def _reasons(main: Path) -> dict[str, str]:
    return {each.path.name: each.reason for each in prune.find_old(main, 30 * _DAY)}


def test_the_newest_of_a_profile_what_is_named_and_what_runs_stay(main: Path) -> None:
    (main / "profiles").mkdir()
    (main / "profiles" / "next.yaml").write_text("finetune: {start: .runs/mine-old/artifacts/x}\n")
    with hold(Run("busy", main, main / ".runs/busy", {})):
        assert _reasons(main) == {
            "mine-older": "",
            "mine-old": "profiles/next.yaml names it",
            "busy": "a run is in progress",
            "own-name": "the newest run of own-name",
            "mine": "the newest run of profile mine",
            "toy.cell-a.1234": "",
            "toy.cell-b.5678": "the newest run of matrix toy",
        }


def test_what_a_registered_version_needs_stays(main: Path) -> None:
    client = connect()
    run = client.create_run(experiment_id(client, "toy"))
    start = str(main / ".runs/toy.cell-a.1234/artifacts/finetune")
    client.log_param(run.info.run_id, "finetune.start", start)
    client.create_registered_model("m")
    for _ in range(2):
        client.create_model_version("m", "file:///nowhere", run.info.run_id)
    client.set_registered_model_alias("m", "champion", "2")
    for name, number, store in (
        ("mine-old", "2", shown_uri()),
        ("mine-older", "1", shown_uri()),
        ("busy", "7", "https://elsewhere"),
    ):
        told = {"model_name": "m", "version": number, "tracking_uri": store}
        write_json(main / ".runs" / name / "artifacts/register/registration.json", told)
    _age(main)
    reasons = _reasons(main)
    assert reasons["mine-old"] == "it made m version 2 (champion)"
    assert reasons["mine-older"] == "", "another version has taken its place"
    assert reasons["toy.cell-a.1234"] == "m version 2 (champion) was made from it"
    assert reasons["busy"] == "it is registered in another store, https://elsewhere"
    (main / "mlflow.db").write_text("damaged")
    with pytest.raises(PipelineError, match="does not answer"):
        prune.find_old(main, 30 * _DAY)


def test_nothing_goes_without_yes_and_then_what_was_shown(
    main: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prune, "CODE", main)
    monkeypatch.setattr(prune, "list_versions", list)  # MLflow takes seconds
    assert prune.main(["--days=a"]) == 2 and "write DAYS=30" in capsys.readouterr().err
    assert prune.main([]) == 0
    shown = capsys.readouterr().out
    assert "3 of 7 checkouts not used for 30 days can be removed" in shown and "give YES=1" in shown
    assert "toy.cell-a.1234  can be removed (not finished: its work would be lost)" in shown
    assert len(list((main / ".runs").iterdir())) == len(_AGES)
    (main / ".runs" / ".half.removed").mkdir()
    assert prune.main(["--yes=1"]) == 0
    assert "3 removed" in capsys.readouterr().out
    gone = {"mine-old", "mine-older", "toy.cell-a.1234"}
    assert {path.name for path in (main / ".runs").iterdir()} == set(_AGES) - gone
    assert len(_git(main, "worktree", "list").splitlines()) == len(_AGES) - len(gone) + 1


def test_a_run_that_began_since_it_was_listed_stays(
    main: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old, *_) = prune.find_old(main, 95 * _DAY)
    assert old.path.name == "mine-older" and not old.reason
    with hold(Run(old.path.name, main, old.path, {})):
        assert not prune.remove(main, old)
    assert "already in progress" in capsys.readouterr().err
    (old.path / ".work" / "why").mkdir()
    assert not prune.remove(main, old) and old.path.is_dir()
    assert [each.path.name for each in prune.find_old(main, 95 * _DAY)] == []


def test_what_a_page_reads_stays_until_it_is_closed(
    main: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old, *_) = prune.find_old(main, 95 * _DAY)
    with Run(old.path.name, main, old.path, {}).reading():
        assert _reasons(main)["mine-older"] == READ
        with hold(Run(old.path.name, main, old.path, {})):
            assert _reasons(main)["mine-older"] == "a run is in progress", "beside an open page"
        assert not prune.remove(main, old) and old.path.is_dir()
        assert capsys.readouterr().err == f"mine-older stays: {READ}\n"
    assert prune.remove(main, old) and not old.path.exists()


def test_what_the_settings_of_a_run_name_stays_while_it_works(main: Path) -> None:
    """Also where no file says so yet: the run has not written its params.yaml."""
    start = {"finetune": {"start": ".runs/mine-older/artifacts/finetune"}}
    with hold(Run("new", main, main / ".runs/new", start)):
        assert _reasons(main)["mine-older"] == READ
    assert not _reasons(main)["mine-older"]


@pytest.mark.parametrize("name", ["a" * 9999, "../../x", "..", "a\0b", "a\nb", "\ud800", ""])
def test_a_setting_that_names_no_run_is_no_error_here(tmp_path: Path, name: str) -> None:
    """The run then says that the file does not exist."""
    start = {"finetune": {"start": f".runs/{name}/artifacts"}}
    with hold(Run("new", tmp_path, tmp_path / ".runs/new", start)):
        assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {
            tmp_path / ".work/runs"
        }


def test_a_stage_that_was_started_by_hand_is_left_alone(
    main: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old, *_) = prune.find_old(main, 95 * _DAY)
    (old.path / ".work/generate").mkdir(parents=True)
    with hold_lock(old.path / ".work/generate/lock", "stage generate"):
        assert _reasons(main)["mine-older"] == "a stage is at work in it"
        assert not prune.remove(main, old) and old.path.is_dir()
    assert "mine-older stays: a stage is at work in it" in capsys.readouterr().err


def test_a_page_waits_for_the_end_of_a_removal(main: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (old, *_) = prune.find_old(main, 95 * _DAY)
    monkeypatch.setattr(readers, "share_lock", partial(share_lock, patience=0.0))
    with readers.hold_unread(main, "mine-older"):
        with pytest.raises(PipelineError, match=r"make prune is removing \.runs/mine-older"):
            with Run("mine-older", main, old.path, {}).reading():
                pass
