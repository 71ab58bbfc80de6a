"""A stage of the graph, and where its time goes: ``python -m benchmarks.contenders.timed_stage
TIMES.json tasks.generate --params ...``.

Every moment counts once: what a model load imports is import, what stands behind both is the
stage's own work.
"""

from __future__ import annotations

import builtins
import importlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Module -> its functions that load a model or start an engine. They are patched before a stage
#: imports them.
_LOADS = {
    "tasks.lm.models": ("base_path",),
    "tasks.lm.tokenizers": ("load_tokenizer",),
    "tasks.lm.loading": ("load_model",),
    "tasks.lm.merged": ("merged_folder",),
    "tasks.lm.engine": ("open_engine",),
}


class _Clock:
    """Seconds by kind, each moment under the innermost kind that is open."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self._open = ["work"]
        self._since = time.perf_counter()

    def timed(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function with its time under ``kind``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if kind not in self._open:
                self.calls[kind] += 1
            self._turn()
            self._open.append(kind)
            try:
                return function(*args, **kwargs)
            finally:
                self._turn()
                self._open.pop()

        return call

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    def told(self) -> dict[str, Any]:
        """Return seconds by kind, and how many models were loaded or engines started."""
        self._turn()
        return {
            "seconds": {kind: round(seconds, 3) for kind, seconds in self.seconds.items()},
            "loads": self.calls["load"],
        }


def main(arguments: list[str]) -> int:
    """Run the stage and write its times, whatever its status."""
    times, module, *rest = arguments
    clock = _Clock()
    builtins.__import__ = clock.timed("import", builtins.__import__)
    importlib.import_module = clock.timed("import", importlib.import_module)
    for place, names in _LOADS.items():
        holder = importlib.import_module(place)
        for name in names:
            setattr(holder, name, clock.timed("load", getattr(holder, name)))
    try:
        # What `python -m` runs of a package.
        return int(importlib.import_module(f"{module}.__main__").main(rest))
    finally:
        Path(times).write_text(json.dumps(clock.told()), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
