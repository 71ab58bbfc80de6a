"""Q-LoRA as the stage ``finetune`` does it: its model, its order of rows, its Trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import set_seed

from benchmarks.worker import Done, serve
from tasks.core.sections.finetune import Finetune
from tasks.lm.examples import Example, training_order
from tasks.lm.response_trainer import response_trainer
from tasks.lm.training import lora_model, training_arguments


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Load the 4-bit model with a fresh adapter, and make its Trainer."""
    settings = Finetune(**config["settings"])
    examples = [
        Example(**row) for row in json.loads(Path(config["rows"]).read_text(encoding="utf-8"))
    ]
    arguments = training_arguments(settings, Path(config["work"]))
    arguments.save_strategy = "no"  # no contender's time holds a checkpoint
    set_seed(settings.seed)
    lengths = [len(example.prompt) + len(example.response) for example in examples]
    order = training_order(lengths, settings)
    trainer = response_trainer(
        lora_model(settings), arguments, examples, order, settings, config["pad_token"]
    )
    return {
        "trainer": trainer,
        "tokens": sum(lengths),
        "scored": sum(len(example.response) for example in examples),
    }


def play(state: dict[str, Any]) -> Done:
    """Train on every row once."""
    loss = state["trainer"].train().training_loss
    return Done(
        state["tokens"], {"loss": loss}, {"tokens": state["tokens"], "scored": state["scored"]}
    )


if __name__ == "__main__":
    serve(load, play)
