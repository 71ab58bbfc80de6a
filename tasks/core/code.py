"""The code that a module depends on, derived from its imports: part of the key of finished work.

A comment, a docstring or a line break changes no result, so it does not change the digest.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
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
        digest.update(f"{path.relative_to(ROOT).as_posix()}\n{_code_of(path)}\n".encode())
    return digest.hexdigest()


@cache
def module_digest(module: str) -> str:
    """Return the SHA-256 of the code of ``module`` alone: for work that nothing else decides."""
    digest = hashlib.sha256()
    for path in _files(module):
        digest.update(_code_of(path).encode())
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
                tree = ast.parse(path.read_text(encoding="utf-8"))
                waiting += [name for node in ast.walk(tree) for name in _named_by(node, path)]
    return files


def _named_by(node: ast.AST, path: Path) -> Iterator[str]:
    """Yield the modules that a node of the module in ``path`` imports or names."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        inside = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
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


def _code_of(path: Path) -> str:
    """Return a module's syntax tree as text, without docstrings and places in the file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:]
    return ast.dump(tree)
