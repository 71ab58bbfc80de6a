"""A path that was run: its gate, its memory, its speed beside the roofline, and the table."""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from benchmarks.harness import PASSED
from benchmarks.roofline import Need, Weights
from benchmarks.worker import gpu_peak_bytes
from tasks.core.markdown import table

#: What a path may leave on the GPU: libraries keep workspaces, a model is larger.
MOST_LEFT_GIB = 1.0


class NotRun(Exception):
    """A path cannot run here; the message says why."""


@dataclass
class Figures:
    """What a path found. ``seconds`` are those in which ``tokens`` were done, without start-up."""

    gate: str = PASSED
    note: str = ""
    tokens: int = 0
    seconds: float = 0.0
    need: Need | None = None
    weights: Weights | None = None


@dataclass
class Outcome:
    """A line of the result. Speeds are tokens a second; memory is GiB on the GPU, None without one.

    ``gate`` is ``passed``, ``failed: why`` or ``not run: why``. ``left_gib`` is what the path left
    behind, more than was held before the first one.
    """

    path: str
    gate: str
    seconds: float
    tokens_a_second: float | None = None
    roofline: float | None = None
    peak_gib: float | None = None
    left_gib: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the line as results.json holds it."""
        return asdict(self)


@dataclass
class Runner:
    """Runs paths one after the other; one that fails does not stop the next.

    ``ceiling`` holds the machine's measured operations (``flops``) and ``bytes`` a second.
    """

    ceiling: dict[str, float]
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._held = held_gib()

    def run(self, name: str, path: Callable[[], Figures]) -> None:
        """Run a path, collect its garbage, and measure what is still held."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        figures = _try(path)
        one = Outcome(name, figures.gate, round(time.perf_counter() - start, 1), note=figures.note)
        if figures.seconds:
            one.tokens_a_second = round(figures.tokens / figures.seconds, 1)
        if figures.need and figures.weights:
            least = max(
                figures.need.flops(figures.weights) / self.ceiling["flops"],
                figures.need.bytes(figures.weights) / self.ceiling["bytes"],
            )
            one.roofline = round(figures.tokens / least, 1)
        if self._held is not None:
            one.peak_gib = round(gpu_peak_bytes() / 2**30, 2)
            one.left_gib = round((held_gib() or 0.0) - self._held, 2)
            if one.gate == PASSED and one.left_gib > MOST_LEFT_GIB:
                one.gate = f"failed: {one.left_gib} GiB are left on the GPU"
        self.outcomes.append(one)


def _try(path: Callable[[], Figures]) -> Figures:
    try:
        figures = path()
        if figures.gate != PASSED:
            figures.gate = f"failed: {figures.gate}"
        return figures
    except NotRun as reason:
        return Figures(f"not run: {reason}")
    except Exception as error:  # noqa: BLE001 - any failure of a path is a line of the table
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        return Figures(f"failed: {type(error).__name__}: {first}"[:300])


def held_gib() -> float | None:
    """Return what all processes hold on the GPU; None without one."""
    gc.collect()
    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    return float(total - free) / 2**30


def render(outcomes: Sequence[Outcome]) -> str:
    """Return the lines as a table for people."""
    heads = ("path", "s", "tokens/s", "roofline", "share", "peak GiB", "left GiB", "gate", "note")
    text = table(heads, map(_cells, outcomes), padded=True)
    return (
        f"{text}\n\nroofline: tokens/s if the work took no longer than its operations, or its "
        "reads of the weights, at this machine's measured rates.\npeak: of this process, by torch. "
        "left: held on the GPU after the path, more than before the first."
        + ("" if torch.cuda.is_available() else " Neither is measured without a GPU.")
    )


def _cells(one: Outcome) -> tuple[str, ...]:
    share = (
        f"{one.tokens_a_second / one.roofline:.0%}" if one.tokens_a_second and one.roofline else "-"
    )
    numbers = [
        "-" if value is None else f"{value:,.0f}" for value in (one.tokens_a_second, one.roofline)
    ]
    memory = ["-" if value is None else f"{value:.2f}" for value in (one.peak_gib, one.left_gib)]
    return (one.path, f"{one.seconds:.1f}", *numbers, share, *memory, one.gate, one.note)
