"""DVC's own tables can be read on a screen of 160 columns, and no revision fails to load."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.toy import dvc, environment, make_toy

_SCREEN = 160
_METRICS = ["f1", "f1_low", "f1_high", "zero_shot", "gain", "gain_low", "gain_high", "yield"]
_START = ["start", "start_gain", "start_gain_low", "start_gain_high"]
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
    """Return DVC's commands that make and the documentation name for looking at runs."""
    recipe = subprocess.run(
        ["make", "--no-print-directory", "-n", "runs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()[-1]
    runs = re.findall(r"'[^']*'|\S+", recipe)[1:]
    return [
        ["metrics", "show"],
        ["metrics", "diff", "--all"],
        ["params", "diff"],
        ["plots", "show"],
        [word.strip("'") for word in runs],
    ]


@pytest.mark.parametrize("command", commands_of_the_readme(), ids=" ".join)
def test_a_table_fits_the_screen_and_every_revision_loads(root: Path, command: list[str]) -> None:
    done = dvc(root, *command, COLUMNS=str(_SCREEN))
    assert max(map(len, done.stdout.splitlines())) <= _SCREEN
    assert "failed to load" not in done.stdout + done.stderr and "…" not in done.stdout


def test_runs_are_compared_by_their_metrics_and_what_differs(root: Path) -> None:
    *_, runs = commands_of_the_readme()
    table = dvc(root, *runs, COLUMNS=str(_SCREEN)).stdout
    assert [name for name in _METRICS if f" {name} " in table] == _METRICS
    assert "generate.temperature" in table and "0.75" in table
    assert "generate.seed" not in table and "tasks/" not in table
    assert "!" not in table


def test_a_run_with_a_start_stands_beside_one_without(root: Path) -> None:
    *_, runs = commands_of_the_readme()
    assert " start " not in dvc(root, *runs, COLUMNS=str(_SCREEN)).stdout
    params = root / "params.yaml"
    params.write_text(params.read_text().replace("temperature: 0.75", "temperature: 0.9"))
    dvc(root, "repro")
    table = dvc(root, *runs, COLUMNS=str(_SCREEN)).stdout
    assert max(map(len, table.splitlines())) <= _SCREEN
    shown = [*_METRICS, "start", "start_gain"]
    assert [name for name in (*_METRICS, *_START) if f" {name} " in table] == shown
    with_start, without = (line for line in table.splitlines() if "12.34" in line)
    assert with_start.count("12.34") == len(shown) and without.count("12.34") == len(_METRICS)
    assert "generate.temperature" in table and "…" not in table
