"""Two different faults, one after the other, in the same place."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.faults import moments
from tests.faults.corruption import flip
from tests.faults.world import World, done, finish, none_left, run

Fault = Callable[[World, Path, str, Random], None]


def two_faults(world: World, chance: Random) -> str:
    """Two of: a kill, a failing disk, a flipped byte of the work folder; then an undisturbed
    run.
    """
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    # A flipped byte is first only where something was left: after a kill late in the stage.
    kinds = chance.choice(
        (("kill", "flip"), ("disk", "kill"), ("kill", "disk"), ("flip", "kill"), ("disk", "flip"))
    )
    if kinds[0] == "flip":
        _kill(world, folder, name, chance)
    for kind in kinds:
        _FAULTS[kind](world, folder, name, chance)
    said = "" if none_left(folder) else "an orphan is left"
    said = said or finish(world, folder, name)
    return done(folder, said) and f"{name}, {' then '.join(kinds)}: {said}"


def _kill(world: World, folder: Path, name: str, chance: Random) -> None:
    number = chance.randrange(world.moments(name))
    run(folder, name, before=moments.at(number, moments.kill))


def _disk(world: World, folder: Path, name: str, chance: Random) -> None:
    number, lasting = chance.randrange(world.moments(name)), chance.random() < 0.5
    run(folder, name, before=moments.fail(number, errno.EIO, lasting))


def _flip(world: World, folder: Path, name: str, chance: Random) -> None:
    files = sorted(
        path
        for place in (folder / ".work", folder / "cache")
        for path in place.rglob("*")
        if path.is_file() and path.name != "lock" and path.stat().st_size
    )
    if files:
        flip(chance, files)


_FAULTS: dict[str, Fault] = {"kill": _kill, "disk": _disk, "flip": _flip}
