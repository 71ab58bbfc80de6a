"""What a model's results depend on beside its settings: commit, precision, device, libraries."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from tasks.core.sections.finetune import Finetune
from tasks.lm.models import pinned
from tasks.lm.precision import dtype, dtype_name

Training = TypeVar("Training", bound=Finetune)


def pin(settings: Training) -> Training:
    """Return a training's settings with the present commit of a hub model as the revision, and the
    precision that ``auto`` means on this machine.

    So another machine, or a later day, loads the weights that were trained on.
    """
    return settings.model_copy(
        update={
            "revision": pinned(settings.model, settings.revision),
            "precision": dtype_name(settings.precision),
        }
    )


def arithmetic(precision: str) -> dict[str, str]:
    """Return what decides the low bits of a model's answers, and so some of their tokens: dtype,
    device and the versions of the libraries. It is part of the key of unfinished answers, so that a
    run which continues elsewhere, or after an upgrade, does not mix two kinds.
    """
    import torch

    return {
        "dtype": str(dtype(precision)),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        **{name: _version(name) for name in ("torch", "transformers", "vllm")},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # vLLM is for Linux alone
        return ""
