"""``dvc.lock`` says from what the committed figures were made: it agrees with the tree."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage

from tests.conftest import ROOT
from tests.toy import dvc, make_toy


def test_the_lock_agrees_with_code_parameters_and_data() -> None:
    """After a change to any of them: make run, make publish, and commit what they leave."""
    assert list_changed_inputs(ROOT) == []


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy repository whose graph has been run."""
    root = make_toy(tmp_path_factory.mktemp("locked") / "toy")
    dvc(root, "repro")
    assert list_changed_inputs(root) == []
    return root


@pytest.mark.parametrize(
    ("name", "before", "after", "expected"),
    [
        (
            "tasks/generate/__main__.py",
            "too_short",
            "short",
            "generate: tasks/generate is modified",
        ),
        ("params.yaml", "temperature: 0.5", "temperature: 0.6", "generate modified"),
        ("dvc.yaml", "-m tasks.validate", "-um tasks.validate", "validate: its command changed"),
        ("data/incidents/documents/a.txt", "text", "word", "documents is modified"),
    ],
)
def test_what_differs_from_the_lock_is_named(
    locked: Path, name: str, before: str, after: str, expected: str
) -> None:
    file = locked / name
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    try:
        assert any(expected in line for line in list_changed_inputs(locked))
    finally:
        file.write_text(text)
    assert list_changed_inputs(locked) == []


def test_the_lock_names_every_stage() -> None:
    graph, lock = (yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "dvc.lock"))
    assert list(lock["stages"]) and set(lock["stages"]) == set(graph["stages"])


def list_changed_inputs(root: Path) -> list[str]:
    """Return one line for each command, code, data or parameter that differs from ``dvc.lock``.

    Outputs of stages are not compared.
    """
    with Repo(str(root)) as repo:
        stages = repo.stage.load_all(str(root / "dvc.yaml"))
        made = {out.def_path for stage in stages for out in stage.outs}
        return [line for stage in stages for line in _changed(stage, made)]


def _changed(stage: PipelineStage, made: set[str]) -> list[str]:
    lines = [f"{stage.name}: its command changed"] if stage.cmd_changed else []
    for dep in stage.deps:
        if not any(PurePath(dep.def_path).is_relative_to(out) for out in made):
            for place, state in dep.status().items():
                lines.append(f"{stage.name}: {place} is {_in_words(state)}")
    return lines


def _in_words(state: str | dict[str, str]) -> str:
    """Return DVC's state as text: one word for a file, one for each key of a parameter file."""
    if isinstance(state, str):
        return state
    return ", ".join(f"{key} {word}" for key, word in state.items())
