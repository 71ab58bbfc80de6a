"""The code that the trials of a fault run: a trial counts as long as it stays the same.

It is found from the fault's module and what that imports of the tests: a package of the product
that is named anywhere in them, be it in a command or a comment, counts whole. A fault of one stage
needs of ``tasks`` what these modules, that stage, and the stages before it, which made its inputs,
import.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tasks.core.code import imported_files
from tasks.core.files import fingerprint, sha256_file
from tests.faults.world import ROOT, STAGES

_PACKAGES = ("tasks", "flows", "bonito")
_NAMED = re.compile(rf"\b({'|'.join(_PACKAGES)})\b")
#: Of these, which name more than a trial uses, the file itself counts and nothing else.
_ALONE = ("tests/conftest.py", "tests/faults/libraries.py")
#: What every world is made of.
_WORLD = ("params.yaml", "datasets/incidents.yaml", "supervision", "tests/fake_engine")
#: What a toy repository is made of besides, and what counts in the processes that it starts.
_TOY = (".dvc/config", ".dvcignore", ".gitignore", "prefect.yaml", "tests/faults/hook")
_OURS = re.compile(r"^\s*(?:from|import) (tasks[.\w]*)", re.MULTILINE)
_FROM = re.compile(r"^\s*from (tests[.\w]*) import ([\w, ]+|\((?:[^)]*)\))", re.MULTILINE)
_IMPORT = re.compile(r"^\s*import (tests[.\w]*)", re.MULTILINE)


@cache
def code_version(module: str, stage: str = "") -> str:
    """Return a fingerprint of all that the trials of a module (``tests.faults.kills``) run; with a
    ``stage`` of those that are about it alone. The pins and the version of Python belong to it.
    """
    return fingerprint(sys.version, _digest(covered_files(module, stage)))


def covered_files(module: str, stage: str = "") -> frozenset[Path]:
    """Return the files that :func:`code_version` covers."""
    own = _tests_behind(module)
    texts = [path.read_text() for path in own if str(path.relative_to(ROOT)) not in _ALONE]
    packages = {"tasks", *(name for text in texts for name in _NAMED.findall(text))}
    found = {*own, *_below(_WORLD), *(ROOT / "requirements").glob("*.txt")}
    if ROOT / "tests/toy.py" in own:
        found |= _below(_TOY)
    if stage:
        named = {name for text in texts for name in _OURS.findall(text)}
        return frozenset(found | _beside(_stage_files(stage).union(*map(_imported, named))))
    return frozenset(found | _below(packages))


@cache
def _stage_files(stage: str) -> frozenset[Path]:
    """Return what a stage and those before it import."""
    names = STAGES[: STAGES.index(stage) + 1]
    return frozenset[Path]().union(*(_imported(f"tasks.{name}.__main__") for name in names))


@cache
def _imported(module: str) -> frozenset[Path]:
    return frozenset(imported_files(module))


def _beside(code: Iterable[Path]) -> set[Path]:
    """Return the files of code, and what else lies below their folders: patterns, templates."""
    found = set(code)
    for folder in {path.parent for path in found}:
        found |= {path for path in _files_of(folder) if path.suffix != ".py"}
    return found


@cache
def _tests_behind(module: str) -> frozenset[Path]:
    """Return the files of the tests that a module of theirs imports, its own and those of the
    world included.
    """
    waiting, found = {module, "tests.faults.world"}, {ROOT / "tests/faults/libraries.py"}
    while waiting:
        name = waiting.pop()
        place = ROOT.joinpath(*name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path in found or not path.is_file():
                continue
            found.add(path)
            if str(path.relative_to(ROOT)) in _ALONE:
                continue
            text = path.read_text()
            waiting |= set(_IMPORT.findall(text))
            for package, names in _FROM.findall(text):
                waiting |= {package, *(f"{package}.{word}" for word in re.findall(r"\w+", names))}
    return frozenset(found)


def _below(names: Iterable[str]) -> set[Path]:
    return {path for name in names for path in _files_of(ROOT / name)}


def _files_of(place: Path) -> list[Path]:
    """Return a file, or the files below a folder but for bytecode."""
    if place.is_file():
        return [place]
    files = (path for path in place.rglob("*") if "__pycache__" not in path.parts)
    return [path for path in files if path.is_file()]


@cache
def _file_digest(path: Path) -> str:
    return sha256_file(path)


def _digest(files: Iterable[Path]) -> str:
    return fingerprint(
        *(f"{path.relative_to(ROOT)}:{_file_digest(path)}" for path in sorted(files))
    )
