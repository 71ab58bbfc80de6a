"""Checkpoints that the pipeline makes for itself, in the cache folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import folder_size, staged_folder
from tasks.core.process import is_alive
from tasks.core.store import keep_newest, newest_first, seal_folder

log = logging.getLogger(__name__)


#: Environment variable: most GB of the checkpoints that one folder of the cache keeps.
LIMIT = "BONITO_CACHE_GB"
_DEFAULT_GB = 64.0


def make_checkpoint(folder: Path, keep: int, save: Callable[[Path], None]) -> None:
    """Make a sealed checkpoint: ``save`` writes its files into a staged folder.

    Each is as large as its model, so of the folder's neighbours only the ``keep`` last used stay,
    as many of them as :data:`LIMIT` has room for, and none that a killed process left half-written.
    """
    limit = cache_limit()
    if folder.exists():
        log.warning("%s is damaged: it is made again", folder)
    with staged_folder(folder, folder.with_suffix(f".{os.getpid()}.partial")) as partial:
        save(partial)
        seal_folder(partial)
    for partial in folder.parent.glob("*.partial"):
        if not is_alive(partial.suffixes[-2].lstrip(".")):
            shutil.rmtree(partial, ignore_errors=True)
    keep_newest(folder.parent, min(keep, _fitting(folder.parent, limit)), keep=folder)


def cache_limit() -> float:
    """Return :data:`LIMIT` in bytes."""
    text = os.environ.get(LIMIT, "")
    try:
        gigabytes = float(text) if text else _DEFAULT_GB
    except ValueError:
        gigabytes = 0.0
    if not gigabytes > 0:
        raise PipelineError(f"{LIMIT}={text!r} in the environment is no number of GB above 0")
    return gigabytes * 1e9


def _fitting(folder: Path, limit: float) -> int:
    """Return how many of the last used entries fit into ``limit`` bytes; the last one always
    counts.
    """
    total, count = 0, 0
    for entry in newest_first(folder):
        total += folder_size(entry)
        if total > limit:
            break
        count += 1
    return max(1, count)
