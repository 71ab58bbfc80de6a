"""A Trainer of Q-LoRA whose loss falls on response tokens, with the head applied only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from tasks.core.process import world_size
from tasks.core.sections.finetune import Finetune
from tasks.lm.checkpoints import SealCheckpoint
from tasks.lm.examples import Example
from tasks.lm.loading import vocabulary_logits

_IGNORED = -100
_LENGTH_MULTIPLE = 32


def response_trainer(
    model: Any,
    arguments: TrainingArguments,
    examples: Sequence[Example],
    order: Sequence[int],
    settings: Finetune,
    pad_token: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trainer:
    """Return the Trainer of a LoRA model over examples in the ``order`` of training."""
    model.forward = MethodType(_forward_to_loss, model)
    # At every checkpoint peft would ask the hub for the base model's vocabulary.
    model.save_pretrained = partial(model.save_pretrained, save_embedding_layers=False)
    trainer = _ResponseTrainer(
        model=model,
        args=arguments,
        train_dataset=_Labelled(
            examples, order, settings.micro_batch_rows * world_size(), pad_token
        ),
        data_collator=_Collator(pad_token),
        callbacks=[SealCheckpoint(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


@dataclass(frozen=True)
class _Labelled(Dataset[dict[str, list[int]]]):
    """Examples in the order of training, given ids and labels when their batch is made.

    Empty rows come last where several processes train: accelerate would fill the last batch with
    the first rows again.
    """

    examples: Sequence[Example]
    order: Sequence[int]
    multiple: int
    pad_token: int

    def __len__(self) -> int:
        missing = -len(self.order) % self.multiple if world_size() > 1 else 0
        return len(self.order) + missing

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        if place >= len(self.order):
            return {"input_ids": [self.pad_token], "labels": [_IGNORED]}
        example = self.examples[self.order[place]]
        ids = [*example.prompt, *example.response]
        return {"input_ids": ids, "labels": [_IGNORED] * len(example.prompt) + example.response}


@dataclass(frozen=True)
class _Collator:
    """Pads on the right: input_ids and labels, each int64 [rows, length].

    There is no attention mask: under causal attention no token sees the padding to its right, and
    padding has no loss. Without a mask the fast attention kernels run. The length is a multiple of
    32, so that kernels compiled for one shape serve many batches.
    """

    pad_token: int

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        length = -(-longest // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE

        def pad(key: str, value: int) -> torch.Tensor:
            return torch.tensor([row[key] + [value] * (length - len(row[key])) for row in rows])

        return {"input_ids": pad("input_ids", self.pad_token), "labels": pad("labels", _IGNORED)}


class _ResponseTrainer(Trainer):
    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Divide by the response tokens of the whole effective batch, not of each micro batch.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss = model(inputs["input_ids"], inputs["labels"], num_items_in_batch)["loss"]
        # The tokens are counted over all processes, whose gradients are then averaged: times the
        # number of processes, the average is the sum.
        return loss * world_size() if world_size() > 1 else loss


def _forward_to_loss(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, tokens: Any
) -> dict[str, torch.Tensor]:
    """Return the loss; this replaces the model's own forward, because gradients are summed over the
    processes only for what a forward computed.

    accelerate wraps a forward in autocast. It is off here: the weights have the dtype of
    ``precision`` already.
    """
    with torch.autocast(input_ids.device.type, enabled=False):
        return {"loss": response_loss(model, {"input_ids": input_ids, "labels": labels}, tokens)}


def response_loss(model: Any, inputs: dict[str, torch.Tensor], tokens: Any = None) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens divided by ``tokens``, a scalar.

    ``inputs``: input_ids and labels, each [rows, length], padded on the right; -100 marks tokens
    without loss. ``tokens`` None: the number of labelled tokens. The value equals the model's own
    loss, but the head and the softmax (a large share of the work of a small model with a 49k
    vocabulary) run on labelled positions only.
    """
    labels = inputs["labels"][:, 1:]
    labelled = labels != _IGNORED
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.get_decoder()(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
    logits = vocabulary_logits(base, hidden[:, :-1][labelled])
    return functional.cross_entropy(logits, labels[labelled], reduction="sum") / (
        labelled.sum() if tokens is None else tokens
    )
