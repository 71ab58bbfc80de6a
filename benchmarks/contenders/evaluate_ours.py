"""Ranked choices as the stage ``evaluate`` computes them: texts in, scores out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.worker import Done, serve
from tasks.formats import Prompter
from tasks.models import load_model, load_tokenizer
from tasks.ranking import rank


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Load the model and read the questions."""
    model = load_model(config["model"]).eval()
    asked = json.loads(Path(config["questions"]).read_text(encoding="utf-8"))
    return {**config, "weights": model, "prompter": Prompter(load_tokenizer(config["model"]), config["form"]), "asked": asked}


def play(state: dict[str, Any]) -> Done:
    """Score every choice of every question once."""
    prompter = state["prompter"]
    prompts = [prompter.prompt(one["instruction"]) for one in state["asked"]]
    choices = [[prompter.response(choice) for choice in one["choices"]] for one in state["asked"]]
    scores = rank(state["weights"], prompts, choices, state["batch_rows"], prompter.tokenizer.pad_token_id)
    tokens = sum(len(prompt) + len(choice) for prompt, own in zip(prompts, choices, strict=True) for choice in own)
    return Done(len(prompts), {"scores": scores, "tokens": tokens})


if __name__ == "__main__":
    serve(load, play)
