"""Float32 where it matters in a bfloat16 model: its residual stream, or every product."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def wide_residual(model: Any) -> Iterator[bool]:
    """Let a bfloat16 model sum its layers in float32; its products stay bfloat16.

    Yield whether its scores are rounded and could be computed in float32.
    """
    if model.dtype == torch.float32:
        yield False
        return
    narrow = model.dtype
    hooks = [
        model.get_input_embeddings().register_forward_hook(lambda _, __, output: output.float())
    ]
    # Without these hooks autocast would round the input of every product again, three times after
    # a norm, and would compute the rotations in float32.
    for module in model.modules():
        if type(module).__name__.endswith("Norm"):
            hooks.append(module.register_forward_hook(lambda _, __, output: output.to(narrow)))
        elif type(module).__name__.endswith("RotaryEmbedding"):
            hooks.append(
                module.register_forward_hook(
                    lambda _, __, output: tuple(part.to(narrow) for part in output)
                )
            )
    try:
        with torch.autocast(model.device.type, dtype=narrow):
            # Packed 4-bit weights cannot be widened: such a model is scored once.
            yield all(parameter.is_floating_point() for parameter in model.parameters())
    finally:
        for hook in hooks:
            hook.remove()


@contextlib.contextmanager
def compute_in_float32(model: Any) -> Iterator[None]:
    """Let a model compute in float32.

    Each module's weights are widened only while it runs, so the whole model is never held twice.
    """
    narrow_data: dict[torch.nn.Parameter, torch.Tensor] = {}

    def widen(module: torch.nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            narrow_data[parameter] = parameter.data
            parameter.data = parameter.data.float()

    def narrow(module: torch.nn.Module, _: Any, __: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = narrow_data.pop(parameter)

    hooks: list[Any] = []
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(narrow))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, data in narrow_data.items():  # an interrupted forward
            parameter.data = data
