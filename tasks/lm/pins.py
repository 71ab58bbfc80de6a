"""What a training's settings stand for here and now."""

from __future__ import annotations

from typing import TypeVar

from tasks.core.model_params import Finetune
from tasks.lm.models import dtype, pinned

Training = TypeVar("Training", bound=Finetune)


def pin(settings: Training) -> Training:
    """Return the settings of a training with what they stand for here and now: the commit of a hub
    model, and the precision that ``auto`` means on this machine.

    So another machine, or a later day, loads the weights that were trained on.
    """
    return settings.model_copy(
        update={
            "revision": pinned(settings.model, settings.revision),
            "precision": str(dtype(settings.precision)).removeprefix("torch."),
        }
    )
