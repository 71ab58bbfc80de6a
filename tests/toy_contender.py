"""A contender for the tests of the harness: sleeps, notes in a shared file that it was its turn,
and fails when told to.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.worker import Done, serve


def load(config: dict[str, Any]) -> dict[str, Any]:
    print("a library talks on stdout while it loads")
    if config.get("fail") == "load":
        raise RuntimeError("no such model")
    return {**config, "played": 0}


def play(state: dict[str, Any]) -> Done:
    with Path(state["journal"]).open("a") as journal:
        journal.write(state["letter"])
    state["played"] += 1
    if state.get("fail") == "round" and state["played"] == 2:
        sys.exit("out of memory, said the toy")
    time.sleep(state["seconds"])
    return Done(state.get("units", 10), {"scores": state.get("scores", [1, 2])}, {"rows": 3})


if __name__ == "__main__":
    serve(load, play)
