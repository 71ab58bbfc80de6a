"""A kill before and after each call that changes a file: the old file or the new one, never a mixture,
never neither.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

from tasks.core import files
from tests.faults import moments
from tests.faults.answering import Answering, answer_lines
from tests.faults.world import ROOT, World, done, finish, fork, run, wait


def _killed(folder: Path, number: int, work: Callable[[], None]) -> int:
    def child() -> int:
        moments.at(number, moments.kill)()
        work()
        return 0

    return wait(fork(folder, child, {}))


def file(world: World, chance: Random) -> str:
    """A write over an old file, killed at each of its moments."""
    return _small(world).ask(f"file {world.folder / 'commit'}")


def folder(world: World, chance: Random) -> str:
    """A folder's commit over an old folder, killed at each of its moments."""
    return _small(world).ask(f"folder {world.folder / 'commit'}")


def _small(world: World) -> Answering:
    """Return a process without the libraries: to fork one that has them takes as long as a commit,
    and each moment is one.
    """
    command = [sys.executable, "-m", "tests.faults.commits"]
    log = world.folder / "commits.log"
    make = partial(Answering, command, ROOT, dict(os.environ), log)
    return world.shared("commits", make, Answering.close)


def _kill_file(folder: Path) -> str:
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


def _kill_folder(place: Path) -> str:
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
    """A stage over its own old output: a kill at one of its moments leaves the old output or the
    new one, and the next run mends it.
    """
    name = chance.choice(sorted(set(world.digests) - {"register"}))
    folder = world.trial(name)
    shutil.copytree(world.reference / "artifacts" / name, folder / "artifacts" / name)
    number = chance.randrange(world.moments(name))
    run(folder, name, before=moments.at(number, moments.kill))
    said = world.is_as_undisturbed(folder, name) or finish(world, folder, name)
    return done(folder, said) and f"{name}, moment {number}: {said}"


def order(world: World, chance: Random) -> str:
    """What a power cut would need: all that is renamed into place was synced before, and its folder
    after, before anything else is named; a mark names what is on the disk already.
    """
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    log = folder.with_suffix(".moments")
    if status := run(folder, name, before=_record_contents(log)):
        return f"{name} ends with {status}"
    said = find_disorder(log.read_text().splitlines())
    log.unlink()
    return done(folder, said) and f"{name}: {said}"


def _record_contents(log: Path) -> Callable[[], None]:
    """Write down every moment and, for a rename, the files that are renamed."""

    def act(moment: moments.Moment) -> None:
        files = []
        if moment.call in ("replace", "rename", "_exchange") and moment.when == "before":
            files = [str(path) for path in Path(moment.source).rglob("*") if path.is_file()]
        with log.open("a") as out:
            row = (moment.when, moment.call, moment.path, moment.source, *files)
            out.write("\t".join(row) + "\n")

    return moments.watch(act)


def find_disorder(lines: list[str]) -> str:
    """Return what a power cut could take from a commit that these moments (when, call, path, source
    and its files) show; an empty string if nothing.
    """
    synced: set[str] = set()
    unnamed = ""  # the folder of a name that is not on the disk yet
    commits = 0
    for when, call, path, source, *inner in (line.split("\t") for line in lines):
        if when == "after" and call == "fsync":
            synced.add(path)
            unnamed = "" if path == unnamed else unnamed
        if when == "after" and call in ("open", "write"):
            synced.discard(path)
        if when != "before" or call not in ("replace", "rename", "_exchange"):
            continue
        if ".partial" not in source and not source.endswith("/output"):
            continue
        commits += 1
        if unnamed:
            return f"{path} was named before {unnamed} was synced"
        for file in (source, *inner):
            if file not in synced:
                return f"{path} was named before {file} was synced"
        unnamed = str(Path(path).parent)
    if unnamed:
        return f"{unnamed} was not synced in the end"
    return "" if commits else "no commit was seen"


def _answer(question: str) -> str:
    kind, _, place = question.partition(" ")
    return {"file": _kill_file, "folder": _kill_folder}[kind](Path(place))


if __name__ == "__main__":
    answer_lines(_answer)
