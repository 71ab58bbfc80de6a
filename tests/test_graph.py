"""``dvc.yaml`` is the graph, and its dependency lists are true: compared with what each stage's code imports and reads."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from flows.graph import Node, read_graph
from tasks.errors import PipelineError
from tasks.params import Params

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["ingest", "generate", "validate", "supervise", "finetune", "baseline", "evaluate", "register"]
_FIRST_PARTY = ("tasks", "bonito")


def definition(stage: str) -> dict[str, list[str]]:
    """Return the stage's section of ``dvc.yaml`` as written."""
    section: dict[str, list[str]] = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    return section


def code_files(module: str) -> set[str]:
    """Return the files of this repository that importing ``module`` may run, and the templates they name, relative to its root."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        path = _file(waiting.pop())
        if path is None or str(path.relative_to(ROOT)) in found:
            continue
        found.add(str(path.relative_to(ROOT)))
        tree = ast.parse(path.read_text())
        waiting += [name for node in ast.walk(tree) for name in _imported(node, path)]
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        found |= {str(p.relative_to(ROOT)) for p in (ROOT / "tasks" / "templates").glob("*") if p.name in texts}
    return found


def _imported(node: ast.AST, path: Path) -> list[str]:
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        package = ".".join(path.relative_to(ROOT).with_suffix("").parts[: -node.level]) if node.level else ""
        base = ".".join(part for part in (package, node.module or "") if part)
        names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"(tasks|bonito)(\.\w+)+", node.value):
        names = [node.value]  # started as ``python -m``
    # Importing a.b.c runs a/__init__.py and a/b/__init__.py too.
    names = [name for name in names if name.split(".")[0] in _FIRST_PARTY]
    return [".".join(name.split(".")[:count]) for name in names for count in range(1, name.count(".") + 2)]


def _file(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


def declared_code(stage: str) -> set[str]:
    """Return the code and templates among the stage's deps, folders spelt out."""
    code: set[str] = set()
    for dep in definition(stage)["deps"]:
        if dep.split("/")[0] in _FIRST_PARTY:
            path = ROOT / dep
            code |= {str(p.relative_to(ROOT)) for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"} if path.is_dir() else {dep}
    return code


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_code_a_stage_uses(stage: str) -> None:
    used = code_files(f"tasks.{stage}")
    assert f"tasks/{stage}.py" in used, f"tasks/{stage}.py does not exist"
    # tasks/documents is one dependency, a folder: ingest starts its workers by file name.
    declared = {name for name in declared_code(stage) if not name.startswith("tasks/documents/")}
    used = {name for name in used if not name.startswith("tasks/documents/")}
    assert sorted(declared) == sorted(used)


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_the_sections_a_stage_reads(stage: str) -> None:
    declared = {str(key).split(".")[0] for key in definition(stage)["params"]}
    names = {name: field.alias or name for name, field in Params.model_fields.items()}
    text = "\n".join((ROOT / name).read_text() for name in sorted(code_files(f"tasks.{stage}")) if name.endswith(".py") and name != "tasks/params.py")
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
        "supervise": ("ingest", "validate"),
        "finetune": ("supervise",),
        "baseline": (),
        "evaluate": ("finetune", "baseline"),
        "register": ("validate", "supervise", "finetune", "evaluate"),
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
    ingest = _whole_graph()[0]
    assert params["ingest"]["corpus"] in ingest.deps
    assert params["evaluate"]["items"] in ingest.deps


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
    (tmp_path / "dvc.yaml").write_text("stages:\n  a: {cmd: a, deps: [y], outs: [x]}\n  b: {cmd: b, deps: [x], outs: [y]}\n")
    with pytest.raises(PipelineError, match=r"dvc\.yaml: .*cycle"):
        read_graph(tmp_path)


def test_a_missing_graph_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    with pytest.raises(PipelineError, match="does not exist"):
        read_graph(tmp_path)
