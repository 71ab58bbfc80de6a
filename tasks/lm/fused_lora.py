"""LoRA linear layers computed in one piece: the adapter's product is added into the base product by
the matrix multiplication itself.

peft computes ``base(x) + lora_B(lora_A(x)) * scaling`` as separate passes over the layer's whole
output, forward and backward; for a small model those passes, not the multiplications, are most of
the time. A frozen 4-bit weight is dequantised once, to the very values that bitsandbytes computes
with at every pass, and kept in the compute dtype where ``resident`` asks for it.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch


class Frozen:
    """A layer's frozen weight in the compute dtype: held, or dequantised anew whenever it is asked
    for (``resident`` is nf4).
    """

    def __init__(self, base: Any, compute: torch.dtype, resident: str) -> None:
        self._base, self._compute = base, compute
        self._held = None if resident == "nf4" else self._computed()

    def weight(self) -> torch.Tensor:
        """Return the weight, [out, in]."""
        return self._computed() if self._held is None else self._held

    def _computed(self) -> torch.Tensor:
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
        """Return the gradients of x (where it needs one), A and B, the latter two in float32 as the
        adapter's weights are.
        """
        rows, a, b, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, b.shape[0])
        down = (gradient @ b).mul_(ctx.scaling)
        own = None
        if ctx.needs_input_grad[0]:
            own = gradient @ ctx.frozen.weight()
            own.addmm_(down, a)
            own = own.view(ctx.shape).to(ctx.dtype)
        return (
            own,
            None,
            (down.T @ rows).float(),
            (gradient.T @ low).float().mul_(ctx.scaling),
            None,
        )


def fuse_lora(model: torch.nn.Module, compute: torch.dtype, resident: str = "dequantized") -> int:
    """Make every LoRA layer of ``model`` that can be computed in one piece do so; return how many
    there are.

    Left as they are: layers with a bias, dropout, several adapters, or a variant such as DoRA.
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
