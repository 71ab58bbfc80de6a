"""A look at the corpus: what changed since the last run that ended well, and what a run made of it.

The state is one file a run's name, ``.work/follow/<name>.json``: the digests of the corpus and of
the settings at the last look whose run ended well. It is written after the run, as a whole, so a
look that was killed or whose run failed is done again by the next one.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.runs.figures import tabulate_f1
from flows.runs.last_run import UNDONE, read_last_flow_run, read_stages
from flows.runs.unsettled import explain_unsettled
from flows.runs.worktree import Run, fingerprint_results
from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path, read_json, write_json
from tasks.core.listing import Listing, digest_listing, list_files
from tasks.core.markdown import escape, table
from tasks.core.params import parse_params
from tasks.core.progress import REUSED
from tasks.core.sections.ingest import Ingest
from tasks.core.setting_paths import POINTER, is_address, read_pointer
from tasks.core.stage import WORK

FOLLOW = "follow"
#: Names of files that a report shows of each kind.
_SHOWN = 20


@dataclass(frozen=True)
class Look:
    """The corpus of a run now, and its difference to the last look."""

    state: Path
    settings: str
    files: Listing
    #: Kind -> names: ``added``, ``changed`` and ``removed`` files of the corpus.
    moved: dict[str, list[str]]
    first: bool
    other_settings: bool
    #: Files that the last run could not read, and the next one may; in words, or empty.
    unsettled: str
    #: The last flow run that ended in the checkout, before this look's run.
    flow_run: str
    #: The file that holds the address of a corpus on another machine.
    pointer: Path | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to run for."""
        moved = any(self.moved.values())
        return self.first or self.other_settings or bool(self.unsettled) or moved

    def describe(self) -> str:
        """Return the difference as a sentence."""
        counts = [f"{len(names):,} {kind}" for kind, names in self.moved.items()]
        text = f"{len(self.files):,} files: {', '.join(counts)}"
        if self.first:
            return f"first look at {len(self.files):,} files"
        text += "; the settings changed" if self.other_settings else ""
        return f"{text}; {self.unsettled}" if self.unsettled else text


def look(run: Run) -> Look:
    """List the corpus of ``run`` without reading what its files say; nothing is kept.

    Raises :class:`PipelineError` where it does not exist, or cannot be reached.
    """
    pointer = _find_pointer(run)
    state = run.main / WORK / FOLLOW / f"{run.name}.json"
    last = _read_state(state)
    known: Listing = {name: (*entry,) for name, entry in last.get("files", {}).items()}
    files = (
        _list_address(run, pointer)
        if pointer
        else list_files(run.main / run.params["ingest"]["corpus"], known)
    )
    settings = fingerprint_results(run.params)
    both = known.keys() & files.keys()
    moved = {
        "added": sorted(files.keys() - known.keys()),
        "changed": sorted(name for name in both if files[name][2] != known[name][2]),
        "removed": sorted(known.keys() - files.keys()),
    }
    return Look(
        state,
        settings,
        files,
        moved,
        first=not last,
        other_settings=bool(last) and last["settings"] != settings,
        unsettled=explain_unsettled(run.path),
        flow_run=read_last_flow_run(run.path),
        pointer=pointer,
    )


def announce(seen: Look) -> None:
    """Write a digest of what is at a corpus' address below it, in the file that holds it: DVC, and
    what begins from a champion, look at that file alone. Hold the run meanwhile.
    """
    if seen.pointer is None:
        return
    address, place = read_pointer(seen.pointer), seen.pointer.resolve()  # a link stays one
    with atomic_path(place) as partial:
        partial.touch()
        shutil.copymode(place, partial)  # the address may have a password
        partial.write_text(f"{address}\n# make follow: {digest_listing(seen.files)}\n", "utf-8")


def settle(seen: Look) -> None:
    """Keep what was seen: the next look compares with it. Call it when the run has ended well."""
    write_json(seen.state, {"settings": seen.settings, "files": seen.files})


def report(seen: Look, run: Run, failed: str = "") -> str:
    """Return the look and its run in Markdown: what changed, what was reused, F1, the decision.

    ``failed`` is the error of a run that did not end well.
    """
    parts = [f"## What changed\n\n{escape(seen.describe())}", *_list_moved(seen)]
    if not seen.changed:
        return "\n\n".join([*parts, "## Decision\n\nNothing changed: nothing was run.", ""])
    if failed:
        told = f"The run failed: {escape(failed)}. The next look tries again."
        # A run that failed before its first stage left the stages of the run before.
        began = read_last_flow_run(run.path) != seen.flow_run
        reuse = _list_reuse(run.path) if began else []
        return "\n\n".join([*parts, *reuse, f"## Decision\n\n{told}", ""])
    return "\n\n".join([*parts, *_list_reuse(run.path), *_show_scores(run.path), ""])


def _find_pointer(run: Run) -> Path | None:
    """Return the file that holds the address of the corpus; None where the corpus is here."""
    corpus = run.params["ingest"]["corpus"]
    if not is_address(corpus) or (run.main / corpus).is_dir():
        return None
    if not corpus.endswith(POINTER):
        raise PipelineError(
            f"ingest.corpus = {corpus} is no path of this machine: write the address into a file "
            f"whose name ends in {POINTER}, and name that (docs/corpus.md)"
        )
    if not (run.main / corpus).is_file():
        raise PipelineError(f"ingest.corpus = {corpus} does not exist in {run.main}")
    return run.main / corpus


def _list_address(run: Run, pointer: Path) -> Listing:
    from tasks.ingest.versions import list_versions  # rarely needed: most corpora are here

    settings = parse_params(run.params["ingest"], run.name, Ingest)
    staging = run.main / WORK / FOLLOW / f"{run.name}.staging"
    return list_versions(str(pointer), settings, staging)


def _read_state(path: Path) -> dict[str, Any]:
    """Return the last look; empty where there was none, or where it cannot be read: then all that
    is there counts as new, and DVC skips what is done.
    """
    try:
        return dict(read_json(path))
    except (PipelineError, TypeError, ValueError):
        return {}


def _list_moved(seen: Look) -> list[str]:
    if seen.first:
        return []
    lines = []
    for kind, names in seen.moved.items():
        if names:
            more = len(names) - _SHOWN
            shown = [f"- {escape(name)}" for name in names[:_SHOWN]]
            lines.append("\n".join([f"{kind}:", "", *shown, *([f"- {more:,} more"] * (more > 0))]))
    return lines


def _list_reuse(checkout: Path) -> list[str]:
    """Return what each stage took from earlier runs, and what it did again."""
    rows, undone = [], set()
    for stage in read_stages(checkout):
        name, status = stage["stage"], stage["status"]
        path = checkout / WORK / name / REUSED
        told = read_json(path) if status == "ran" and path.is_file() else None
        unit = f" {told['unit']}" if told else ""
        reused, again = (f"{told[key]:,}{unit}" if told else "" for key in ("reused", "again"))
        outcome = "ran" if status == "ran" else f"{status}: all of it was there"
        if status in UNDONE:
            outcome = status
            undone.add(name)
        rows.append((name, outcome, reused, again, f"{stage['seconds']:.0f} s"))
    if not rows:
        return []
    shown = table(("stage", "outcome", "reused", "done again", "time"), rows)
    # What an undone stage left is an earlier run's.
    beginning = [] if "finetune" in undone else _tell_beginning(checkout)
    return [f"## What was reused\n\n{shown}", *beginning]


def _tell_beginning(checkout: Path) -> list[str]:
    """Return how the training began, where it could continue from a champion."""
    path = checkout / "artifacts" / "finetune" / "summary.json"
    told = read_json(path).get("champion") if path.is_file() else None
    if not told:
        return []
    if not told["continues"]:
        return [f"Training began from nothing: {escape(told['reason'])}."]
    return [
        f"Training continued from {escape(told['name'])} version {told['version']}, with "
        f"{told['new_rows']:,} new rows and {told['replayed']:,} old ones: "
        f"{escape(told['reason'])}."
    ]


def _show_scores(checkout: Path) -> list[str]:
    rows = tabulate_f1(checkout)
    parts = ["## F1"]
    if rows:
        parts.append(table(tuple(rows[0]), [tuple(row.values()) for row in rows]))
    else:
        parts.append("There is none: the run has no labelled items, or does not score.")
    path = checkout / "artifacts" / "register" / "registration.json"
    told = read_json(path) if path.is_file() else {}
    verdict = told.get("verdict", "no model was registered")
    if "version" in told:
        verdict = f"{told['model_name']} version {told['version']} is {told['alias']}: {verdict}"
    return [*parts, f"## Decision\n\n{escape(verdict)}"]
