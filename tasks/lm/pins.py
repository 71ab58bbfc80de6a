"""The settings of a training with commit and precision resolved."""

from __future__ import annotations

from typing import TypeVar

from tasks.core.model_params import Finetune
from tasks.lm.models import dtype, pinned

Training = TypeVar("Training", bound=Finetune)


def pin(settings: Training) -> Training:
    """Return a training's settings with the present commit of a hub model as the revision, and the
    precision that ``auto`` means on this machine.

    So another machine, or a later day, loads the weights that were trained on.
    """
    return settings.model_copy(
        update={
            "revision": pinned(settings.model, settings.revision),
            "precision": str(dtype(settings.precision)).removeprefix("torch."),
        }
    )
