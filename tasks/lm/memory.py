"""One model or engine in memory at a time: it is freed before the next one is loaded."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Any, TypeVar

from tasks.core.errors import PipelineError

Loaded = TypeVar("Loaded")


def need_free(what: str, size: float, remedy: str = "take a larger card") -> None:
    """Raise :class:`PipelineError` where the GPU has less than ``size`` bytes free; without a GPU
    do nothing. ``remedy`` is what helps where nothing can be ended.
    """
    import torch  # takes a second, so only where something is loaded

    if not torch.cuda.is_available():
        return
    free, total = torch.cuda.mem_get_info()
    if size > free:
        raise PipelineError(
            f"{what} needs {size / 1e9:.1f} GB of the GPU, and {free / 1e9:.1f} of its "
            f"{total / 1e9:.1f} GB are free: see with nvidia-smi what else is on it and end that, "
            f"or {remedy}"
        )


def need_cards(processes: int) -> None:
    """Raise :class:`PipelineError` where fewer GPUs can be seen than processes train on; without a
    GPU do nothing.
    """
    import torch

    if processes > 1 and torch.cuda.is_available() and processes > torch.cuda.device_count():
        raise PipelineError(
            f"finetune.processes = {processes}, but {torch.cuda.device_count()} GPUs can "
            "be seen (CUDA_VISIBLE_DEVICES chooses them)"
        )


@contextlib.contextmanager
def full_card(what: str, remedy: str) -> Iterator[None]:
    """Turn a GPU that is full into one line; ``remedy`` is what makes ``what`` smaller."""
    import torch  # takes a second, so only where something is computed

    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = ". ".join(str(error).split(". ")[:2])  # the rest is on torch's own settings
        raise PipelineError(
            f"{what} needs more memory than the GPU has free ({reason}): see with nvidia-smi what "
            f"else is on it and end that, {remedy}"
        ) from error


@contextlib.contextmanager
def freed_after(loaded: Loaded) -> Iterator[Loaded]:
    """Lend a model or an engine to a block, and free its memory when the block ends."""
    try:
        yield loaded
    finally:
        free(loaded)


def free(loaded: Any) -> None:
    """Free the memory of a model, or of an engine through its ``close``.

    It cannot be used any more. A model's weights go even where a name or a traceback still holds
    it.
    """
    import torch  # takes a second, so only where something is freed

    if isinstance(loaded, torch.nn.Module):
        for tensor in (*loaded.parameters(), *loaded.buffers()):
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    elif close := getattr(loaded, "close", None):
        close()
    gc.collect()
    if torch.cuda.is_available():
        gc.collect()  # what finalizers of the first pass have let go
        torch.cuda.empty_cache()
        torch.accelerator.empty_host_cache()  # pinned memory, whose pools CUDA graphs share
