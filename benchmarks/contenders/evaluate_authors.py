"""Ranked choices the authors' way, written afresh: every choice a full sequence behind its prompt,
padded batches in the order of the data, log-softmax over the whole vocabulary at every position,
the choice's tokens summed.
"""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.contenders.ranked import load
from benchmarks.worker import Done, serve


def play(state: dict[str, Any]) -> Done:
    """Score every choice of every question once."""
    prompter = state["prompter"]
    pairs = []
    for one in state["asked"]:
        prompt = prompter.prompt(one["instruction"])
        pairs += [(prompt, prompter.response(choice)) for choice in one["choices"]]
    flat: list[float] = []
    for start in range(0, len(pairs), state["batch_rows"]):
        flat += _batch(
            state["weights"],
            pairs[start : start + state["batch_rows"]],
            prompter.tokenizer.pad_token_id,
        )
    scores = []
    for one in state["asked"]:
        scores.append(flat[: len(one["choices"])])
        flat = flat[len(one["choices"]) :]
    return Done(
        len(state["asked"]),
        {"scores": scores, "tokens": sum(len(prompt) + len(choice) for prompt, choice in pairs)},
    )


@torch.inference_mode()
def _batch(model: Any, pairs: list[tuple[list[int], list[int]]], pad_token: int) -> list[float]:
    length = max(len(prompt) + len(choice) for prompt, choice in pairs)
    ids = torch.full((len(pairs), length), pad_token)
    attention = torch.zeros((len(pairs), length), dtype=torch.long)
    labels = torch.zeros((len(pairs), length), dtype=torch.long)
    scored = torch.zeros((len(pairs), length), dtype=torch.bool)
    for row, (prompt, choice) in enumerate(pairs):
        size = len(prompt) + len(choice)
        ids[row, :size], attention[row, :size] = torch.tensor(prompt + choice), 1
        labels[row, len(prompt) - 1 : size - 1] = torch.tensor(choice)
        scored[row, len(prompt) - 1 : size - 1] = True
    device = model.device
    logits = model(
        input_ids=ids.to(device), attention_mask=attention.to(device), use_cache=False
    ).logits
    logs = torch.log_softmax(logits.float(), dim=-1).gather(-1, labels.to(device)[..., None])[
        ..., 0
    ]
    return list((logs * scored.to(device)).sum(-1).tolist())


if __name__ == "__main__":
    serve(load, play)
