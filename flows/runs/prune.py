"""``make prune``: the checkouts of ``.runs/`` that nothing has used for a while, and why each may
go or stays.

It lists them, and removes them with ``YES=1``. What a run made stays in DVC's cache and in
MLflow, and the same command takes it from there again. What goes for good is the work of a run that
never ended.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.runs import CODE
from flows.runs.board import find_unfinished
from flows.runs.git import run_git
from flows.runs.last_run import read_last
from flows.runs.readers import READ, find_named, hold_unread, is_read
from flows.runs.worktree import RUNS, Run, hold, is_held, list_folders
from tasks.core.errors import PipelineError
from tasks.core.files import read_if_there
from tasks.core.lock import is_locked
from tasks.core.overlay import DEFAULT
from tasks.core.stage import WORK, one_line_errors
from tasks.tracking.mlflow_store import shown_uri
from tasks.tracking.versions import Version, list_versions

_DAY = 86_400.0
#: What a run, `make why` and `make ask` write in a checkout, and that tells when it was used.
_USED = (
    *("params.yaml", "dvc.lock", ".work/board.json", ".work/last_run.json"),
    *("artifacts/why", ".work/why", ".work/ask"),
)
#: Suffix of a checkout that is being removed.
_BEING_REMOVED = ".removed"


@dataclass(frozen=True)
class Checkout:
    """A checkout that was not used for a while. ``reason`` says why it stays; empty: it may go."""

    path: Path
    used: float
    size: int
    reason: str
    #: How its last run ended where it did not finish, such as "interrupted in generate".
    unfinished: str

    def show(self) -> str:
        """Return its line in the list."""
        date = time.strftime("%Y-%m-%d", time.localtime(self.used))
        told = f"stays: {self.reason}" if self.reason else "can be removed"
        if self.unfinished and not self.reason:
            told += f" ({self.unfinished}: its work would be lost)"
        size = f"{self.size / 1e6:,.0f} MB"
        return f"{date}  {size:>10}  {self.path.name}  {told}"


def main(argv: Sequence[str] | None = None) -> int:
    """List the checkouts that were not used for ``--days``; with ``--yes=1`` remove those that
    nothing needs.

    Returns 0, or 2 after an error of one line: then nothing was removed.
    """
    parser = argparse.ArgumentParser(prog="make prune", allow_abbrev=False)
    parser.add_argument("--days", default="30")
    parser.add_argument("--yes", default="")
    arguments = parser.parse_args(argv)
    with one_line_errors("prune"):
        if not re.fullmatch(r"\d{1,5}", arguments.days):
            raise PipelineError(f"DAYS={arguments.days} is not a number of days: write DAYS=30")
        found = find_old(CODE, int(arguments.days) * _DAY)
        for checkout in found:
            print(checkout.show())
        going = [checkout for checkout in found if not checkout.reason]
        size = sum(checkout.size for checkout in going)
        print(
            f"{len(going)} of {len(found)} checkouts not used for {arguments.days} days can be "
            f"removed: {size / 1e6:,.0f} MB"
        )
        if arguments.yes == "1":
            for left in (CODE / RUNS).glob(f".*{_BEING_REMOVED}"):
                shutil.rmtree(left, ignore_errors=True)
            removed = [remove(CODE, checkout) for checkout in going]
            print(
                f"{sum(removed)} removed; the same make run restores their results from DVC's cache"
            )
        elif going:
            print("nothing was removed: give YES=1 as well")
        return 0
    return 2


def find_old(main: Path, seconds: float) -> list[Checkout]:
    """Return the checkouts that were not used for ``seconds``, the oldest first.

    Raises :class:`PipelineError` where the MLflow store cannot say what its versions need.
    """
    used = {folder: _last_used(folder) for folder in list_folders(main)}
    limit = time.time() - seconds
    old = sorted((folder for folder in used if used[folder] < limit), key=used.__getitem__)
    if not old:
        return []
    reasons = _find_reasons(main, used, list_versions())
    return [
        Checkout(
            folder, used[folder], _size(folder), reasons.get(folder, ""), _tell_unfinished(folder)
        )
        for folder in old
    ]


def remove(main: Path, checkout: Checkout) -> bool:
    """Remove a checkout; return False where something uses it since it was listed."""
    path = checkout.path
    # Under a name that is no run's: a removal that is killed leaves no half of a checkout.
    aside = path.with_name(f".{path.name}{_BEING_REMOVED}")
    try:
        with (
            hold(Run(path.name, main, path, {}), patience=0.0),
            hold_unread(main, path.name),
        ):
            if _last_used(path) != checkout.used:
                raise PipelineError(f"run {path.name!r} was used a moment ago")
            if told := _tell_work(path):
                raise PipelineError(told)
            path.rename(aside)
            run_git(main, "worktree", "prune", check=False)  # who makes a worktree does it again
        shutil.rmtree(aside)
    except (PipelineError, OSError) as error:
        print(f"{path.name} stays: {error}", file=sys.stderr)
        return False
    return True


def _find_reasons(
    main: Path, used: Mapping[Path, float], versions: Iterable[Version]
) -> dict[Path, str]:
    """Return why checkouts stay, of those that do."""
    newest: dict[str, Path] = {}
    for folder in sorted(used, key=used.__getitem__):
        newest[_read_profile(folder)] = folder
    reasons = {folder: f"the newest run of {profile}" for profile, folder in newest.items()}
    named = _find_named(main, used)
    aliased = {(each.name, each.number): each for each in versions if each.aliases}
    for version in sorted(versions, key=lambda each: not each.aliases):
        for value in version.params.values():
            for name in find_named(value):
                named.setdefault(name, f"{version.describe()} was made from it")
    for folder in used:
        told = read_if_there(folder / "artifacts" / "register" / "registration.json") or {}
        holder = aliased.get((str(told.get("model_name")), str(told.get("version"))))
        if "version" in told and told.get("tracking_uri") != shown_uri():
            reasons[folder] = f"it is registered in another store, {told.get('tracking_uri')}"
        elif holder:
            reasons[folder] = f"it made {holder.describe()}"
        if folder.name in named:
            reasons[folder] = named[folder.name]
        if told := _tell_use(main, folder):
            reasons[folder] = told
    return reasons


def _tell_use(main: Path, folder: Path) -> str:
    """Return what uses a checkout now; empty where nothing does."""
    if is_held(main, folder.name):
        return "a run is in progress"
    return READ if is_read(main, folder.name) else _tell_work(folder)


def _tell_work(folder: Path) -> str:
    """Return that a stage of a ``dvc repro`` by hand is at work in a checkout; empty otherwise."""
    at_work = any(map(is_locked, folder.glob(f"{WORK}/*/lock")))
    return "a stage is at work in it" if at_work else ""


def _find_named(main: Path, folders: Iterable[Path]) -> dict[str, str]:
    """Return the names of runs that settings name: of this checkout, its profiles, other runs."""
    files = [main / "params.yaml", *sorted((main / "profiles").glob("*.yaml"))]
    files += [folder / "params.yaml" for folder in folders]
    named = {}
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        for name in find_named(text):
            named[name] = f"{file.relative_to(main)} names it"
    return named


def _read_profile(folder: Path) -> str:
    """Return the profile of a run; for a matrix's cell, and a run with a name of one's own, what
    its name begins with, or its name.
    """
    words = shlex.split((read_last(folder) or {}).get("command", ""))
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if words:
        return f"profile {given.get('PROFILE', DEFAULT)}"
    matrix, _, cell = folder.name.partition(".")
    return f"matrix {matrix}" if cell else folder.name


def _tell_unfinished(folder: Path) -> str:
    """Return how the last run ended where it did not finish; a matrix's cell does not say how."""
    if found := find_unfinished(folder, False):
        return found[0]
    told = (".work/board.json", ".work/last_run.json", "artifacts/register/registration.json")
    return "" if any((folder / name).is_file() for name in told) else "not finished"


def _last_used(folder: Path) -> float:
    written = [folder / name for name in _USED if (folder / name).exists()]
    return max(path.stat().st_mtime for path in (folder, *written))


def _size(folder: Path) -> int:
    """Return the bytes that a folder takes on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())


if __name__ == "__main__":
    sys.exit(main())
