"""``dvc.yaml`` is the graph, and its dependency lists are true: compared with what each stage's
code imports and reads.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from flows.runs.dvc_graph import Node, read_graph
from tasks.core.code import imported_files
from tasks.core.errors import PipelineError
from tasks.core.params import Params

ROOT = Path(__file__).resolve().parents[1]
STAGES = [
    "ingest",
    "generate",
    "validate",
    "verify",
    "supervise",
    "finetune",
    "baseline",
    "evaluate",
    "register",
]
_FIRST_PARTY = ("tasks", "bonito")
#: They read all parameters, and no output depends on what they find: at most a run is refused.
_NO_RESULT = ("tasks/core/params.py", "tasks/lm/preflight.py")


def definition(stage: str) -> dict[str, list[str]]:
    """Return the stage's section of ``dvc.yaml`` as written."""
    section: dict[str, list[str]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    return section


def packages(module: str) -> set[str]:
    """Return what ``dvc.yaml`` names for the code that ``module`` imports: packages of two parts,
    and files that lie beside them.
    """
    files = {path.relative_to(ROOT) for path in imported_files(module)}
    return {"/".join(path.parts[:2]) for path in files}


def declared_code(stage: str) -> set[str]:
    """Return the code among the stage's deps."""
    return {dep for dep in definition(stage)["deps"] if dep.split("/")[0] in _FIRST_PARTY}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_everywhere(stage: str) -> None:
    assert (ROOT / "tasks" / stage / "stage.py").is_file() and stage in Params.model_fields
    assert (ROOT / "tasks" / "core" / "sections" / f"{stage}.py").is_file()
    assert list((ROOT / "tests" / stage).glob("test_*.py"))
    assert definition(stage)["outs"] == [f"artifacts/{stage}"]


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_packages_a_stage_imports(stage: str) -> None:
    used = packages(f"tasks.{stage}.__main__")
    assert f"tasks/{stage}" in used, f"tasks/{stage} does not exist"
    assert declared_code(stage) == used


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_a_stage_reads(stage: str) -> None:
    declared = {str(key).split(".")[0] for key in definition(stage)["params"]}
    names = {name: field.alias or name for name, field in Params.model_fields.items()}
    text = "\n".join(
        (ROOT / name).read_text()
        for name in sorted(
            str(p.relative_to(ROOT)) for p in imported_files(f"tasks.{stage}.__main__")
        )
        if name.endswith(".py") and name not in _NO_RESULT
    )
    read = {names[name] for name in re.findall(rf"\bparams\.({'|'.join(names)})\b", text)}
    assert read <= declared


@pytest.mark.parametrize("stage", STAGES)
def test_every_parameter_a_stage_names_is_in_the_file(stage: str) -> None:
    """DVC refuses to run a stage whose parameter it cannot find, whatever default the code has."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    for key in definition(stage)["params"]:
        found = values
        for part in key.split("."):
            assert part in found, key
            found = found[part]


def test_stages_run_in_the_order_of_the_method() -> None:
    nodes = _whole_graph()
    assert [node.name for node in nodes] == STAGES
    after = {node.name: node.after for node in nodes}
    assert after == {
        "ingest": (),
        "generate": ("ingest",),
        "validate": ("generate",),
        "verify": ("ingest", "generate", "validate"),
        "supervise": ("ingest", "verify"),
        "finetune": ("supervise",),
        "baseline": (),
        "evaluate": ("ingest", "supervise", "finetune", "baseline"),
        "register": tuple(name for name in STAGES if name not in ("baseline", "register")),
    }


def test_one_name_everywhere() -> None:
    """Stage, section of params.yaml, module and artifact folder have one name."""
    for node in _whole_graph():
        assert node.command.startswith(f"python -m tasks.{node.name} --params params.yaml ")
        assert node.command.endswith(f" --out artifacts/{node.name}")
        assert node.outs == (f"artifacts/{node.name}",)
        assert node.name in node.params


def test_the_users_documents_are_a_dependency() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    nodes = {node.name: node for node in _whole_graph()}
    assert params["ingest"]["corpus"] in nodes["ingest"].deps
    assert params["evaluate"]["items"] in nodes["ingest"].deps
    for stage in ("verify", "supervise"):
        assert params["verify"]["reviews"] in nodes[stage].deps, "a verdict reruns the stage"


def _whole_graph() -> list[Node]:
    return read_graph(ROOT)


def test_a_graph_with_an_unknown_parameter_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  a:\n    cmd: echo ${nothing.here}\n")
    with pytest.raises(PipelineError, match=r"dvc\.yaml: .*nothing\.here"):
        read_graph(tmp_path)


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  a: {cmd: a, deps: [y], outs: [x]}\n  b: {cmd: b, deps: [x], outs: [y]}\n"
    )
    with pytest.raises(PipelineError, match=r"dvc\.yaml: .*cycle"):
        read_graph(tmp_path)


def test_a_missing_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(PipelineError, match="does not exist"):
        read_graph(tmp_path)


def test_no_setting_meets_a_shell() -> None:
    """DVC gives ``cmd`` to a shell: a folder named ``$(command)`` would run it."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {stage for stage, section in stages.items() if "${" in section["cmd"]} == set()
    bonito = yaml.safe_load((ROOT / "bonito" / "dvc.yaml").read_text())
    names = {name for variables in bonito["vars"] for name in variables}
    for section in bonito["stages"].values():  # constants of the file, no settings
        assert set(re.findall(r"\$\{(.*?)\}", section["cmd"])) <= names
