"""Loss and gradients of one batch: as ours trains (4-bit, fused, padded, bf16), and row by row by
peft and autograd alone, in float32 and, as the peers train, in autocast bf16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from benchmarks.worker import Done, serve
from tasks.core.sections.finetune import Finetune
from tasks.lm.loading import load_model
from tasks.lm.merged import round_through_nf4
from tasks.lm.precision import dtype
from tasks.lm.response_trainer import response_loss
from tasks.lm.training import lora_model

_ROWS = 4


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Read the rows; the models are loaded one after the other in the round."""
    return {**config, "rows": json.loads(Path(config["rows"]).read_text(encoding="utf-8"))[:_ROWS]}


def play(state: dict[str, Any]) -> Done:
    """Compute all three."""
    settings = Finetune(**state["settings"])
    loss, ours = _ours(settings, state["rows"], state["pad_token"])
    exact, reference = _by_row(settings, state["rows"], torch.float32)
    rounded, plain = _by_row(settings, state["rows"], dtype(settings.precision))
    found = {
        "ours": {"loss": loss, "gradient_norm": float(ours.norm())},
        "plain": {"loss": rounded, "gradient_norm": float(plain.norm())},
        "reference": {"loss": exact, "gradient_norm": float(reference.norm())},
        "cosine": float(torch.cosine_similarity(ours, reference, dim=0)),
    }
    return Done(1, found)


def _ours(
    settings: Finetune, rows: list[dict[str, list[int]]], pad_token: int
) -> tuple[float, torch.Tensor]:
    model = _known(lora_model(settings)).train()
    longest = max(len(row["prompt"]) + len(row["response"]) for row in rows)
    ids, labels = (
        torch.full((len(rows), longest), pad_token),
        torch.full((len(rows), longest), -100),
    )
    for index, row in enumerate(rows):
        size, prompt = len(row["prompt"]) + len(row["response"]), len(row["prompt"])
        ids[index, :size], labels[index, prompt:size] = (
            torch.tensor(row["prompt"] + row["response"]),
            torch.tensor(row["response"]),
        )
    loss = response_loss(
        model, {"input_ids": ids.to(model.device), "labels": labels.to(model.device)}
    )
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), _gradients(model)


def _by_row(
    settings: Finetune, rows: list[dict[str, list[int]]], precision: torch.dtype
) -> tuple[float, torch.Tensor]:
    """Return loss and gradients in ``precision``, without padding, 4-bit kernels or fused layers.

    float32 rounds nothing but the 4-bit weights.
    """
    model = load_model(settings.model, settings.revision, precision=settings.precision)
    if settings.quantization == "nf4":
        round_through_nf4(model)
    lora = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = _known(get_peft_model(model.to(precision), lora)).train()
    tokens, total = sum(len(row["response"]) for row in rows), 0.0
    for row in rows:
        ids = torch.tensor([row["prompt"] + row["response"]], device=model.device)
        with torch.autocast(model.device.type, precision, enabled=precision != torch.float32):
            logits = model(input_ids=ids, use_cache=False).logits[0, len(row["prompt"]) - 1 : -1]
        gold = ids[0, len(row["prompt"]) :]
        loss = torch.nn.functional.cross_entropy(logits.float(), gold, reduction="sum") / tokens
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, _gradients(model)


def _known(model: Any) -> Any:
    """Give the adapter known weights: a fresh one has B = 0, and A would get no gradient at all."""
    chance = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        if "lora_" in name:
            parameter.data = (torch.randn(parameter.shape, generator=chance) * 0.02).to(
                parameter.device, parameter.dtype
            )
    return model


def _gradients(model: Any) -> torch.Tensor:
    """Return the gradients of all matrices in the order of their names, as one vector."""
    gradients = [
        parameter.grad.double().flatten().cpu()
        for _, parameter in sorted(model.named_parameters())
        if parameter.grad is not None
    ]
    if not gradients:
        raise ValueError("there are no gradients")
    return torch.cat(gradients)


if __name__ == "__main__":
    serve(load, play)
