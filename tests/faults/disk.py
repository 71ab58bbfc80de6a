"""A file system that fills up: one line, nothing lost, and on with more room."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from random import Random

from tasks.core.store import is_whole
from tests.faults.world import World, fill, log_of, run

#: Room enough: the model that tells languages is unpacked beside what register writes.
_ENOUGH = "256m"


def needs() -> str:
    """A small file system of one's own takes the right to mount."""
    done = (
        subprocess.run(
            ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            capture_output=True,
            check=False,
        )
        if shutil.which("unshare")
        else None
    )
    return (
        ""
        if done is not None and done.returncode == 0
        else "mounting a small file system is not allowed here"
    )


def full(world: World, chance: Random) -> str:
    """A file system with as much room as a seeded part of what the stage writes, then with
    enough.
    """
    name = chance.choice(sorted(world.digests))
    folder = world.folder / f"full-{chance.randrange(1 << 40)}"
    folder.mkdir()
    log = folder.with_suffix(".log")
    _mount("-t", "tmpfs", "-o", f"size={_ENOUGH}", "tmpfs", str(folder))
    try:
        fill(folder, world.reference, world.folder / "empty.db", name)
        (folder / "log").symlink_to(log)  # what the stage says is read from a disk that has room
        used = _used(folder)
        wrote = _written(world, name)
        room = used + 8192 + int(chance.random() * wrote)
        _mount("-o", f"remount,size={room}", str(folder))
        status = run(folder, name)
        said = log_of(folder).strip().splitlines()
        if status == 0:
            return world.is_as_undisturbed(folder, name)
        full = ("no space left on the device", "database or disk is full")
        if status != 2 or not any(words in line for line in said for words in full):
            return f"{name} with {room - used} of {wrote} bytes: status {status}: {said[-1:]}"
        # The last that a stage writes is a note beside its output, which is in place by then.
        out = folder / "artifacts" / name
        if out.exists() and not is_whole(out):
            return f"{name}: something half-written is in its place"
        _mount("-o", f"remount,size={_ENOUGH}", str(folder))
        if status := run(folder, name):
            return f"{name}: with room again it ends with {status}: {log_of(folder)[-300:]}"
        return world.is_as_undisturbed(folder, name)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
        folder.rmdir()
        log.unlink(missing_ok=True)


def _used(folder: Path) -> int:
    state = os.statvfs(folder)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def _written(world: World, name: str) -> int:
    """Return how many bytes the undisturbed stage leaves, work folder and cache included; measured
    once.
    """
    mark = world.folder / f"written-{name}"
    if not mark.exists():
        place = world.trial(name)
        before = _size(place)
        run(place, name)
        mark.write_text(str(_size(place) - before))
        shutil.rmtree(place)
    return int(mark.read_text())


def _size(folder: Path) -> int:
    return sum(
        -(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file()
    )


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)
