"""Two runs of one stage in one place."""

from __future__ import annotations

import re
import shutil
import time
from random import Random

from tests.faults.settings import lock_waits
from tests.faults.world import World, log_of, start, wait


def at_once(world: World, chance: Random) -> str:
    """Both give the right bytes, or the second names the holder."""
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    first = start(folder, name)
    time.sleep(chance.uniform(0.0, 0.2))
    second = start(folder, name)
    statuses = sorted([wait(first), wait(second)])
    said = log_of(folder)
    if statuses not in ([0, 0], [0, 2]) or (
        statuses[1] == 2
        and not re.search(rf"already being run here by .*\"pid\": ({first}|{second})", said)
    ):
        return f"{name}: {statuses}: {said[-300:]}"
    fault = world.is_as_undisturbed(folder, name)
    if not fault:
        shutil.rmtree(folder)
    return fault and f"{name}: {fault}"


def names_holder(world: World, chance: Random) -> str:
    """A stage that takes long is held; the second one says within five seconds by whom."""
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    first, waits = start(folder, name, before=lambda: _hang(folder, name)), lock_waits(chance)
    while not (folder / "hangs").exists():
        time.sleep(0.01)
    started = time.monotonic()
    status = wait(start(folder, name, before=waits))
    took = time.monotonic() - started
    (folder / "go").touch()
    wait(first)
    if status != 2 or f'"pid": {first}' not in log_of(folder) or took > 5:
        return f"{name}: status {status} after {took:.1f} s: {log_of(folder)[-300:]}"
    fault = world.is_as_undisturbed(folder, name)
    if not fault:
        shutil.rmtree(folder)
    return fault


def _hang(folder, name: str) -> None:  # type: ignore[no-untyped-def]
    """Let the stage wait under its lock until it is let go."""
    import tasks.core.stage

    real = tasks.core.stage.sweep  # the first thing a stage does under its lock

    def slow(*arguments):  # type: ignore[no-untyped-def]
        (folder / "hangs").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
        return real(*arguments)

    tasks.core.stage.sweep = slow
