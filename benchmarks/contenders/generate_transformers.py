"""transformers: ``generate`` over padded batches, or with ``continuous`` its continuous batching.

Same weights, prompts and greedy decoding.
"""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ContinuousBatchingConfig,
    GenerationConfig,
)

from benchmarks.worker import Done, serve


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Load model and tokenizer (which puts the BOS token in front)."""
    tokenizer = AutoTokenizer.from_pretrained(config["model"], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    attention = {"attn_implementation": "paged|sdpa"} if config["continuous"] else {}
    model = AutoModelForCausalLM.from_pretrained(
        config["model"], dtype=getattr(torch, config["engine"]["dtype"]), **attention
    )
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    texts = pq.read_table(config["passages"], columns=["text"])["text"].to_pylist()
    prompts = [
        f"<|tasktype|>\n{config['full_task_type']}\n<|context|>\n{text.strip()}\n<|task|>\n"
        for text in texts
    ]
    sampling = GenerationConfig(
        do_sample=False,
        max_new_tokens=config["max_tokens"],
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return {
        **config,
        "tokenizer": tokenizer,
        "net": model,
        "texts": texts,
        "prompts": prompts,
        "sampling": sampling,
    }


def play(state: dict[str, Any]) -> Done:
    """Tokenise, generate, decode."""
    new = _continuous(state) if state["continuous"] else _batched(state)
    tokenizer = state["tokenizer"]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    finished = [tokenizer.eos_token_id in row for row in new]
    outputs = {"prompts": state["prompts"], "texts": texts, "finished": finished}
    return Done(
        len(texts),
        outputs,
        {"output_tokens": sum(len(_until(row, tokenizer.eos_token_id)) for row in new)},
    )


def _batched(state: dict[str, Any]) -> list[list[int]]:
    return padded(
        state["net"],
        state["tokenizer"],
        state["tokenizer"](state["prompts"])["input_ids"],
        state["batch"],
        state["sampling"],
    )


def padded(
    net: Any, tokenizer: Any, prompts: list[list[int]], batch: int, sampling: GenerationConfig
) -> list[list[int]]:
    """Return what ``generate`` adds to each prompt, padding and all; the tokenizer pads on the
    left.
    """
    new: list[list[int]] = []
    for start in range(0, len(prompts), batch):
        given = tokenizer.pad(
            {"input_ids": prompts[start : start + batch]}, return_tensors="pt"
        ).to(net.device)
        with torch.inference_mode():
            output = net.generate(**given, generation_config=sampling)
        new += output[:, given["input_ids"].shape[1] :].tolist()
    return new


def _continuous(state: dict[str, Any]) -> list[list[int]]:
    given = state["tokenizer"](state["prompts"])["input_ids"]
    # Left to itself its cache takes what memory is free; on a CPU that is the machine's.
    room = (
        None
        if torch.cuda.is_available()
        else ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=2048)
    )
    done = state["net"].generate_batch(
        inputs=given, generation_config=state["sampling"], continuous_batching_config=room
    )
    if failed := [one.error for one in done.values() if one.error]:
        raise RuntimeError(f"{len(failed)} of {len(given)} requests failed: {failed[0]}")
    found = {tuple(one.prompt_ids): list(one.generated_tokens) for one in done.values()}
    return [found[tuple(ids)] for ids in given]


def _until(row: list[int], end: int) -> list[int]:
    return row[: row.index(end) + 1] if end in row else row


if __name__ == "__main__":
    serve(load, play)
