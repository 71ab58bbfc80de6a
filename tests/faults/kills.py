"""SIGKILL at the n-th moment of a stage: of itself, of the process above it, of its whole group; and
of the run that recovers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.faults import moments
from tests.faults.world import World, done, finish, log_of, none_left, run, start, wait


def stage(name: str):  # type: ignore[no-untyped-def]
    """Kill the stage's own process."""
    return lambda world, chance: _trial(world, chance, name, moments.kill)


def parent(name: str):  # type: ignore[no-untyped-def]
    """Kill the process that started it, as when DVC is killed: the stage has to go with it."""
    return lambda world, chance: _trial(world, chance, name, moments.kill_parent, above=True)


def group(name: str):  # type: ignore[no-untyped-def]
    """Kill everything at once."""
    return lambda world, chance: _trial(world, chance, name, moments.kill_group, above=True)


def _trial(
    world: World, chance: Random, name: str, kill: Callable[[], None], above: bool = False
) -> str:
    folder = world.trial(name)
    number = world.draw_moment(name, chance)
    wait(start(folder, name, before=moments.at(number, kill), parent=above))
    said = "" if none_left(folder) else "an orphan is left"
    before = Kept.of(folder)
    said = said or finish(world, folder, name) or before.redone(folder)
    return done(folder, said) and f"moment {number}: {said}"


def recovering(world: World, chance: Random) -> str:
    """A stage that is killed, and killed again while it recovers; sometimes a third time."""
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    numbers = [world.draw_moment(name, chance)]
    run(folder, name, before=moments.at(numbers[0], moments.kill))
    for _ in range(chance.choice((1, 1, 2))):
        # How many moments the recovery has depends on the kill: counted in a copy.
        copy = folder.with_name(f"{folder.name}-counted")
        shutil.copytree(folder, copy, symlinks=True)
        run(copy, name, before=moments.tally(copy.with_suffix(".tally")))
        numbers.append(chance.randrange(copy.with_suffix(".tally").stat().st_size))
        copy.with_suffix(".tally").unlink()
        shutil.rmtree(copy)
        run(folder, name, before=moments.at(numbers[-1], moments.kill))
    said = "" if none_left(folder) else "an orphan is left"
    said = said or finish(world, folder, name)
    return done(folder, said) and f"{name}, moments {numbers}: {said}"


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
