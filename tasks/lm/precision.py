"""In which precision a model computes on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Its import takes a second, which a stage that asks nothing here saves.
    import torch


def dtype(precision: str) -> torch.dtype:
    """Return the dtype of a precision: ``auto`` is bfloat16 where the hardware multiplies it, else
    float32; fp8 is rounded from bfloat16.
    """
    import torch

    if precision == "auto":
        return torch.bfloat16 if has_bfloat16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp8": torch.bfloat16}[precision]


def dtype_name(precision: str) -> str:
    """Return the name of :func:`dtype`, such as ``bfloat16``."""
    return str(dtype(precision)).removeprefix("torch.")


def has_bfloat16() -> bool:
    """Tell whether the GPU, or without one the CPU, multiplies bfloat16 and does not emulate it."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


def explain_float32(precision: str) -> str:
    """Return what a log says where ``auto`` is float32: everything takes several times as long as
    in bfloat16, and the results differ a little; empty where it is not.
    """
    import torch

    if precision != "auto" or dtype(precision) != torch.float32:
        return ""
    return " in float32: this machine does not multiply bfloat16, and takes several times as long"
