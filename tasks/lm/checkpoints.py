"""Checkpoints of a training, which count only when all their files are whole."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from torch import distributed
from transformers import TrainerCallback

from tasks.core.process import rank, world_size
from tasks.core.store import is_whole, seal_folder

log = logging.getLogger(__name__)


class SealCheckpoint(TrainerCallback):
    """Seals a checkpoint when all its files are there: the Trainer does not stage its saves."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if world_size() > 1:
            distributed.barrier()  # every process writes the state of its random numbers
        if state.is_world_process_zero:
            seal_folder(Path(args.output_dir) / f"checkpoint-{state.global_step}")


def agree_on_checkpoint(folder: Path) -> Path | None:
    """Return the last whole checkpoint as the first process sees it, in every process."""
    choice = [last_whole_checkpoint(folder) if rank() == 0 else None]
    if world_size() > 1:
        distributed.broadcast_object_list(choice, src=0)
    return choice[0]


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest whole checkpoint; name and remove the damaged ones after it."""
    checkpoints = sorted(
        folder.glob("checkpoint-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
        reverse=True,
    )
    for checkpoint in checkpoints:
        if is_whole(checkpoint):
            return checkpoint
        log.warning(
            "%s is cut short or damaged: removed, training continues from the one before",
            checkpoint,
        )
        shutil.rmtree(checkpoint)
    return None
