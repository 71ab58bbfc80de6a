"""Fused LoRA layers: one matrix multiplication adds the adapter's product to the base product.

peft computes ``base(x) + lora_B(lora_A(x)) * scaling`` as separate passes over the layer's whole
output, forward and backward. For a small model those passes, not the multiplications, take most of
the time. With ``resident`` dequantized, a frozen 4-bit weight is dequantised once, to the values
that bitsandbytes computes with at every pass, and kept in the compute dtype.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


class Frozen:
    """A layer's frozen weight in the compute dtype: kept, or (``resident`` nf4) dequantised for
    every use.
    """

    def __init__(self, base: Any, compute: torch.dtype, resident: str) -> None:
        self._base, self._compute = base, compute
        self._kept = None if resident == "nf4" else self._compute_weight()

    def weight(self) -> torch.Tensor:
        """Return the weight, [out, in]."""
        return self._compute_weight() if self._kept is None else self._kept

    def _compute_weight(self) -> torch.Tensor:
        weight: torch.Tensor = self._base.weight.data
        state = getattr(self._base.weight, "quant_state", None)
        if state is not None:
            from bitsandbytes.functional import dequantize_4bit

            weight = dequantize_4bit(weight, state)
        return weight.to(self._compute)


class _LoraProduct(torch.autograd.Function):
    """``x W' + scaling (x A') B'`` and its gradients for x, A and B; W is frozen."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, frozen: Frozen, a: torch.Tensor, b: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Return [..., out] of x [..., in], W [out, in], a [rank, in], b [out, rank], computed in
        W's dtype.
        """
        weight = frozen.weight()
        rows = x.reshape(-1, x.shape[-1]).to(weight.dtype)
        a, b = a.to(weight.dtype), b.to(weight.dtype)
        low = rows @ a.T
        out = rows @ weight.T
        out.addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(rows, a, b, low)
        ctx.frozen, ctx.scaling, ctx.shape, ctx.dtype = frozen, scaling, x.shape, x.dtype
        return out.view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """Return the gradients of x (if it needs one), A and B; the last two in float32, as are the
        adapter's weights.
        """
        rows, a, b, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, b.shape[0])
        down = (gradient @ b).mul_(ctx.scaling)
        gradient_x = None
        if ctx.needs_input_grad[0]:
            gradient_x = gradient @ ctx.frozen.weight()
            gradient_x.addmm_(down, a)
            gradient_x = gradient_x.view(ctx.shape).to(ctx.dtype)
        return (
            gradient_x,
            None,
            (down.T @ rows).float(),
            (gradient.T @ low).float().mul_(ctx.scaling),
            None,
        )


def fuse_lora(model: torch.nn.Module, compute: torch.dtype, resident: str = "dequantized") -> int:
    """Fuse every plain LoRA layer of ``model``; return their number.

    Layers with a bias, dropout, several adapters, or a variant such as DoRA stay unchanged.
    """
    from peft.tuners.lora import LoraLayer

    fused = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and _is_plain(module):
            (name,) = module.active_adapters
            module.forward = MethodType(
                _forward(name, Frozen(module.get_base_layer(), compute, resident)), module
            )
            fused += 1
    return fused


def _is_plain(module: Any) -> bool:
    names = module.active_adapters
    return (
        len(names) == 1
        and names[0] in module.lora_A
        and isinstance(module.get_base_layer(), torch.nn.Linear)
        and module.get_base_layer().bias is None
        and not module.lora_variant
        and isinstance(module.lora_dropout[names[0]], torch.nn.Identity)
    )


def _forward(name: str, frozen: Frozen) -> Any:
    def forward(module: Any, x: torch.Tensor, *_: Any, **__: Any) -> Any:
        return _LoraProduct.apply(
            x, frozen, module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
        )  # type: ignore[no-untyped-call]

    return forward
