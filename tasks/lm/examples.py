"""Training rows as token ids, and the order in which they are trained on."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tasks.core.model_params import Finetune

#: Batches that are sorted by length and shuffled together.
_STRETCH = 50


@dataclass(frozen=True)
class Example:
    """Token ids of one row; the loss falls on ``response`` alone."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        """Return the row's tokens."""
        return len(self.prompt) + len(self.response)


def training_order(lengths: list[int], settings: Finetune) -> list[int]:
    """Return the rows' indices in the order of training: all epochs in one list of at most
    ``max_steps`` batches of ``batch_rows``.

    Batches hold rows of similar length, so that little is padded: rows are sorted within stretches
    of 50 batches, whose batches are shuffled. The order is computed here, from the seed alone,
    because the Trainer's own sampler draws another one when it resumes.
    """
    chance = random.Random(settings.seed)
    drawn = _draw(lengths, settings, chance)
    order: list[int] = []
    stretch = _STRETCH * settings.batch_rows
    for start in range(0, len(drawn), stretch):
        rows = sorted(drawn[start : start + stretch], key=lambda index: -lengths[index])
        batches = [
            rows[first : first + settings.batch_rows]
            for first in range(0, len(rows), settings.batch_rows)
        ]
        whole = [batch for batch in batches if len(batch) == settings.batch_rows]
        chance.shuffle(whole)
        order += [index for batch in whole + batches[len(whole) :] for index in batch]
    return order[: settings.max_steps * settings.batch_rows or None]


def _draw(lengths: list[int], settings: Finetune, chance: random.Random) -> list[int]:
    """Return the rows of all epochs, or as many as hold ``max_tokens``; each epoch is shuffled."""
    drawn: list[int] = []
    if settings.max_tokens:
        tokens = 0
        while tokens < settings.max_tokens:
            for index in chance.sample(range(len(lengths)), len(lengths)):
                if tokens < settings.max_tokens:
                    drawn.append(index)
                    tokens += lengths[index]
        return drawn
    rows = max(1, round(settings.epochs * len(lengths)))
    while len(drawn) < rows:
        drawn += chance.sample(range(len(lengths)), len(lengths))
    return drawn[:rows]
