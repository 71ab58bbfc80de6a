"""``dvc exp`` in a shallow clone, as CI has it, and two machines that share one DVC remote: the
recipes of docs/machines.md, over the small pipeline.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.toy import dvc, git, make_toy

_HOT = ("--set-param", "generate.temperature=0.9")


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy repository with one committed run, pushed to a remote that is a folder."""
    root = make_toy(tmp_path_factory.mktemp("shared") / "toy")
    dvc(root, "remote", "add", "-d", "-f", "team", str(root.parent / "store"))
    dvc(root, "repro", "dvc.yaml")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a run")
    dvc(root, "push", "--run-cache", "data.dvc", "dvc.yaml")
    return root


@pytest.fixture(scope="module")
def machine(origin: Path) -> Path:
    """A machine with a shallow clone, which has done one experiment and shared it."""
    clone = _clone(origin, "one")
    _fetch(clone)
    dvc(clone, "exp", "run", "--pull", "--name", "hot", *_HOT, "dvc.yaml")
    dvc(clone, "push", "--run-cache", "dvc.yaml")
    return clone


def _fetch(clone: Path) -> None:
    """Fetch the data and the list of what was run, but no results."""
    dvc(clone, "fetch", "--run-cache", "data.dvc")
    dvc(clone, "checkout", "data.dvc")


def _clone(origin: Path, name: str) -> Path:
    clone = origin.parent / name
    git(origin, "clone", "-q", "--depth", "1", f"file://{origin}", str(clone))
    assert git(clone, "rev-parse", "--is-shallow-repository").strip() == "true"
    return clone


@pytest.mark.timeout(300)
def test_an_experiment_runs_in_a_shallow_clone_and_is_compared_with_its_commit(
    machine: Path,
) -> None:
    assert "hot" in dvc(machine, "exp", "list").stdout
    (shown,) = [
        commit
        for commit in json.loads(dvc(machine, "exp", "show", "--json").stdout)
        if commit["rev"] != "workspace"
    ]
    (experiment,) = shown["experiments"]
    figures = [
        values["data"]["metrics"]["artifacts/generate/metrics.json"]["data"]["temperature"]
        for values in (shown, experiment["revs"][0])
    ]
    assert figures == [0.5, 0.9]
    changes = json.loads(dvc(machine, "metrics", "diff", "--json").stdout)
    (change,) = changes["artifacts/generate/metrics.json"].values()
    assert (change["old"], change["new"]) == (0.5, 0.9)


@pytest.mark.timeout(300)
def test_two_machines_that_share_a_remote_restore_each_others_runs(
    origin: Path, machine: Path
) -> None:
    other = _clone(origin, "other")
    _fetch(other)
    hot = dvc(other, "exp", "run", "--pull", "--name", "hot", *_HOT, "dvc.yaml").stdout
    assert "Running stage" not in hot, hot
    assert "Stage 'generate' is cached - skipping run" in hot
    figures = "artifacts/generate/metrics.json"
    told = [json.loads((root / figures).read_text()) for root in (machine, other)]
    assert told[0] == told[1] == {"temperature": 0.9}
    third = _clone(origin, "third")
    dvc(third, "pull", "--run-cache", "data.dvc", "dvc.yaml")
    again = dvc(third, "repro", "dvc.yaml").stdout
    assert "Running stage" not in again and "Data and pipelines are up to date" in again
