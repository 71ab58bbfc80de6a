"""A kill before and after each rename and each fsync: the old file or the new one, never a mixture,
never neither.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tasks.core import files
from tests.faults.world import INPUTS, World, fork, log_of, run, wait

_CALLS = ((os, "replace"), (os, "rename"), (os, "fsync"), (files, "_exchange"), (shutil, "rmtree"))


def count_down(moment: int, tally: Path | None = None) -> Callable[[], None]:
    """Return what makes a process kill itself at the ``moment``-th border (before and after every
    call); ``tally`` counts them.
    """
    left = [moment]

    def border() -> None:
        if tally:
            with tally.open("a") as file:
                file.write("x")
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            border()
            result = real(*arguments, **named)
            border()
            return result

        return call

    def install() -> None:
        for module, name in _CALLS:
            setattr(module, name, wrapped(getattr(module, name)))

    return install


def _killed(folder: Path, moment: int, work: Callable[[], None]) -> int:
    def child() -> int:
        count_down(moment)()
        work()
        return 0

    return wait(fork(folder, child, {}))


def file(world: World, chance: Random) -> str:
    """One moment of a write over an old file."""
    folder = world.folder / "commit"
    folder.mkdir()
    path = folder / "a.json"
    try:
        moment = 0
        while True:
            files.write_json(path, "old")
            status = _killed(folder, moment, lambda: files.write_json(path, "new"))
            if files.read_json(path) not in ("old", "new"):
                return f"moment {moment}: {path.read_text()!r}"
            if status == 0:
                return (
                    ""
                    if files.read_json(path) == "new" and moment > 3
                    else f"undisturbed after {moment} moments"
                )
            moment += 1
    finally:
        shutil.rmtree(folder)


def folder(world: World, chance: Random) -> str:
    """One moment of a folder's commit over an old folder."""
    place = world.folder / "commit"
    place.mkdir()

    def write(word: str) -> None:
        with files.staged_folder(place / "out", place / "scratch") as out:
            for name in ("one", "two"):
                files.write_json(out / name, word)

    try:
        write("old")
        moment = 0
        while True:
            status = _killed(place, moment, lambda: write("new"))
            found = (
                [files.read_json(place / "out" / name) for name in ("one", "two")]
                if (place / "out").is_dir()
                else []
            )
            if found not in (["old", "old"], ["new", "new"]):
                return f"moment {moment}: {found}"
            if status == 0:
                return (
                    ""
                    if found[0] == "new" and moment > 5
                    else f"undisturbed after {moment} moments"
                )
            write("old")
            moment += 1
    finally:
        shutil.rmtree(place)


def stage(world: World, chance: Random) -> str:
    """A stage over its own old output: a kill at one of its borders leaves the old output or the
    new one, and the next run mends it.
    """
    name = chance.choice(sorted(set(world.digests) - {"register"}))
    folder = world.trial(name)
    shutil.copytree(world.reference / "artifacts" / name, folder / "artifacts" / name)
    tally = folder / "tally"
    run(folder, name, before=count_down(-1, tally))
    moment = chance.randrange(tally.stat().st_size)
    shutil.rmtree(folder / ".work")
    run(folder, name, before=count_down(moment))
    if said := world.is_as_undisturbed(folder, name):
        return f"{name}, moment {moment}: {said}"
    if status := run(folder, name):
        return (
            f"{name}, moment {moment}: the second run ends with {status}: {log_of(folder)[-300:]}"
        )
    said = world.is_as_undisturbed(folder, name)
    if not said:
        shutil.rmtree(folder)
    return said


def order(world: World, chance: Random) -> str:
    """What a power cut would need: every file that is renamed into place was synced before, and its
    folder after.
    """
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    log = folder / "calls"

    def install() -> None:
        sync, replace = os.fsync, os.replace

        def told_sync(descriptor: int) -> None:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
            sync(descriptor)
            with log.open("a") as out:
                out.write(f"sync\t{target}\n")

        def told_replace(source: Any, target: Any, **named: Any) -> None:
            replace(source, target, **named)
            with log.open("a") as out:
                out.write(f"rename\t{Path(source).absolute()}\t{Path(target).absolute()}\n")

        os.fsync, os.replace = told_sync, told_replace  # type: ignore[assignment]

    if status := run(folder, name, before=install):
        return f"{name} ends with {status}"
    calls = [line.split("\t") for line in log.read_text().splitlines()]
    ours = [
        (number, call)
        for number, call in enumerate(calls)
        if call[0] == "rename" and (".partial" in call[1] or call[1].endswith("output"))
    ]
    for number, (_, source, target) in ours:
        if ["sync", source] not in calls[:number]:
            return f"{name}: {target} was named before its data was synced"
        if ["sync", str(Path(target).parent)] not in calls[number:]:
            return f"{name}: the folder of {target} was not synced"
    shutil.rmtree(folder)
    return (
        "" if ours and INPUTS[name] and sys.platform == "linux" else f"{name}: no commit was seen"
    )
