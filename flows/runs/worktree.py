"""Where a run takes place: in the main checkout, or, with its own profile or settings, in a git
worktree under ``.runs/``.

A worktree shares only DVC's cache and MLflow's store with the main checkout, so several runs work
side by side and none touches the user's files. It is kept: a rerun of the same name skips what is
unchanged and continues what was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows.runs.corpus_files import tell_items_read, tell_unhashable
from flows.runs.git import ask_dvc, committer, run_dvc, run_git
from flows.runs.own_process import run_module
from flows.runs.readers import find_named, reading
from flows.runs.run_params import write_params
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, write_text
from tasks.core.lock import LockedError, hold_lock, is_locked
from tasks.core.overlay import DEFAULT
from tasks.core.sections.finetune import CHAMPION
from tasks.core.setting_paths import FILES, NOTHING
from tasks.core.stage import WORK

RUNS = Path(".runs")
#: Folders whose files are read in the main checkout, whatever the run's worktree holds.
_READ_HERE = ("profiles", "datasets", "matrices")
#: What stages make in a worktree, and git may not ignore.
_MADE = (WORK, Path("artifacts"), Path("dvc.lock"))
#: Seconds that a run waits for others to make a worktree, fetch a champion or save an experiment.
_PATIENCE = 3600.0
#: DVC's status of data that differ; it is another where DVC cannot look, as during a run's hashing.
_DIFFERS = 1
_CODE = ("*.py", "*.yaml", "*.yml", "*.toml", "*.jinja", "*.j2", "*.html", "*.csv")


@dataclass(frozen=True)
class Run:
    """One run: its name, where it takes place, and its parameters."""

    name: str
    main: Path
    #: The checkout it runs in: ``main`` itself, or ``main/.runs/<name>``.
    path: Path
    params: dict[str, Any] = field(repr=False)
    #: The make command that asks for it again; empty where none does.
    command: str = ""
    #: The files of ``profiles/`` that its parameters come from.
    profiles: tuple[Path, ...] = ()

    @property
    def own_checkout(self) -> bool:
        """True where the run has a worktree of its own."""
        return self.path != self.main

    @property
    def named(self) -> set[str]:
        """The other runs whose files its parameters name."""
        return {*find_named(json.dumps(self.params, default=str))} - {self.name}

    def reading(self) -> contextlib.AbstractContextManager[None]:
        """Keep ``make prune`` from its checkout, and from those that it names, in a block."""
        return reading(self.main, {self.name, *self.named})


@contextlib.contextmanager
def hold(run: Run, patience: float = 4.0) -> Iterator[None]:
    """Hold the run's checkout, and read those that its settings name; a second run of the same name
    fails after ``patience`` seconds, with the holder's name.
    """
    path = _lock_of(run.main, run.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with hold_lock(path, "pipeline", patience), reading(run.main, run.named):
            yield
    except LockedError:
        raise PipelineError(
            f"run {run.name!r} is already in progress, held by {_holder(path)}: wait for it, stop "
            "it, or give this one another name"
        ) from None


def fingerprint_results(params: Mapping[str, Any]) -> str:
    """Return a digest of the parameters that results depend on: all but the limits of the run."""
    return fingerprint({name: section for name, section in params.items() if name != "run"})


def folder_of(main: Path, name: str) -> Path:
    """Return the checkout of the run of that name."""
    return main if name == DEFAULT else main / RUNS / name


def list_folders(main: Path) -> list[Path]:
    """Return the checkouts of the runs with a name of their own, by name; without what is left of
    one that ``make prune`` was removing.
    """
    return sorted(path for path in (main / RUNS).glob("[!.]*") if path.is_dir())


def is_held(main: Path, name: str) -> bool:
    """Tell whether a living process holds the checkout of that name."""
    return is_locked(_lock_of(main, name))


def _lock_of(main: Path, name: str) -> Path:
    return main / ".work" / "runs" / f"{name}.lock"


def prepare(run: Run, log: Callable[[str], None]) -> None:
    """Make the run's checkout ready: worktree, shared cache, data, parameters. Hold it first."""
    corpus = run.main / run.params["ingest"]["corpus"]
    if run.main.resolve().is_relative_to(corpus.resolve()):
        raise PipelineError(
            f"ingest.corpus: {corpus} cannot be the corpus, the checkout itself is in it: name the "
            "folder of the documents"
        )
    if told := tell_unhashable(corpus):
        raise PipelineError(f"ingest.corpus: {told}")
    ingest, items = run.params["ingest"], run.params["evaluate"]["items"]
    if told := tell_items_read(run.main / items, corpus, ingest):
        raise PipelineError(f"evaluate.items: {told}")
    if run.own_checkout:
        with _hold_shared(run.main):
            _make_worktree(run, log)
        _share_cache(run)
        _check_out_data(run, log)
        write_params(run.params, run.main, run.path, log)
    if run.params["finetune"]["start"] == CHAMPION:
        with _hold_shared(run.main):
            _place_champion(run, log)
    for section, key in FILES:
        value = run.params[section][key]
        if not (run.path / value).exists() and not (run.main / value).exists():
            told = f"{section}.{key}: {value} does not exist (looked in {run.main})"
            items = f"; make label writes it, or set it to {NOTHING} to run without labels"
            raise PipelineError(told + (items if key == "items" else ""))


def record(run: Run) -> str:
    """Save the finished run as a DVC experiment of the main checkout; return DVC's message."""
    # Only this graph: without a target DVC would also commit bonito/dvc.yaml, and fail where the
    # generator was never made.
    save = ("exp", "save", "--force", "--name", run.name, "dvc.yaml")
    with _hold_shared(run.main):
        return run_dvc(run.path, *save, env={**os.environ, **committer(run.main)})


@contextlib.contextmanager
def _hold_shared(main: Path) -> Iterator[None]:
    """Let one run at a time write to what all runs share: the git folder, and the champions that
    were fetched. Of two that end together, `dvc exp save` would fail in one, or save it under no
    name: its references (``refs/exps/exec``) are the same for both.
    """
    path = main / WORK / "shared.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(hold_lock(path, "shared", _PATIENCE))
        except LockedError:
            raise PipelineError(
                f"another run has been starting or ending for an hour, in {_holder(path)}: wait "
                "for it or stop it"
            ) from None
        yield


def _make_worktree(run: Run, log: Callable[[str], None]) -> None:
    head = run_git(run.main, "rev-parse", "--verify", "--quiet", "HEAD", check=False)
    if not head:
        run_git(run.main, "rev-parse", "--git-dir")  # says why, where git refuses the folder
        raise PipelineError(
            f"{run.main} has no commit yet: a run with its own settings needs one (git commit)"
        )
    # The user's uncommitted edits as a commit on no branch; empty where there are none. Files and
    # index stay as they are, but for the times in it: git would fail on a file that was written
    # again with the same text.
    run_git(run.main, "update-index", "-q", "--refresh", check=False)
    edits = run_git(run.main, "stash", "create", env={**os.environ, **committer(run.main)})
    # -z: else git writes letters beyond ASCII as numbers.
    listed = run_git(run.main, "ls-files", "-z", "--others", "--exclude-standard", "--", *_CODE)
    untracked = [name for name in listed.split("\0") if name]
    used = [name for name in untracked if _is_read_here(run, name)]
    if used:
        log(f"used from your checkout, not versioned with this run: {_names(used)}")
    left_out = [name for name in untracked if Path(name).parts[0] not in _READ_HERE]
    if left_out:
        log(f"not part of run {run.name!r}, as git does not track them: {_names(left_out)}")
    _renew(run, head)
    kept = _read(run.path / "dvc.lock")
    run_git(run.path, "checkout", "--detach", "--force", head)
    if edits:
        run_git(run.path, "restore", f"--source={edits}", "--staged", "--worktree", "--", ".")
    # A file that was new in the edits of an earlier run: git does not track it, and it may be old.
    # Those of today's edits are in the index meanwhile.
    spared = [f"--exclude=/{name}" for name in _MADE]
    run_git(run.path, "clean", "--quiet", "--force", "-d", *spared)
    run_git(run.path, "reset", "--quiet")
    if kept is not None:  # the lock of this run's stages, not of the main checkout's
        write_text(run.path / "dvc.lock", kept)


def _renew(run: Run, head: str) -> None:
    """Make the worktree, or make it whole again: one whose checkout was moved, whose removal was
    stopped half-way, or in which git was killed. What its stages made stays.
    """
    path = run.path
    known = (_read(path / ".git") or "").removeprefix("gitdir: ").strip()
    if known and not Path(known).exists():  # the checkout was moved, and this is its old place
        run_git(run.main, "worktree", "repair", str(path), check=False)
    run_git(run.main, "worktree", "prune")
    aside = path.with_name(f".{path.name}.broken")
    # In a folder without a sound .git file, git would work in the main checkout around it.
    if path.exists() and not _is_worktree(path, run.main):
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    if not path.exists():
        run_git(run.main, "worktree", "prune")
        run_git(run.main, "worktree", "add", "--detach", "--force", str(path), head)
    for name in _MADE:
        if (aside / name).exists():
            _remove(path / name)
            (aside / name).rename(path / name)
    shutil.rmtree(aside, ignore_errors=True)
    # This run's lock is held, so whoever locked the index is dead.
    (Path(run_git(path, "rev-parse", "--absolute-git-dir")) / "index.lock").unlink(missing_ok=True)


def _is_worktree(path: Path, main: Path) -> bool:
    """Tell whether git takes a folder for a checkout of its own, and of this repository: that of a
    copied one belongs to the original.
    """
    if not (path / ".git").is_file():
        return False
    ask = ("rev-parse", "--path-format=absolute", "--git-common-dir")
    top = run_git(path, "rev-parse", "--show-toplevel", check=False)
    return top == str(path.resolve()) and run_git(path, *ask, check=False) == run_git(main, *ask)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_read_here(run: Run, name: str) -> bool:
    """Tell whether the run reads an untracked file in the main checkout: its profiles and its
    dataset file.
    """
    return run.main / name in run.profiles or name == run.params["evaluate"]["dataset"]


def _names(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (" ..." if len(paths) > 5 else "")


def _share_cache(run: Run) -> None:
    cache = run_dvc(run.main, "cache", "dir").strip()
    shared = run.path / ".dvc" / "config.local"
    # Only where needed: a DVC command costs seconds, and a matrix has many cells.
    if f"dir = {cache}" not in map(str.strip, (_read(shared) or "").splitlines()):
        run_dvc(run.path, "cache", "dir", "--local", cache)


def _check_out_data(run: Run, log: Callable[[str], None]) -> None:
    for pointer in sorted(path.name for path in run.path.glob("*.dvc") if path.is_file()):
        folder = pointer.removesuffix(".dvc")
        here = (run.main / folder).exists()
        if here and ask_dvc(run.main, "status", "--quiet", pointer) == _DIFFERS:
            log(
                f"{folder}/ differs from {pointer}: run {run.name!r} takes the recorded version "
                f"(dvc add {folder} records yours)"
            )
        try:
            run_dvc(run.path, "checkout", "--force", pointer)
        except PipelineError as error:
            if not here:
                told = f"{folder}/ is not here: run make data, then the same command"
            elif "Checkout failed" in str(error):  # DVC names what is missing in its next lines
                told = (
                    f"DVC's cache lacks the version of {folder}/ that {pointer} records: .venv/bin/"
                    f"dvc fetch {pointer} gets it, .venv/bin/dvc add {folder} records yours"
                )
            else:
                raise
            raise PipelineError(told) from error


def _place_champion(run: Run, log: Callable[[str], None]) -> None:
    """Write the champion where the graph reads it, in a process of its own: it loads libraries that
    this one does without.
    """
    store = str(run.main / WORK / CHAMPION)
    log(run_module("tasks.tracking.champion_start", CHAMPION, run.path, "--store", store))


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return f"process {holder['pid']} since {holder['since']}"
    except (OSError, ValueError, KeyError):
        return "another process"


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
