"""Libraries without the packages that they import and that nothing here uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_MISSING = object()


def skip_unused() -> None:
    """Let transformers be imported without scikit-learn, and Prefect without pandas.

    The one takes a second for the thresholds of assisted generation, the other half a second for
    tables as keys of its cache. Call it before they are imported. Both packages can still be
    imported for other work.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds the modules that have an import to be skipped, as Python does, and nothing else."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in ("transformers.generation.candidate_generator", "prefect.cache_policies"):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec and spec.loader:
            load = spec.loader.exec_module

            def load_without(module: ModuleType) -> None:
                with _hidden(name):
                    load(module)

            spec.loader.exec_module = load_without  # type: ignore[method-assign]
        return spec


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Hide the package while the module ``name`` is run; one that is imported already stays."""
    names: dict[str, Any] = sys.modules
    key: str = "pandas"
    instead: Any = None
    if name.startswith("transformers."):
        names = vars(sys.modules["transformers.utils"])
        key, instead = "is_sklearn_available", lambda: False
    elif names.get(key):
        yield
        return
    before = names.get(key, _MISSING)
    names[key] = instead
    try:
        yield
    finally:
        if before is _MISSING:
            names.pop(key, None)
        else:
            names[key] = before
