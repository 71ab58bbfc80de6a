"""The lock on a GPU: two processes of the pipeline never fill the memory of one card together."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.lock import LockedError, hold_lock
from tasks.core.privacy import cache_folder
from tasks.core.process import is_launched

log = logging.getLogger(__name__)
_held = contextlib.ExitStack()
_names: set[str] = set()
#: Files of NVIDIA's driver, on Linux and in WSL.
_DEVICES = ("/dev/nvidiactl", "/dev/dxg")


def take_cards(count: int = 1) -> None:
    """Wait until this process has its first ``count`` GPUs for itself; without a GPU, do nothing.

    A GPU that this process already has stays its own, and others wait until the process ends or
    gives it back. Processes that train together leave it to their launcher. The cards are taken in
    one order: two launchers never wait for each other.
    """
    import torch

    if is_launched() or not torch.cuda.is_available():
        return
    for name in sorted(map(_name, range(min(count, torch.cuda.device_count())))):
        if name not in _names:
            _wait_for(name)
            _names.add(name)


def card_bytes() -> int | None:
    """Return the memory of the first visible GPU; None without one.

    torch is imported only where there is a driver: that takes seconds. A driver that is too old for
    torch's CUDA is a :class:`PipelineError`: a 7B model on the CPU would take days.
    """
    if not any(Path(device).exists() for device in _DEVICES):
        return None
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[1])
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    if torch.version.cuda and not hidden:
        raise PipelineError(
            f"torch finds no GPU, although there is a driver: CUDA {torch.version.cuda} needs a "
            "newer one; update it, or run DEVICE=cpu make setup"
        )
    return None


def give_cards_back() -> None:
    """Let other processes have the GPUs that this one took."""
    _names.clear()
    _held.close()


def _name(number: int) -> str:
    """Return a name of this process's GPU ``number`` that is the same in every process.

    Numbers are not: CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER change them. It is the card's UUID.
    """
    import torch

    return str(torch.cuda.get_device_properties(number).uuid)


def _wait_for(name: str) -> None:
    folder = cache_folder() / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{name}.lock"
    try:
        _held.enter_context(hold_lock(lock, f"work on GPU {name}", patience=0.0))
    except LockedError as error:
        log.info("GPU %s is in use by %s: waiting for it", name, error.holder)
        _held.enter_context(hold_lock(lock, f"work on GPU {name}", patience=math.inf))
