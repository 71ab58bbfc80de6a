"""Every run on one screen: ``make runs``, or ``python -m flows.runs.table``.

DVC's own table (``dvc exp show``) has a column for each setting; this one has what tells runs
apart, in a hundred columns.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.stage import one_line_errors

WIDTH = 100
_LINE = "{:<29} {:>6}  {:<20} {:>6}  {:<22} {:<10}"
_NAME = 29
#: The reference of a DVC experiment: the commit that it started from, in two parts, and its name.
_EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/")
_NONE = "-"


@dataclass(frozen=True)
class Line:
    """A run as it is shown: figures as text, ``-`` where it has none."""

    name: str
    rows: str
    f1: str
    start: str
    gain: str
    date: str

    def __str__(self) -> str:
        # The middle goes: the runs of a matrix differ in the ends of their names.
        half = _NAME // 2 - 1
        name = self.name if len(self.name) <= _NAME else f"{self.name[:half]}..{self.name[-half:]}"
        shown = (name, self.rows, self.f1, self.start, self.gain, self.date)
        return _LINE.format(*shown).rstrip()


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
    before, gain = ("start", "start_gain") if "start" in figures else ("zero_shot", "gain")
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


def render(lines: list[Line]) -> str:
    """Return the table, at most :data:`WIDTH` columns wide."""
    heading = _LINE.format("profile", "rows", "F1 (95 % interval)", "start", "gain over it", "date")
    note = (
        "F1 in points. start: the start alone, or the unadapted model where a run has none.\n"
        "Every setting and figure: .venv/bin/dvc exp show"
    )
    return "\n".join([heading.rstrip(), *map(str, lines), "", note])


def _find_commits() -> list[str]:
    """Return the commits that runs started from, the newest run's first: on its own DVC shows those
    of the last commit alone.
    """
    listed = ["git", "for-each-ref", "--sort=-committerdate", "--format=%(refname)", "refs/exps"]
    done = subprocess.run(listed, capture_output=True, text=True, check=False)
    found = (_EXPERIMENT.match(line) for line in done.stdout.splitlines())
    return list(dict.fromkeys(f"{match[1]}{match[2]}" for match in found if match))


def main() -> int:
    """Print the table of this checkout's runs."""
    with one_line_errors("runs"):
        command = [sys.executable, "-m", "dvc", "exp", "show", "--json"]
        command += [word for commit in ("HEAD", *_find_commits()) for word in ("--rev", commit)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise PipelineError(f"dvc exp show: {said[-1] if said else done.returncode}")
        lines = read_lines(json.loads(done.stdout))
        if not lines:
            raise PipelineError("there is no scored run yet: make run")
        print(render(lines))
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
