"""The code that a module depends on, derived from its imports: part of the key of finished work.

A comment, a docstring or a line break changes no result, so it does not change the digest.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

#: The folder that holds the first-party packages.
ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("tasks", "bonito")
#: A string that names a module: it is started with ``python -m`` or imported by name.
_NAMED = re.compile(rf"({'|'.join(_PACKAGES)})(\.\w+)+")


@cache
def code_digest(module: str) -> str:
    """Return the SHA-256 of the code of ``module`` and of all first-party modules it imports."""
    digest = hashlib.sha256()
    for path in sorted(imported_files(module)):
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n{_read(path).tree}\n".encode())
    return digest.hexdigest()


@cache
def module_digest(module: str) -> str:
    """Return the SHA-256 of the code of ``module`` alone: for work that nothing else decides."""
    digest = hashlib.sha256()
    for path in _files(module):
        digest.update(_read(path).tree.encode())
    return digest.hexdigest()


def imported_files(module: str) -> set[Path]:
    """Return the first-party Python files that importing ``module`` may run, its own included.

    Imports inside functions count, and so do modules that a string names. Where a name is built at
    run time (``f"tasks.ingest.readers.{name}"``), all modules of the package count.
    """
    files: set[Path] = set()
    waiting = [module]
    while waiting:
        for path in _files(waiting.pop()):
            if path not in files:
                files.add(path)
                waiting += _read(path).names
    return files


@dataclass(frozen=True)
class _Code:
    """What a module imports or names, and its syntax tree as text, without docstrings and places in
    the file.
    """

    names: tuple[str, ...]
    tree: str


def _read(path: Path) -> _Code:
    return _parse(path.read_text(encoding="utf-8"), path.relative_to(ROOT).with_suffix("").parts)


@cache  # most files are part of several modules' digests
def _parse(text: str, place: tuple[str, ...]) -> _Code:
    tree = ast.parse(text)
    nodes = list(ast.walk(tree))
    names = dict.fromkeys(name for node in nodes for name in _named_by(node, place))
    for node in nodes:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return _Code(tuple(names), ast.dump(tree))


def _named_by(node: ast.AST, place: tuple[str, ...]) -> Iterator[str]:
    """Yield the modules that a node of the module at ``place`` imports or names."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        inside = place[: -node.level] if node.level else ()
        base = ".".join([*inside, *filter(None, [node.module])])
        names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        name = node.value.partition(":")[0]
        if _NAMED.fullmatch(name.removesuffix(".")):
            names = [f"{name}*" if name.endswith(".") else name]
    for parts in (name.split(".") for name in names):
        if parts[0] in _PACKAGES:
            # Importing a.b.c runs a/__init__.py and a/b/__init__.py too.
            yield from (".".join(parts[: count + 1]) for count in range(len(parts)))


def _files(module: str) -> list[Path]:
    if module.endswith(".*"):
        return sorted(ROOT.joinpath(*module.split(".")[:-1]).glob("*.py"))
    path = ROOT.joinpath(*module.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()]
