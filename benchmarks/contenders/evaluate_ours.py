"""Ranked choices as the stage ``evaluate`` computes them: texts in, scores out."""

from __future__ import annotations

from typing import Any

from benchmarks.contenders.ranked import load
from benchmarks.worker import Done, serve
from tasks.scoring.ranking import rank


def play(state: dict[str, Any]) -> Done:
    """Score every choice of every question once."""
    prompter = state["prompter"]
    prompts = [prompter.prompt(one["instruction"]) for one in state["asked"]]
    choices = [[prompter.response(choice) for choice in one["choices"]] for one in state["asked"]]
    scores = rank(
        state["weights"], prompts, choices, state["batch_rows"], prompter.tokenizer.pad_token_id
    )
    tokens = sum(
        len(prompt) + len(choice)
        for prompt, own in zip(prompts, choices, strict=True)
        for choice in own
    )
    scored = sum(len(choice) for own in choices for choice in own)
    return Done(
        len(prompts),
        {"scores": scores, "tokens": tokens},
        {"tokens": scored + sum(len(prompt) for prompt in prompts), "scored": scored},
    )


if __name__ == "__main__":
    serve(load, play)
