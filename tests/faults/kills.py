"""SIGKILL at seeded moments: of a stage, of the process above it, of its whole group."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.faults.world import World, log_of, none_left, run, start, wait

Kill = Callable[[int], None]


def stage(name: str):  # type: ignore[no-untyped-def]
    """Kill the stage's own process."""
    return lambda world, chance: _trial(
        world, chance, name, lambda pid: os.kill(pid, signal.SIGKILL)
    )


def parent(name: str):  # type: ignore[no-untyped-def]
    """Kill the process that started it, as when DVC is killed: the stage has to go with it."""
    return lambda world, chance: _trial(
        world, chance, name, lambda pid: os.kill(pid, signal.SIGKILL), above=True
    )


def group(name: str):  # type: ignore[no-untyped-def]
    """Kill everything at once."""
    return lambda world, chance: _trial(
        world, chance, name, lambda pid: os.killpg(pid, signal.SIGKILL), above=True
    )


def _trial(world: World, chance: Random, name: str, kill: Kill, above: bool = False) -> str:
    folder = world.trial(name)
    pid = start(folder, name, parent=above)
    time.sleep(chance.uniform(0.0, 1.02 * world.seconds[name]))
    kill(pid)
    wait(pid)
    said = "" if none_left(folder) else "an orphan is left"
    before = Kept.of(folder)
    status = run(folder, name)
    said = said or (f"the second run ends with {status}: {log_of(folder)[-300:]}" if status else "")
    said = said or world.is_as_undisturbed(folder, name) or before.redone(folder)
    if not said:
        shutil.rmtree(folder)
    return said


class Kept:
    """What a killed run had done, so that it can be said whether the next one did it again."""

    def __init__(self, shards: dict[Path, int], steps: int) -> None:
        self.shards = shards
        self.steps = steps

    @classmethod
    def of(cls, folder: Path) -> Kept:
        """Look at journal and progress."""
        shards = {
            path: path.stat().st_mtime_ns
            for path in folder.glob(".work/*/journal/**/*.parquet")
            if path.with_suffix(".sha256").exists()
        }
        progress = folder / ".work/finetune/progress.json"
        return cls(shards, json.loads(progress.read_text())["done"] if progress.exists() else 0)

    def redone(self, folder: Path) -> str:
        """Return an empty string unless a finished shard, or more than one checkpoint interval, was
        done again.
        """
        again = [
            path.name
            for path, stamp in self.shards.items()
            if not path.exists() or path.stat().st_mtime_ns != stamp
        ]
        if again:
            return f"done again: {again}"
        resumed = [
            int(step) for step in re.findall(r"continuing from checkpoint-(\d+)", log_of(folder))
        ]
        if self.steps - (resumed[-1] if resumed else 0) > 3:
            return f"{self.steps} steps were done, resumed from {resumed}"
        return ""
