"""One flipped byte in what an earlier run left: found before it is used, named, and mended or
refused.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random

from tests.faults.world import INPUTS, STAGES, World, log_of, run


def shard(world: World, chance: Random) -> str:
    """A shard of generate's journal."""
    return _journal(world, chance, "generate", ".work/generate/journal/*/*", _without_output)


def journal(world: World, chance: Random) -> str:
    """The journal of files that ingest has read: a byte of its results.

    The corpus's own list in it is written again by every run, and never read.
    """
    folder = world.trial("ingest")
    run(folder, "ingest")
    _without_output(folder)
    file = folder / ".work/ingest/journal.sqlite"
    whole, results = file.read_bytes(), _results(file)
    while _results(flip(chance, [file])) == results:
        file.write_bytes(whole)
    return _again(world, folder, "ingest", file, file.stem)


def journal_head(world: World, chance: Random) -> str:
    """The head of that journal: it is no database any more."""
    folder = world.trial("ingest")
    run(folder, "ingest")
    _without_output(folder)
    file = folder / ".work/ingest/journal.sqlite"
    data = bytearray(file.read_bytes())
    data[chance.randrange(16)] ^= 1 << chance.randrange(8)
    file.write_bytes(data)
    return _again(world, folder, "ingest", file, file.stem)


def _results(journal: Path) -> list[object]:
    """Return what a journal holds of the files' results; empty where it cannot be read."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as base:
            return [
                row
                for table in ("done", "part")
                for row in base.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
            ]
    except (sqlite3.Error, UnicodeError):
        return []


def predictions(world: World, chance: Random) -> str:
    """The predictions of a model that evaluate has scored."""
    return _journal(world, chance, "evaluate", ".work/evaluate/journal/*/*", _without_output)


def merged(world: World, chance: Random) -> str:
    """A merged checkpoint in the cache."""

    def forget(folder: Path) -> None:
        _without_output(folder)
        shutil.rmtree(folder / ".work")

    return _journal(world, chance, "evaluate", "cache/merged/*/*", forget)


def checkpoint(world: World, chance: Random) -> str:
    """A checkpoint of a training that was killed."""
    folder = world.trial("finetune")
    status = run(folder, "finetune", before=lambda: _die_at_step(chance.randrange(7, 12)))
    if status != -signal.SIGKILL:
        return f"was not killed but ends with {status}"
    newest = max(
        folder.glob(".work/finetune/checkpoints/*/checkpoint-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
    )
    file = flip(chance, sorted(path for path in newest.iterdir() if path.is_file()))
    return _again(world, folder, "finetune", file, newest.name)


def output(world: World, chance: Random) -> str:
    """A file of an earlier stage's output, as DVC would put it back from a damaged cache: refused
    by the stage that reads it.
    """
    name = chance.choice(
        [
            stage
            for stage in sorted(world.digests)
            if any(path.startswith("artifacts/") for path in INPUTS[stage].values())
        ]
    )
    folder = world.trial(name)
    read = [folder / path for path in INPUTS[name].values() if path.startswith("artifacts/")]
    files = sorted(
        file
        for path in read
        for file in (path.rglob("*") if path.is_dir() else [path])
        if file.is_file()
    )
    file = flip(chance, files)
    status, said = run(folder, name), log_of(folder)
    # A damaged manifest is seen as damage of a file that it no longer describes.
    wanted = file.name == "manifest.sha256.json" or str(file.relative_to(folder)) in said
    if status != 2 or not wanted or "make repair" not in said:
        return f"{file.relative_to(folder)}: status {status}: {said[-300:]}"
    shutil.rmtree(folder)
    return ""


def _journal(
    world: World, chance: Random, stage: str, pattern: str, forget: Callable[[Path], None]
) -> str:
    folder = world.trial(stage)
    run(folder, stage)
    forget(folder)
    # What a value was made from has no digest: damaged, it fits no corpus, and the value goes with
    # the first corpus that does not need it.
    files = sorted(
        path for path in folder.glob(pattern) if path.is_file() and path.suffix != ".texts"
    )
    if not files:
        return f"there is no {pattern}"
    file = flip(chance, files)
    return _again(world, folder, stage, file, file.parent.name if "cache" in pattern else file.stem)


def _again(world: World, folder: Path, stage: str, file: Path, named: str) -> str:
    (folder / "log").unlink()
    status, said = run(folder, stage), log_of(folder)
    fault = f"status {status}: {said[-300:]}" if status else world.is_as_undisturbed(folder, stage)
    if not fault and named not in said:
        fault = f"not named: {said[-300:]}"
    if not fault:
        shutil.rmtree(folder)
    return fault and f"{file.relative_to(folder)}: {fault}"


def flip(chance: Random, files: list[Path]) -> Path:
    """Change one byte of one of the files, larger ones more often, as on a disk."""
    sized = [path for path in files if path.stat().st_size]
    file = chance.choices(sized, [path.stat().st_size ** 0.5 for path in sized])[0]
    data = bytearray(file.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.chmod(0o644)
    file.write_bytes(data)
    return file


def _without_output(folder: Path) -> None:
    shutil.rmtree(
        folder
        / "artifacts"
        / next(stage for stage in reversed(STAGES) if (folder / "artifacts" / stage).exists())
    )


def _die_at_step(last: int) -> None:
    import os

    import tasks.core.progress

    real = tasks.core.progress.Progress.advance

    def advance(self, rows, **facts):  # type: ignore[no-untyped-def]
        real(self, rows, **facts)
        if self.done >= last:
            os.kill(os.getpid(), signal.SIGKILL)

    tasks.core.progress.Progress.advance = advance
