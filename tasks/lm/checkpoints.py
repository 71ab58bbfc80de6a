"""Checkpoints of trainings: they count only when all their files are whole, and old ones are
pruned.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from torch import distributed
from transformers import TrainerCallback

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, folder_size, read_json, write_json
from tasks.core.process import rank, world_size
from tasks.core.store import is_whole, seal_folder

log = logging.getLogger(__name__)


#: Marks the folder of a training that has ended.
FINISHED = "finished"
#: Digests of the passages that a training learns from, and of the settings that led to it.
_NOTE = "learned.json"
#: The folder of a stage's trainings in its work folder.
CHECKPOINTS = "checkpoints"
#: Sections of the parameters that have no part in what a training learns.
_AFTERWARDS = {"baseline", "evaluate", "register", "run"}


@contextlib.contextmanager
def checkpoints_of(
    work: Path, key: str, gigabytes: float, afterwards: contextlib.ExitStack
) -> Iterator[Path]:
    """Lend the folder of a training's checkpoints, in a stage's work folder.

    Those of other trainings are pruned to ``gigabytes`` now, and once more, with this one's,
    ``afterwards``: when the stage's output is in its place.
    """
    parent = work / CHECKPOINTS
    folder = parent / key[:24]
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    if rank() > 0:
        yield folder
        return
    (folder / FINISHED).unlink(missing_ok=True)
    prune_checkpoints(parent, gigabytes, running=folder)

    def prune(failure: type[BaseException] | None, *_: Any) -> None:
        if failure is None:  # else the next attempt takes the ended training from its checkpoint
            prune_checkpoints(parent, gigabytes)

    afterwards.push(prune)
    yield folder
    (folder / FINISHED).touch()


def digest_work(params: BaseModel) -> str:
    """Return a digest of all settings (:class:`tasks.core.params.Params`) that lead to a training's
    rows and weights.
    """
    return fingerprint(params.model_dump(mode="json", exclude=_AFTERWARDS))


def note_passages(folder: Path, settings: str, passages: pa.Array) -> None:
    """Note digests of the passages that a training learns from, and of the settings that led to it.

    See :func:`forget_removed`.
    """
    write_json(folder / _NOTE, {"settings": settings, "passages": passages.to_pylist()})


def forget_removed(parent: Path, settings: str, today: pa.Array) -> None:
    """Remove the trainings below ``parent`` that learned from a passage that is not in ``today``
    (digests): its document may be gone.

    An unfinished training of other ``settings`` stays: these may be why its passages are not there,
    and it may be continued.
    """
    known = {*today.to_pylist()}
    for folder in (path for path in parent.glob("*") if path.is_dir()):
        noted = _read_note(folder)
        goes_on = not (folder / FINISHED).is_file() and noted.get("settings") != settings
        if not goes_on and not ("passages" in noted and known.issuperset(noted["passages"])):
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed %s: it learned from passages that no row is about any more", folder)


def _read_note(folder: Path) -> dict[str, Any]:
    try:
        return dict(read_json(folder / _NOTE))
    except (PipelineError, TypeError, ValueError):
        return {}


def prune_checkpoints(parent: Path, gigabytes: float, running: Path | None = None) -> None:
    """Remove checkpoints below ``parent`` until they take no more than ``gigabytes``.

    First those of trainings that have ended, then the older ones of unfinished trainings; among
    each the longest unused first. The last whole checkpoint of an unfinished training stays,
    however large. Those of the ``running`` training all stay: the Trainer keeps two.
    """
    trainings = sorted(
        (folder for folder in parent.iterdir() if folder.is_dir() and folder != running),
        key=lambda folder: folder.stat().st_mtime,
    )
    ended = [folder for folder in trainings if (folder / FINISHED).is_file()]
    unfinished = [folder for folder in trainings if folder not in ended]
    spare = [path for folder in unfinished for path in reversed(_in_order(folder)[1:])]
    size = sum(map(folder_size, trainings))
    for folder in (*ended, *spare):
        # Only where a newer one is whole: of a damaged one the training would start again.
        if size > gigabytes * 1e9 and (folder in ended or _has_newer(folder)):
            size -= folder_size(folder)
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed %s: finetune.checkpoints_gb = %g", folder, gigabytes)
    if size > gigabytes * 1e9:
        log.warning(
            "%d unfinished trainings have checkpoints of %.1f GB in %s, more than "
            "finetune.checkpoints_gb = %g: delete those that you will not continue",
            sum(folder.is_dir() and any(folder.iterdir()) for folder in unfinished),
            size / 1e9,
            parent,
            gigabytes,
        )


def _has_newer(checkpoint: Path) -> bool:
    newest_first = _in_order(checkpoint.parent)
    return any(is_whole(newer) for newer in newest_first[: newest_first.index(checkpoint)])


def _in_order(folder: Path) -> list[Path]:
    """Return the checkpoints of one training, the newest first."""
    return sorted(
        folder.glob("checkpoint-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
        reverse=True,
    )


class SealCheckpoint(TrainerCallback):
    """Seals a checkpoint when all its files are there: the Trainer does not stage its saves."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        state.save_steps = args.save_steps  # the Trainer would go on with the checkpoint's own

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
    for checkpoint in _in_order(folder):
        if is_whole(checkpoint):
            return checkpoint
        log.warning(
            "%s is cut short or damaged: removed, training continues from the one before",
            checkpoint,
        )
        shutil.rmtree(checkpoint)
    return None
