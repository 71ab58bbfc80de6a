"""The authors' recipe, written afresh: one row at a time, accumulated to the effective batch,
gradient checkpointing, bitsandbytes NF4 under peft, paged AdamW where there is a GPU. Batches of
one row need no padding, so none is charged to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

from benchmarks.worker import Done, serve
from tasks.lm.loading import load_model
from tasks.lm.precision import dtype


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Load the 4-bit model with a fresh adapter on every linear layer."""
    settings = config["settings"]
    model = prepare_model_for_kbit_training(
        load_model(settings["model"], quantization="nf4"),
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )
    lora = LoraConfig(
        r=settings["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(model, lora).train()
    rows = json.loads(Path(config["rows"]).read_text(encoding="utf-8"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return {
        **settings,
        "weights": model,
        "rows": rows,
        "trained": trained,
        "optimizer": _optimizer(trained, settings["learning_rate"]),
    }


def _optimizer(trained: list[torch.nn.Parameter], rate: float) -> Any:
    if torch.cuda.is_available():
        from bitsandbytes.optim import PagedAdamW32bit

        return PagedAdamW32bit(trained, lr=rate)
    return torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)


def play(state: dict[str, Any]) -> Done:
    """Train on every row once."""
    model, rows, effective = state["weights"], state["rows"], state["batch_rows"]
    total = 0.0
    for start in range(0, len(rows), effective):
        batch = rows[start : start + effective]
        for row in batch:
            ids = torch.tensor([row["prompt"] + row["response"]], device=model.device)
            labels = torch.tensor(
                [[-100] * len(row["prompt"]) + row["response"]], device=model.device
            )
            with torch.autocast(
                model.device.type, dtype=torch.bfloat16, enabled=dtype("auto") == torch.bfloat16
            ):
                loss = model(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    labels=labels,
                    use_cache=False,
                ).loss / len(batch)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(state["trained"], state["max_grad_norm"])
        state["optimizer"].step()
        state["optimizer"].zero_grad()
    return Done(sum(len(row["prompt"]) + len(row["response"]) for row in rows), {"loss": total})


if __name__ == "__main__":
    serve(load, play)
