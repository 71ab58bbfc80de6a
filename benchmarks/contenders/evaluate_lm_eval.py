"""Ranked choices by lm-evaluation-harness: its HFLM's ``loglikelihood`` on the same texts, the end
mark written out behind every choice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from benchmarks.worker import Done, serve
from tasks.lm.loading import load_model
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Give HFLM the very model and tokenizer that the others have."""
    tokenizer = load_tokenizer(config["model"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Chat prompts bring their own start; the other forms have the tokenizer's in front, where there
    # is one.
    start = config["form"] != "chat" and tokenizer.bos_token_id is not None
    model = HFLM(
        load_model(config["model"]).eval(),
        tokenizer=tokenizer,
        device=device,
        batch_size=config["batch_rows"],
        add_bos_token=start,
    )
    asked = json.loads(Path(config["questions"]).read_text(encoding="utf-8"))
    return {
        **config,
        "model": model,
        "prompter": Prompter(tokenizer, config["form"]),
        "asked": asked,
    }


def play(state: dict[str, Any]) -> Done:
    """Score every choice of every question once."""
    prompter, end = state["prompter"], state["prompter"].tokenizer.eos_token
    lead = " " if prompter.form == "pretrained" else ""
    pairs = [
        (prompter.text(one["instruction"]), f"{lead}{choice}{end}")
        for one in state["asked"]
        for choice in one["choices"]
    ]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    flat = [score for score, _ in state["model"].loglikelihood(requests, disable_tqdm=True)]
    scores = []
    for one in state["asked"]:
        scores.append(flat[: len(one["choices"])])
        flat = flat[len(one["choices"]) :]
    # Counted after its own tokenizer call, so that the gate sees where it cuts otherwise.
    tokens = sum(len(part) for pair in pairs for part in state["model"]._encode_pair(*pair))
    return Done(len(state["asked"]), {"scores": scores, "tokens": tokens})


if __name__ == "__main__":
    serve(load, play)
