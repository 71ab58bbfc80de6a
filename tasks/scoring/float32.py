"""Float32 where it matters in a bfloat16 model: its residual stream, or every product."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

#: Weights that are widened, and what they were.
Narrow = dict[torch.nn.Parameter, torch.Tensor]


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
    # On a CPU torch's own norm takes no float32 beside narrow weights.
    norms = [module for module in model.modules() if isinstance(module, torch.nn.LayerNorm)]
    widened: Narrow = {}
    hooks += _widen_while_running(norms, widened)
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
        for parameter, data in widened.items():  # of a pass that was interrupted
            parameter.data = data


@contextlib.contextmanager
def compute_in_float32(model: Any) -> Iterator[None]:
    """Let a model compute in float32.

    Each module's weights are widened only while it runs, so the whole model is never held twice.
    """
    narrow: Narrow = {}
    hooks = _widen_while_running(model.modules(), narrow)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, data in narrow.items():  # an interrupted forward
            parameter.data = data


def _widen_while_running(modules: Iterable[torch.nn.Module], narrow: Narrow) -> list[Any]:
    """Let each module's own weights be float32 while it runs; return the hooks. ``narrow`` holds
    what they were meanwhile.
    """

    def widen(module: torch.nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            narrow[parameter] = parameter.data
            parameter.data = parameter.data.float()

    def restore(module: torch.nn.Module, _: Any, __: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = narrow.pop(parameter)

    hooks: list[Any] = []
    for module in modules:
        if next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_pre_hook(widen))
            hooks.append(module.register_forward_hook(restore))
    return hooks
