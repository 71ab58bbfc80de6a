"""From rows to an adapter: what stage finetune, the answering model and cross-fit's readers share.

:mod:`tasks.lm.training` trains on token ids. Here rows become token ids, and the adapter's
``provenance.json`` records what it was trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tasks.core.files import sha256_folder
from tasks.core.model_params import Finetune
from tasks.core.progress import Progress
from tasks.lm.examples import Example, build_examples, tokens_trained
from tasks.lm.models import load_tokenizer
from tasks.lm.prompts import Prompter, choose_form
from tasks.lm.training import OnStep, Trained, train, training_key


@dataclass(frozen=True)
class TrainingSet:
    """The examples of one training, in the prompt form of its model."""

    params: Finetune
    prompter: Prompter
    examples: Sequence[Example]
    #: Rows that are left out, by reason.
    dropped: Counter[str]
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
        """Return the training on the rows (rows.INSTRUCTIONS) that ``read`` reads, twice.

        ``params`` name the commits of hub models: they come from :func:`tasks.lm.pins.pin`.
        """
        tokenizer = load_tokenizer(params.model, params.revision)
        prompter = Prompter(tokenizer, choose_form(tokenizer, params, read(), start))
        examples, dropped = build_examples(read(), prompter, params)
        digest = sha256_folder(start) if start else ""
        return cls(params, prompter, examples, dropped, start, digest)

    @cached_property
    def key(self) -> str:
        """Return what the checkpoints and the MLflow run of this training are named after."""
        return training_key(self.params, self.examples, self.start_sha256)

    def train(self, out: Path, checkpoints: Path, on_step: OnStep | None = None) -> Trained:
        """Train, and save the adapter to ``out``; see :func:`tasks.lm.training.train`."""
        pad_token = self.prompter.tokenizer.pad_token_id
        return train(self.examples, self.params, pad_token, out, checkpoints, on_step, self.start)

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
            "rows": len(self.examples),
            "steps": steps,
            "tokens": tokens_trained(self.examples, params, steps) if steps else 0,
            "key": self.key,
            "settings": params.model_dump(mode="json"),
        }


def report_steps(progress: Progress) -> OnStep:
    """Return what tells ``progress`` each step and its loss."""

    def on_step(step: int, last: int, loss: float) -> None:
        progress.step(step, last, loss=round(loss, 4))

    return on_step
