"""Every run on one screen: ``make runs``, or ``python -m flows.runs.table``.

DVC's own table (``dvc exp show``) has a column for each setting; this one has what tells runs
apart, in a hundred columns, or in eighty. The runs that have not finished come below the scored
ones.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.runs.board import find_unfinished
from flows.runs.dvc_graph import list_unchanged, read_graph
from flows.runs.git import run_dvc, run_git
from flows.runs.worktree import folder_of, is_held, list_folders
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT
from tasks.core.stage import one_line_errors

WIDTH, NARROW = 100, 80
_LINE = "{:<{name}} {:>6}  {:<20} {:>6}  {:<22}"
#: Width of the text that an unfinished run has in place of figures.
_TOLD = 58
#: Width of a run's name. On a narrow screen it is shorter, and there is no date.
_NAME, _SHORT = 29, 20
#: The reference of a DVC experiment: the commit that it started from, in two parts, and its name.
_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/")
_NONE = "-"
_NOTE = """\
F1 in points. start: the start alone, or the unadapted model where a run has none.
Every setting and figure: .venv/bin/dvc exp show"""
_NOTE_UNFINISHED = """\
The whole error of a run: .work/logs/NAME.log (of this checkout's: .work/logs/default.log).
A run that was started in the browser has it on its page."""


@dataclass(frozen=True)
class Line:
    """A run as it is shown: figures as text, ``-`` where it has none."""

    name: str
    rows: str
    f1: str
    start: str
    gain: str
    date: str

    def show(self, width: int) -> str:
        """Return the line for a screen of that width."""
        name = _name_width(width)
        shown = (_shorten(self.name, name), self.rows, self.f1, self.start, self.gain)
        return f"{_LINE.format(*shown, name=name)}{_date(self.date, width)}".rstrip()


@dataclass(frozen=True)
class Unfinished:
    """A run that has not finished; ``told`` is such as "failed in ingest: no documents"."""

    name: str
    told: str
    date: str

    def show(self, width: int) -> str:
        """Return the line for a screen of that width."""
        name = _name_width(width)
        told = self.told if len(self.told) <= _TOLD else f"{self.told[: _TOLD - 3]}..."
        line = f"{_shorten(self.name, name):<{name}} {told:<{_TOLD + 1}}{_date(self.date, width)}"
        return line.rstrip()


def _name_width(width: int) -> int:
    return _NAME if width >= WIDTH else _SHORT


def _date(date: str, width: int) -> str:
    return f" {date:<10}" if width >= WIDTH else ""


def _shorten(name: str, width: int) -> str:
    """Return a name without its middle: the runs of a matrix differ in the ends of theirs."""
    half = width // 2 - 1
    return name if len(name) <= width else f"{name[:half]}..{name[-half:]}"


def read_lines(table: list[dict[str, Any]]) -> list[Line]:
    """Return a line for each revision of ``dvc exp show --json`` that was scored, as it lists them:
    this checkout, the commit, and the runs with a profile or settings.
    """
    return [line for name, state in _states(table) if (line := _line(name, state))]


def _states(table: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in table:
        workspace = entry["rev"] == "workspace"
        commit = f"{entry.get('name') or 'commit'} {entry['rev'][:7]}"
        yield "this checkout" if workspace else commit, entry.get("data") or {}
        for run in entry.get("experiments") or []:
            newest = run["revs"][0]
            name = run.get("name") or newest.get("name") or newest["rev"][:7]
            yield name, newest.get("data") or {}


def _line(name: str, state: dict[str, Any]) -> Line | None:
    files = (state.get("metrics") or {}).values()
    figures: dict[str, Any] = {}
    for file in files:
        figures |= file.get("data") or {}
    if not {"f1", "agreement"} & set(figures):
        return None
    date = str(state.get("timestamp") or "")[:10] or _NONE
    rows = f"{figures['rows']:,}" if "rows" in figures else _NONE
    if "f1" not in figures:
        return Line(name, rows, "no labelled items", _NONE, _NONE, date)
    has_start = "gain_over_start" in figures
    before, gain = ("start", "gain_over_start") if has_start else ("zero_shot", "gain")
    return Line(
        name,
        rows,
        _interval(figures, "f1", ""),
        f"{figures[before]:.1f}",
        _interval(figures, gain, "+"),
        date,
    )


def _interval(figures: dict[str, float], name: str, sign: str) -> str:
    keys = (name, f"{name}_low", f"{name}_high")
    value, low, high = (f"{figures[key]:{sign}.1f}" for key in keys)
    return f"{value} ({low} to {high})"


def read_unfinished(main: Path) -> list[Unfinished]:
    """Return a line for each checkout whose last run has not finished, the newest first.

    DVC's table lacks these runs: only a finished run is an experiment.
    """
    found = []
    for name in (DEFAULT, *(run.name for run in list_folders(main))):
        held = is_held(main, name)
        ended = find_unfinished(folder_of(main, name), held)
        if ended and not (name == DEFAULT and not held and _is_done_since(main, ended[1])):
            date = time.strftime("%Y-%m-%d", time.localtime(ended[1]))
            shown = "this checkout" if name == DEFAULT else name
            found.append((ended[1], Unfinished(shown, ended[0], date)))
    return [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _is_done_since(main: Path, ended: float) -> bool:
    """Tell whether DVC alone (``make repro``) has done every stage since the flow's run ended: DVC
    writes ``dvc.lock``, and not the board.
    """
    lock = main / "dvc.lock"
    if not lock.is_file() or lock.stat().st_mtime <= ended:
        return False
    nodes = read_graph(main)
    return list_unchanged(main, nodes) == {node.name for node in nodes}


def render(lines: Sequence[Line | Unfinished], width: int = WIDTH) -> str:
    """Return the table, at most :data:`WIDTH` columns wide, :data:`NARROW` on a narrower screen."""
    heading = Line("profile", "rows", "F1 (95 % interval)", "start", "gain over it", "date")
    notes = [_NOTE]
    if any(isinstance(line, Unfinished) for line in lines):
        notes.append(_NOTE_UNFINISHED)
    told = [textwrap.fill(line, width) for note in notes for line in note.splitlines()]
    return "\n".join([*(line.show(width) for line in (heading, *lines)), "", *told])


def _find_commits(main: Path) -> list[str]:
    """Return the commits that runs started from, the newest run's first: on its own DVC shows those
    of the last commit alone.
    """
    ask = ("for-each-ref", "--sort=-committerdate", "--format=%(refname)", "refs/exps")
    listed = run_git(main, *ask, check=False)
    found = (_EXPERIMENT.match(line) for line in listed.splitlines())
    return list(dict.fromkeys(f"{match[1]}{match[2]}" for match in found if match))


def main() -> int:
    """Print the table of this checkout's runs."""
    with one_line_errors("runs"):
        main = Path.cwd()
        revisions = [f"--rev={commit}" for commit in ("HEAD", *_find_commits(main))]
        scored = read_lines(json.loads(run_dvc(main, "exp", "show", "--json", *revisions)))
        lines: list[Line | Unfinished] = [*scored, *read_unfinished(main)]
        if not lines:
            raise PipelineError(
                "there is no run yet: make run, or make data for the figures of the committed one"
            )
        print(render(lines, shutil.get_terminal_size((WIDTH, 0)).columns))
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
