"""LoRA layers in one piece compute what peft's own passes compute, with 4-bit weights held or
dequantised again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.lm.fused_lora import fuse_lora
from tasks.lm.loading import load_model


def _adapted(folder: Path, quantization: str, precision: str, **more: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(
        load_model(str(folder), quantization=quantization, precision=precision),
        LoraConfig(
            r=4,
            lora_alpha=8,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            init_lora_weights=False,
            **more,
        ),
    )
    return model.train()


def _pass(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    ids = torch.arange(4, 44).reshape(2, 20)
    logits = model(input_ids=ids).logits.float()
    logits.pow(2).mean().backward()
    return logits.detach(), {
        name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad
    }


def test_outputs_and_gradients_are_pefts(tiny_model: Path) -> None:
    expected, gradients = _pass(_adapted(tiny_model, "none", "float32"))
    model = _adapted(tiny_model, "none", "float32")
    assert fuse_lora(model, torch.float32) == 14
    logits, own = _pass(model)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert own.keys() == gradients.keys() and any(
        gradient.abs().max() > 1e-4 for gradient in gradients.values()
    )
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name], gradient, rtol=1e-4, atol=1e-7)


def test_held_and_renewed_4_bit_weights_give_the_same_bits_and_pefts_values(
    tiny_model: Path,
) -> None:
    passes = {}
    for resident in ("nf4", "dequantized", ""):
        model = _adapted(tiny_model, "nf4", "float32")
        assert not resident or fuse_lora(model, torch.float32, resident) == 14
        passes[resident] = _pass(model)
    assert torch.equal(passes["nf4"][0], passes["dequantized"][0])
    assert all(
        torch.equal(passes["nf4"][1][name], gradient)
        for name, gradient in passes["dequantized"][1].items()
    )
    torch.testing.assert_close(passes["nf4"][0], passes[""][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("more", [{"lora_dropout": 0.1}, {"use_dora": True}])
def test_layers_that_compute_more_than_the_product_are_left_as_they_are(
    tiny_model: Path, more: dict[str, Any]
) -> None:
    assert fuse_lora(_adapted(tiny_model, "none", "float32", **more), torch.float32) == 0
