"""From rows to an adapter: what stage finetune, the answering model and cross-fit's readers share.

:mod:`tasks.lm.training` trains on token ids. Here rows become token ids, and the adapter's
``provenance.json`` records what it was trained on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.core.files import sha256_folder
from tasks.core.progress import Progress
from tasks.core.sections.finetune import Finetune
from tasks.lm.examples import (
    Built,
    Example,
    build_examples,
    examples_trained,
    name_cut,
    tokens_trained,
)
from tasks.lm.prompts import Prompter, choose_form
from tasks.lm.token_budget import build_within_budget
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.training import OnStep, Trained, train, training_key

log = logging.getLogger(__name__)
#: Rows that a warning names.
_SHOWN = 5


@dataclass(frozen=True)
class TrainingSet:
    """The examples of one training, in the prompt form of its model."""

    params: Finetune
    prompter: Prompter
    built: Built
    #: The adapter to start from; None for a new one.
    start: Path | None
    #: Its digest; empty for a new one.
    start_sha256: str

    @classmethod
    def of(
        cls,
        read: Callable[[], Iterable[dict[str, Any]]],
        params: Finetune,
        start: Path | None,
    ) -> TrainingSet:
        """Return the training on the rows (rows.INSTRUCTIONS) that ``read`` reads, more than once.

        ``params`` name the commits of hub models: they come from :func:`tasks.lm.pins.pin`.
        """
        tokenizer = load_tokenizer(params.model, params.revision)
        prompter = Prompter(tokenizer, choose_form(tokenizer, params, read(), start))
        digest = sha256_folder(start) if start else ""
        built = (
            build_within_budget(read, prompter, params)
            if params.max_tokens
            else build_examples(read(), prompter, params)
        )
        if built.shortened or built.cut_out:
            log.warning(
                "finetune.max_prompt_tokens = %d cuts the middle out of %d instructions; %d more "
                "rows lose their answer by it and are left out (raise it to keep them)%s",
                params.max_prompt_tokens,
                built.shortened,
                len(built.cut_out),
                ": " + ", ".join(built.cut_out[:_SHOWN]) if built.cut_out else "",
            )
        return cls(params, prompter, built, start, digest)

    @property
    def examples(self) -> Sequence[Example]:
        """Return the rows as token ids."""
        return self.built.examples

    @property
    def dropped(self) -> Counter[str]:
        """Return the number of rows that are left out, by reason."""
        return self.built.dropped

    @cached_property
    def key(self) -> str:
        """Return what the checkpoints and the MLflow run of this training are named after."""
        return training_key(self.params, self.examples, self.start_sha256)

    def train(self, out: Path, checkpoints: Path, on_step: OnStep | None = None) -> Trained:
        """Train, and save the adapter to ``out``; see :func:`tasks.lm.training.train`."""
        pad_token = self.prompter.tokenizer.pad_token_id
        return train(self.examples, self.params, pad_token, out, checkpoints, on_step, self.start)

    def rows_trained(self, steps: int) -> list[int]:
        """Return the places of the rows that ``steps`` steps train on, each once."""
        used = examples_trained(self.examples, self.params, steps)
        return sorted({self.built.places[index] for index in used})

    def rows_left_over(self, steps: int) -> list[int]:
        """Return the places of the rows that could be trained on, but for which ``steps`` steps had
        no room.
        """
        return sorted(set(self.built.places).difference(self.rows_trained(steps)))

    def left_out(self, steps: int) -> Counter[str]:
        """Return the number of rows that ``steps`` steps do not train on, by reason."""
        return self.dropped + Counter({name_cut(self.params): len(self.rows_left_over(steps))})

    def provenance(self, trained: Trained) -> dict[str, Any]:
        """Return what identifies the adapter: base with its commit, prompt form, settings, start,
        and how much it was trained on.
        """
        params, steps = self.params, trained.steps
        return {
            "base": params.model,
            "revision": params.revision,
            "quantization": params.quantization,
            "precision": params.precision,
            "prompt": self.prompter.form,
            "prompt_example": self.prompter.text("INSTRUCTION"),
            "adapter": True,
            "start": self.start_sha256,
            "rows": len(self.rows_trained(steps)),
            "steps": steps,
            "tokens": tokens_trained(self.examples, params, steps),
            "key": self.key,
            "settings": params.model_dump(mode="json"),
        }


def report_steps(progress: Progress) -> OnStep:
    """Return what tells ``progress`` each step and its loss."""

    def on_step(step: int, last: int, loss: float) -> None:
        progress.step(step, last, loss=round(loss, 4))

    return on_step
