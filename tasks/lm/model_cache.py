"""Checkpoints that the pipeline makes for itself, in the cache folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tasks.core.files import staged_folder
from tasks.core.process import is_alive
from tasks.core.store import keep_newest, seal_folder

log = logging.getLogger(__name__)


def make_checkpoint(folder: Path, keep: int, save: Callable[[Path], None]) -> None:
    """Make a sealed checkpoint: ``save`` writes its files into a staged folder.

    Each is as large as its model, so of the folder's neighbours only the ``keep`` last used stay,
    and none that a killed process left half-written.
    """
    if folder.exists():
        log.warning("%s is damaged: it is made again", folder)
    with staged_folder(folder, folder.with_suffix(f".{os.getpid()}.partial")) as partial:
        save(partial)
        seal_folder(partial)
    for partial in folder.parent.glob("*.partial"):
        if not is_alive(partial.suffixes[-2].lstrip(".")):
            shutil.rmtree(partial, ignore_errors=True)
    keep_newest(folder.parent, keep)
