"""The contender's side of a benchmark: a process that loads once and runs a round on request.

Standard library alone, so that it imports in every environment. One JSON object a line: ``{"do":
"load", ...}``, ``{"do": "round"}`` ..., ``{"do": "close"}`` come in; each is answered by one line.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Done:
    """A round's work: how many ``units`` of it, what came out (for the gate; or a function that
    computes it, unclocked), and further facts.
    """

    units: float
    outputs: Any = None
    facts: dict[str, Any] = field(default_factory=dict)


def serve(load: Callable[[dict[str, Any]], Any], play: Callable[[Any], Done]) -> None:
    """Answer the harness until it says close. ``load`` gets the configuration and returns what
    ``play`` is given in every round.

    Each round's outputs go to the file ``config["outputs"]``, after the clock has stopped.
    """
    answers = _take_stdout()
    state: Any = None
    outputs: Path | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] == "close":
            return
        try:
            start = time.perf_counter()
            if asked["do"] == "load":
                outputs = Path(asked["outputs"])
                state = load(asked)
                answer: dict[str, Any] = {"seconds": time.perf_counter() - start}
            else:
                done = play(state)
                answer = {
                    "seconds": time.perf_counter() - start,
                    "units": done.units,
                    "facts": done.facts,
                }
                if outputs and done.outputs is not None:
                    outputs.write_text(
                        json.dumps(done.outputs() if callable(done.outputs) else done.outputs),
                        encoding="utf-8",
                    )
        except Exception as error:  # noqa: BLE001 - whatever a peer's library raises is this row's result, not the end of the benchmark
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(
            json.dumps({**answer, "peak_bytes": peak_bytes(), "gpu_peak_bytes": gpu_peak_bytes()}),
            file=answers,
            flush=True,
        )


def peak_bytes() -> int:
    """Return the most memory this process has held so far, in bytes; 0 where the system does not
    tell.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    # Not getrusage: its maximum starts at what the parent held when it forked.
    return next(
        (int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")),
        0,
    )


def gpu_peak_bytes() -> int:
    """Return the most memory torch has held on the GPU so far, in bytes; 0 without torch or GPU."""
    torch = sys.modules.get("torch")
    return (
        int(torch.cuda.max_memory_allocated())
        if torch is not None and torch.cuda.is_available()
        else 0
    )


def _take_stdout() -> Any:
    """Return the pipe to the harness, and send whatever libraries print to the log instead."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    return answers
