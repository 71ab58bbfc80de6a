"""The authors' package, bonito-llm: its top-level module is called ``bonito``, like our folder, so
it is loaded from its own files.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType


def load(part: str = "") -> ModuleType:
    """Return the package, or with ``part`` one of its modules alone (``abstract`` needs no
    vLLM).
    """
    folder = Path(str(distribution("bonito-llm").locate_file("bonito")))
    name = f"authors_bonito{'_' + part if part else ''}"
    path = folder / f"{part or '__init__'}.py"
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=None if part else [str(folder)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"bonito-llm has no {path.name}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
