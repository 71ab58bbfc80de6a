"""How near the hardware's limits ours comes: operations and bytes a second that the work needs at
least, over what the machine was measured to do.

Needed at least: a product of every weight with every real token (padding, recomputation and
expanded copies of a prompt are nobody's need), the head where a token is scored, and each weight
read once a pass. Attention itself and the adapter are left out: a few per cent at these lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.harness import BenchOptions, Contender, ContenderResult, race
from benchmarks.machine import has_gpu
from tasks.lm.weight_files import weight_files

#: Side of the square matrices whose product is timed.
_SIDE, _GPU_SIDE, _QUICK_SIDE = 2048, 8192, 256
_BYTES_A_WEIGHT = 2


@dataclass(frozen=True)
class Weights:
    """How many weights a token meets on its way through the layers, and how many in the head."""

    body: int
    head: int

    @property
    def bytes(self) -> int:
        """What reading them once comes to, in bfloat16."""
        return _BYTES_A_WEIGHT * (self.body + self.head)


@dataclass(frozen=True)
class Need:
    """What one round needs: real ``tokens`` through the body, ``scored`` ones through the head,
    ``passes`` over the weights.

    ``backward``: gradients flow back through the frozen weights, which costs another product a
    weight; none is needed for the weights' own gradients.
    """

    tokens: int
    scored: int
    passes: int
    backward: bool = False

    def flops(self, weights: Weights) -> float:
        """Return the operations; a multiplication and an addition are two."""
        return (4.0 if self.backward else 2.0) * (
            weights.body * self.tokens + weights.head * self.scored
        )

    def bytes(self, weights: Weights) -> float:
        """Return the bytes of weights to be read."""
        return float(self.passes * weights.bytes * (2 if self.backward else 1))


def read_weights(folder: str) -> Weights:
    """Count the matrices of a model's safetensors; an embedding that has no head of its own beside
    it is the head too.
    """
    shapes = dict(_shapes(Path(folder)))
    tables = {
        name: shape[0] * shape[1]
        for name, shape in shapes.items()
        if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    body = sum(
        shape[0] * shape[1]
        for name, shape in shapes.items()
        if len(shape) == 2 and name not in tables
    )
    return Weights(
        body,
        next(
            (size for name, size in tables.items() if name.endswith("lm_head.weight")),
            max(tables.values(), default=0),
        ),
    )


def roofline(
    outcome: ContenderResult, need: Need, folder: str, options: BenchOptions
) -> dict[str, Any]:
    """Return the extra key ``roofline`` of a row: achieved and measured rates (a second) and their
    ratio; nothing where the contender failed.
    """
    found = _ceiling(options)
    if outcome.failure or not outcome.seconds or found.failure:
        return {}
    weights, seconds = read_weights(folder), sorted(outcome.seconds)[len(outcome.seconds) // 2]
    rates = {"flops": need.flops(weights) / seconds, "bytes": need.bytes(weights) / seconds}
    shown = {
        name: {
            "achieved": rate,
            "ceiling": found.facts[name],
            "share": round(rate / found.facts[name], 3),
        }
        for name, rate in rates.items()
    }
    return {"roofline": shown}


def _ceiling(options: BenchOptions) -> ContenderResult:
    side = _QUICK_SIDE if options.quick else _GPU_SIDE if has_gpu() else _SIDE
    check = Contender(
        "ceiling", "benchmarks.contenders.ceiling", {"side": side, "threads": options.threads}
    )
    return race([check], replace(options, rounds=1), options.work / "ceiling")["ceiling"]


def _shapes(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    from safetensors import safe_open

    for path in weight_files(folder):
        with safe_open(path, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no mapping
                yield name, tuple(opened.get_slice(name).get_shape())
