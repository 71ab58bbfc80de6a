"""What this machine can do at most, measured: the operations a second of a large matrix product,
the bytes a second of a large copy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.worker import Done, serve
from tasks.lm.precision import dtype

#: Seconds that each of the two is repeated for.
_SECONDS = 1.0


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Make the matrices (of ``config["side"]``, in the models' precision) and the buffers (16 times
    as large).
    """
    torch.set_num_threads(config["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side, kind = config["side"], dtype("auto")
    matrices = [torch.randn(side, side, device=device).to(kind) for _ in range(2)]
    return {
        "matrices": matrices,
        "buffers": [torch.zeros(16 * side * side, dtype=kind, device=device) for _ in range(2)],
    }


def play(state: dict[str, Any]) -> Done:
    """Time both."""
    (one, other), (source, target) = state["matrices"], state["buffers"]
    products = _rate(lambda: torch.mm(one, other)) * 2 * one.shape[0] ** 3
    copied = (
        _rate(lambda: target.copy_(source)) * 2 * source.numel() * source.element_size()
    )  # read once, written once
    return Done(1, facts={"flops": products, "bytes": copied})


def _rate(work: Callable[[], Any]) -> float:
    """Return how often a second ``work`` is done."""
    work()
    _wait()
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
        for _ in range(5):
            work()
        _wait()
        times += 5
    return times / (time.perf_counter() - start)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    serve(load, play)
