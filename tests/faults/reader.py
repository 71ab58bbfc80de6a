"""A reader at every moment of a stage that writes over its old output: it never sees a half file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

from tasks.core.store import is_whole, seal_folder
from tests.faults import moments
from tests.faults.world import TEMPORARY, World, digest, done, finish, log_of, run

#: Folders of ``.work/<stage>`` in which files may be half there.
_UNREAD = ("output", "checkpoints", TEMPORARY)


def every_moment(world: World, chance: Random) -> str:
    """The output is the old one or the new one; what is read while a stage works (progress, sample,
    marks) is whole; what has a mark is what the mark says.
    """
    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    out = folder / "artifacts" / name
    shutil.copytree(world.reference / "artifacts" / name, out)
    (out / "old.txt").write_text(str(chance.random()))
    seal_folder(out)
    known = {digest(out), world.digests[name]} if name != "register" else set()
    seen = folder / "seen"

    def look(moment: moments.Moment) -> None:
        fault = _find_half(folder, name, known)
        if fault and not seen.exists():
            seen.write_text(f"{moment.when} {moment.call} {moment.path}: {fault}")

    status = run(folder, name, before=moments.watch(look))
    said = f"status {status}: {log_of(folder)[-300:]}" if status else ""
    said = said or (seen.read_text() if seen.exists() else "")
    said = said or world.is_as_undisturbed(folder, name) or finish(world, folder, name)
    return done(folder, said) and f"{name}: {said}"


def _find_half(folder: Path, name: str, known: set[str]) -> str:
    """Return what a reader would see that is not whole, or an empty string."""
    out = folder / "artifacts" / name
    if not is_whole(out) or (known and digest(out) not in known):
        return "the output is neither the old one nor the new one"
    for path in (folder / ".work").rglob("*"):
        inner = path.relative_to(folder / ".work").parts[1:]
        # The Trainer writes checkpoints in place: they count by their marks alone, when read. What
        # MLflow writes into its temporary folder nobody else reads.
        if not path.is_file() or path.name.startswith(".") or inner[0] in _UNREAD:
            continue
        if path.suffix == ".json" and not _is_json(path):
            return f"{path} is half-written"
        if path.suffix == ".sha256" and not _holds(path):
            return f"{path} does not hold"
    for model in (folder / "cache").glob("merged/*"):
        if model.suffix != ".partial" and not is_whole(model):
            return f"{model} is half-written"
    return ""


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except ValueError:
        return False
    return True


def _holds(mark: Path) -> bool:
    from tasks.core.store import _find_fault

    return _is_json(mark) and not _find_fault(mark)
