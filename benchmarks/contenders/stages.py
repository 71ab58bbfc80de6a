"""A stage of the pipeline called in a contender's own process, each round in folders that are
empty.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.core.params import Params
from tasks.core.stage import Stage


def empty(folder: Path) -> Path:
    """Return the folder with nothing in it but the stage's ``out`` and ``work``."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("out", "work"):
        (folder / name).mkdir(parents=True)
    return folder


def stage(name: str, params: Params, folder: Path, **paths: Path) -> Stage:
    """Return what the stage's function is given: its inputs by name, and the folder's ``out`` and
    ``work``.
    """
    return Stage(name, params, paths, folder / "out", folder / "work")
