"""Half-done work of an earlier version of the code: it is continued or refused by name."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path
from random import Random

from tests.faults import moments
from tests.faults.world import World, done, log_of, run


def work(world: World, chance: Random) -> str:
    """A stage is killed; its work folder then gets the forms that earlier versions wrote, or was
    made by code of another digest.
    """
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    number = chance.randrange(world.moments(name))
    other = chance.random() < 0.3

    def before() -> None:
        if other:
            import tasks.core.store

            tasks.core.store.code_digest = lambda module: f"earlier {module}"
        moments.at(number, moments.kill)()

    run(folder, name, before=before)
    place = folder / ".work" / name
    place.mkdir(parents=True, exist_ok=True)
    changes = [] if other else chance.sample(sorted(_CHANGES), chance.choice((1, 2)))
    for change in changes:
        _CHANGES[change](place, chance)
    status = run(folder, name)
    said = f"status {status}: {log_of(folder)[-300:]}" if status else ""
    if status == 2 and str(place.relative_to(folder)) in log_of(folder).splitlines()[-1]:
        said = ""
    elif not said:
        said = world.is_as_undisturbed(folder, name)
    what = changes or ["other code"]
    return done(folder, said) and f"{name}, moment {number}, {what}: {said}"


def _bare_marks(place: Path, chance: Random) -> None:
    """A mark was the bare digest of one file."""
    for mark in place.rglob("*.sha256"):
        mark.write_text("0" * 64 + "\n")


def _no_digests(place: Path, chance: Random) -> None:
    """ingest's journal had no digests."""
    journal = place / "journal.sqlite"
    if journal.exists():
        with contextlib.closing(sqlite3.connect(journal)) as base, base:
            base.execute("DROP TABLE IF EXISTS done")
            base.execute("CREATE TABLE done (key TEXT PRIMARY KEY, final INTEGER) WITHOUT ROWID")


def _no_manifests(place: Path, chance: Random) -> None:
    """Checkpoints had no manifest."""
    for manifest in place.rglob("manifest.sha256.json"):
        manifest.unlink()


def _leftovers(place: Path, chance: Random) -> None:
    """Files that nobody writes any more, where today's are."""
    for name in ("output/rows.parquet", "journal/rows.parquet", "journal/old/rows.csv"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(chance.randbytes(100))
    for name in ("progress.json", "sample.json", "unpacked", "staging"):
        if not (place / name).exists():
            (place / name).write_text("{}")


def _lock_without_holder(place: Path, chance: Random) -> None:
    """The lock file held a bare number."""
    (place / "lock").write_text("4711")


def _flat_journal(place: Path, chance: Random) -> None:
    """The journal had no folders of keys."""
    for folder in sorted((place / "journal").glob("*")):
        if folder.is_dir():
            for file in folder.iterdir():
                file.rename(place / "journal" / file.name)
            shutil.rmtree(folder)


_CHANGES = {
    "bare marks": _bare_marks,
    "a journal without digests": _no_digests,
    "no manifests": _no_manifests,
    "leftovers": _leftovers,
    "another lock": _lock_without_holder,
    "a flat journal": _flat_journal,
}
