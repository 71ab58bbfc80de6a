"""DVC's own tables can be read on a screen of 160 columns, ours in 100; no revision fails to load."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.runs import table
from flows.runs.board import begin_board, clear_board, mark
from flows.runs.table import NARROW, WIDTH, Unfinished, read_lines, render
from flows.runs.worktree import Run, hold
from tasks.core.overlay import overlay
from tasks.core.yaml_file import read_yaml
from tests.toy import dvc, environment, make_toy

_SCREEN = 160
_METRICS = ["f1", "f1_low", "f1_high", "zero_shot", "gain", "gain_low", "gain_high", "yield"]
_START = ["start", "gain_over_start", "gain_over_start_low", "gain_over_start_high"]
#: What the toy's stages leave for DVC, with the names and the places of the real ones.
_WRITE = """
    if stage.name == "validate":
        names = {names} + ({start} if stage.params.generate.temperature > 0.8 else [])
        write_json(stage.out / "metrics.json", {{name: 12.34 for name in names}})
        write_text(stage.out / "loss.csv", "step,loss\\n1,2.0\\n")
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy repository with the metrics of the real one: a run that was committed, and another
    with other settings.
    """
    root = make_toy(tmp_path_factory.mktemp("tables") / "toy")
    stage = root / "tasks/validate/__main__.py"
    code = stage.read_text()
    marker = '    if stage.name == "generate":\n'
    assert marker in code
    stage.write_text(code.replace(marker, _WRITE.format(names=_METRICS, start=_START) + marker, 1))
    graph = root / "dvc.yaml"
    graph.write_text(graph.read_text().replace("generate/metrics.json", "validate/metrics.json"))
    with graph.open("a") as file:
        file.write("plots:\n  - artifacts/validate/loss.csv: {x: step, y: loss}\n")
    dvc(root, "repro")
    commit(root)
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 0.5", "temperature: 0.75"))
    dvc(root, "repro")
    return root


def commit(root: Path) -> None:
    """Commit everything in the toy repository."""
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "run"]):
        subprocess.run(command, cwd=root, env=environment(root), check=True)


def commands_of_the_readme() -> list[list[str]]:
    """Return DVC's commands that the documentation names for looking at runs."""
    return [
        ["metrics", "show"],
        ["metrics", "diff", "--all"],
        ["params", "diff"],
        ["plots", "show"],
    ]


@pytest.mark.parametrize("command", commands_of_the_readme(), ids=" ".join)
def test_a_table_fits_the_screen_and_every_revision_loads(root: Path, command: list[str]) -> None:
    done = dvc(root, *command, COLUMNS=str(_SCREEN))
    assert max(map(len, done.stdout.splitlines())) <= _SCREEN
    assert "failed to load" not in done.stdout + done.stderr and "…" not in done.stdout


def table_of(root: Path) -> list[str]:
    """Return the lines of ``make runs``."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.runs.table"],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def table_here(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[], list[str]]:
    """Return a function that returns the lines of ``make runs``, printed by this process."""
    monkeypatch.chdir(root)
    for name, value in environment(root).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", str(WIDTH))  # whatever terminal the tests run in

    def lines() -> list[str]:
        assert table.main() == 0
        return capsys.readouterr().out.splitlines()

    return lines


def test_make_runs_fits_a_screen_with_and_without_a_start(root: Path) -> None:
    heading, workspace, committed, *_ = table_of(root)
    assert heading.split()[:3] == ["profile", "rows", "F1"]
    for line in (workspace, committed):
        assert line.split("  ")[-1] and "12.3 (12.3 to 12.3)" in line and "+12.3" in line
    assert workspace.startswith("this checkout") and committed.split()[1]
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 0.75", "temperature: 0.9"))
    dvc(root, "repro")
    lines = table_of(root)
    assert max(map(len, lines)) <= WIDTH and len(lines) == 6


def test_make_runs_shows_the_runs_of_earlier_commits_too(
    root: Path, table_here: Callable[[], list[str]]
) -> None:
    """A commit, such as that of dvc.lock, hid every run that had been started before it."""
    dvc(root, "exp", "save", "--name", "kept", "dvc.yaml")
    assert any(line.startswith("kept ") for line in table_here())
    (root / "note.txt").write_text("A new commit.\n")
    commit(root)
    names = [line.split()[0] for line in table_here()[1:] if line]
    assert names.count("kept") == 1 and names[0] == "this"


def test_make_runs_shows_where_runs_ended_that_did_not_do_all_stages(
    root: Path, table_here: Callable[[], list[str]]
) -> None:
    scored = table_here()
    runs, stages = root / ".runs", ["ingest", "generate", "validate"]
    for name in ("done", "broken", "limited", "killed", "working", f"{'long' * 20}-2"):
        begin_board(runs / name, stages)
        mark(runs / name, "ingest", "ran", 1.0)
    for stage in stages:
        mark(runs / "done", stage, "unchanged")
    error = "CUDA out of memory.\nTried to allocate " + "2 GiB " * 20
    mark(runs / "broken", "generate", "failed", 3.0, error)
    mark(runs / "broken", "validate", "not run")
    mark(runs / "limited", "generate", "stopped", 3.0, "run.max_minutes = 1 are over")
    mark(runs / "killed", "generate", "running")
    mark(runs / "working", "generate", "running")
    (runs / "nothing").mkdir()
    run = Run("working", root, runs / "working", {})
    with hold(run):
        lines = table_here()
    shown = {line.split()[0]: line for line in lines[len(scored) - 3 : -5]}
    assert lines[: len(scored) - 3] == scored[:-3] and lines[-4:-2] == scored[-2:]
    assert ".work/logs/NAME.log" in lines[-2] and "default.log" in lines[-2], "a line is cut"
    assert shown["broken"].split(maxsplit=1)[1].startswith("failed in generate: CUDA out of memory")
    assert shown["broken"].split()[-1] == time.strftime("%Y-%m-%d")
    assert "stopped in generate: run.max_minutes = 1 are over" in shown["limited"]
    assert "interrupted in generate" in shown["killed"] and "running generate" in shown["working"]
    assert "interrupted before generate" in shown["longlonglongl..onglonglong-2"]
    assert set(shown) & {"done", "nothing"} == set() and len(shown) == 5
    assert max(map(len, lines)) <= WIDTH


def test_make_runs_forgets_a_failure_of_this_checkout_that_dvc_alone_made_good(
    root: Path, table_here: Callable[[], list[str]]
) -> None:
    """Only the next `make run` removed the line, though the work was done."""

    def told() -> list[str]:
        return [
            line
            for line in table_here()
            if line.startswith("this checkout") and "failed in" in line
        ]

    params, before = root / "params.yaml", (root / "params.yaml").read_text()
    params.write_text(json.dumps(overlay(read_yaml(params), {"generate": {"seed": 13}})))
    with pytest.raises(subprocess.CalledProcessError):
        dvc(root, "repro")
    begin_board(root, ["ingest", "generate", "validate"])
    mark(root, "generate", "failed", 1.0, "seed 13 is bad luck")
    assert len(told()) == 1
    dvc(root, "repro", "ingest")
    with pytest.raises(subprocess.CalledProcessError):
        dvc(root, "repro")
    assert len(told()) == 1, "a part of the work is no good run"
    params.write_text(before)
    assert len(told()) == 1
    dvc(root, "repro")
    assert told() == [] and table_here()[1].startswith("this checkout")
    mark(root, "generate", "failed", 1.0, "no memory")
    assert len(told()) == 1, "it failed after that"
    clear_board(root)


def test_make_runs_shows_a_failed_run_where_none_was_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said that there was no run yet."""
    toy = make_toy(tmp_path / "toy")
    monkeypatch.chdir(toy)
    assert table.main() == 2
    assert "there is no run yet: make run" in capsys.readouterr().err
    begin_board(toy, ["ingest"])
    mark(toy, "ingest", "failed", 1.0, "no documents")
    assert table.main() == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert " ".join(line.split()[:-1]) == "this checkout failed in ingest: no documents"


def _entry(**figures: float) -> dict[str, Any]:
    metrics = {"artifacts/evaluate/metrics.json": {"data": figures}}
    return {"timestamp": "2026-03-01T10:00:00", "metrics": metrics}


def test_a_line_says_what_was_compared_with_what() -> None:
    scored = {"f1": 41.0, "f1_low": 18.2, "f1_high": 67.8, "zero_shot": 13.7, "rows": 1234}
    gain = {"gain": 27.3, "gain_low": 1.0, "gain_high": 50.0}
    start = {
        "start": 40.0,
        "gain_over_start": 1.0,
        "gain_over_start_low": -2.0,
        "gain_over_start_high": 4.0,
    }
    runs = [
        {"revs": [{"rev": "1" * 40, "data": _entry(**scored, **gain)}], "name": f"{'mine' * 20}-2"},
        {"revs": [{"rev": "2" * 40, "data": _entry(**scored, **gain, **start)}], "name": "b"},
        {"revs": [{"rev": "3" * 40, "data": _entry(agreement=3.0, rows=7)}], "name": "c"},
        {"revs": [{"rev": "4" * 40, "data": {"metrics": None}}], "name": "failed"},
    ]
    lines = read_lines([{"rev": "workspace", "data": None}, {"rev": "5" * 40, "experiments": runs}])
    assert [(line.start, line.gain) for line in lines] == [
        ("13.7", "+27.3 (+1.0 to +50.0)"),
        ("40.0", "+1.0 (-2.0 to +4.0)"),
        ("-", "-"),
    ]
    assert lines[2].f1 == "no labelled items" and lines[0].rows == "1,234"
    assert lines[0].date == "2026-03-01"
    first = lines[0].show(WIDTH)
    assert first.startswith("mineminemine") and "mine-2 " in first and first.endswith("03-01")
    unfinished = Unfinished("mine" * 20, "failed in ingest: " + "no documents " * 9, "2026-03-01")
    for width in (WIDTH, NARROW):
        shown = render([*lines, unfinished], width)
        assert max(map(len, shown.splitlines())) <= width and "(+1.0 to +50.0)" in shown
        assert ("2026" in shown) == (width == WIDTH)
