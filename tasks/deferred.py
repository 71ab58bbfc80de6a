"""Imports put off until they are used: libraries import at their start what no run of ours needs, and it takes seconds."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: Modules of transformers -> what they take from scikit-learn and SciPy (and pandas behind them) for work that is not done here: drafts by an
#: assistant model, scores of GLUE, the detection of objects in pictures.
_PUT_OFF: dict[str, dict[str, tuple[str, ...]]] = {
    "transformers.generation.candidate_generator": {"sklearn.metrics": ("roc_curve",)},
    "transformers.data.metrics": {"sklearn.metrics": ("f1_score", "matthews_corrcoef"), "scipy.stats": ("pearsonr", "spearmanr")},
    **{
        f"transformers.loss.loss_{name}": {"scipy.optimize": ("linear_sum_assignment",)}
        for name in ("for_object_detection", "deformable_detr", "grounding_dino", "lw_detr", "rf_detr", "rt_detr")
    },
}


@contextlib.contextmanager
def imported_on_use(modules: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Let an ``import`` of these modules within the block bring one that is loaded when an attribute of it is first asked for.

    The functions named beside a module are put off further, until they are called: ``from module import function`` asks for them at once.
    Modules that are there already stay as they are, and behind the block an import is what it always was.
    """
    later = {name: _Later(name, functions) for name, functions in modules.items() if name not in sys.modules}
    sys.modules.update(later)
    try:
        yield
    finally:
        for name, module in later.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _Later(ModuleType):
    """Stands for a module until something of it is used."""

    def __init__(self, name: str, functions: Sequence[str]) -> None:
        super().__init__(name)
        vars(self).update({function: self._called_later(function) for function in functions})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import machinery looks at a module's own marks
            raise AttributeError(name)
        return getattr(self._load(), name)

    def _called_later(self, function: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._load(), function)(*args, **kwargs)

        return call

    def _load(self) -> ModuleType:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return importlib.import_module(self.__name__)


def lighten_transformers() -> None:
    """See to it that transformers, whoever imports it, does so without scikit-learn and SciPy: a second or two of each process that loads a model."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules of ``_PUT_OFF`` as everybody does, and has them run with those imports put off."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's own spec; None for every other module."""
        if fullname not in _PUT_OFF:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                with imported_on_use(_PUT_OFF[fullname]):
                    execute(module)

            vars(spec.loader)["exec_module"] = exec_module
        return spec
