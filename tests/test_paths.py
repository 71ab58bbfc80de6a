"""Paths that a user chooses reach a stage through its parameters: none passes through a shell."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tasks.core.files import read_json
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT
from tests.toy import dvc, make_toy


@pytest.mark.parametrize(
    "name", ["my docs", 'it\'s "mine"', "$(touch stolen)", "`touch stolen`; a"]
)
def test_a_corpus_of_any_name_works_and_runs_nothing(tmp_path: Path, name: str) -> None:
    root = make_toy(tmp_path / "toy")
    (root / name).mkdir()
    (root / name / "a.txt").write_text("text")
    params = read_yaml(root / "params.yaml")
    params["ingest"]["corpus"] = name
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    dvc(root, "repro", "ingest")
    assert read_json(root / "artifacts/ingest/summary.json")["stage"] == "ingest"
    (deps,) = [stage["deps"] for stage in read_yaml(root / "dvc.lock")["stages"].values()]
    assert name in [dep["path"] for dep in deps]
    assert not list(tmp_path.rglob("stolen"))


def test_no_command_of_the_graph_holds_a_parameter() -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    assert stages and not [name for name, stage in stages.items() if "${" in stage["cmd"]]
