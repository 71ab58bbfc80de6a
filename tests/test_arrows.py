"""Which package may import which, and where each large library is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

_SHARED = {"tasks.claims", "tasks.core", "tasks.lm", "tasks.scoring", "tasks.tracking"}
_STAGES = {path.parent.name for path in (ROOT / "tasks").glob("*/stage.py")} - {"core"}
#: Package -> packages it may import besides itself.
ARROWS: dict[str, set[str]] = {
    "tasks.core": set(),
    "tasks.claims": {"tasks.core", "tasks.lm"},
    "tasks.lm": {"tasks.core"},
    "tasks.scoring": {"tasks.core", "tasks.lm"},
    "tasks.tracking": {"tasks.core", "tasks.lm"},
    "tasks.serve": {"tasks.core", "tasks.lm", "tasks.tracking"},
    "tasks.release": {"tasks.core", "tasks.lm", "tasks.tracking"},
    **{f"tasks.{stage}": _SHARED for stage in _STAGES},
    "tasks.start": {"tasks.ingest", *_SHARED},
    "flows.runs": {"tasks.core", "tasks.ingest", "tasks.scoring", "tasks.tracking"},
    "flows.review": {"flows.runs", *_SHARED},
    "flows.matrix": {"flows", "flows.runs", "tasks.core", "tasks.scoring", "tasks.tracking"},
    "flows": {"flows.runs", "flows.matrix", "tasks.core", "tasks.tracking"},
    "bonito": {"bonito.templating", "tasks.core"},
    "bonito.templating": {"bonito", "tasks.core"},
    "bonito.remix": {"bonito", "bonito.templating", "tasks.core"},
    "bonito.doctor": {"bonito", "bonito.templating", "tasks.core"},
    "bonito.answering": {"bonito", "bonito.finetune", "tasks.claims", "tasks.core", "tasks.lm"},
    "bonito.train_answering": {"bonito.answering", "tasks.core", "tasks.lm"},
    "bonito.finetune": {"bonito", "tasks.core", "tasks.lm"},
    "bonito.evaluate": {"bonito", "tasks.validate", *_SHARED},
}
#: Library -> the only modules that may import it.
GIANTS = {
    "vllm": {"tasks/lm/vllm_engine.py", "tasks/lm/nucleus.py"},
    "great_expectations": {"tasks/validate/library.py", "tasks/validate/suites.py"},
    "mlflow": {"tasks/tracking/"},
    "ray": {"tasks/core/ray_cluster.py"},
    "dvc": {"flows/runs/dvc_graph.py", "flows/runs/repair.py"},
    "prefect": {"flows/*.py", "flows/matrix/flow.py"},
}


def modules() -> list[Path]:
    found = [path for top in ("tasks", "flows", "bonito") for path in (ROOT / top).rglob("*.py")]
    assert len(found) > 100
    return sorted(path.relative_to(ROOT) for path in found)


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Return the dotted names that a module imports, inside functions too."""
    names: list[str] = []
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(names)


def package_of(name: str) -> str:
    """Return the name of the package (see ``ARROWS``) that a module or one of its names is in."""
    parts = name.split(".")
    return next(
        (known for count in (2, 1) if (known := ".".join(parts[:count])) in ARROWS), parts[0]
    )


@pytest.mark.parametrize("path", modules(), ids=str)
def test_arrows_run_one_way(path: Path) -> None:
    here = package_of(".".join(path.with_suffix("").parts))
    there = {
        package_of(name)
        for name in imported(path)
        if name.split(".")[0] in ("tasks", "flows", "bonito")
    }
    assert there - {here, "tasks"} <= ARROWS.get(here, {"tasks.core"})


@pytest.mark.parametrize("library", GIANTS)
def test_a_large_library_is_imported_in_one_place(library: str) -> None:
    users = {
        path.as_posix()
        for path in modules()
        if any(name.split(".")[0] == library for name in imported(path))
    }
    allowed = GIANTS[library]
    assert users, f"nothing imports {library}"
    strangers = {
        user
        for user in users
        if not any(
            user.startswith(place) if place.endswith("/") else Path(user).match(place)
            for place in allowed
        )
    }
    assert not strangers


def test_what_runs_dvc_knows_nothing_of_prefect() -> None:
    for path in modules():
        if path.parts[:2] == ("flows", "runs"):
            assert not any(name.split(".")[0] == "prefect" for name in imported(path)), path
