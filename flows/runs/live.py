"""The table that ``make run`` shows in a terminal: a line for each stage, and the latest sample or
message under the running one. Everything else that is logged goes to a file.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from flows.runs.board import StageLine, list_figures, read_stages

_HEADINGS = ("stage", "state", "", "rows", "rate", "time", "left", "")
_STATUS = {
    "waiting": "dim",
    "running": "bold cyan",
    "done": "green",
    "unchanged": "dim green",
    "from cache": "dim green",
    "FAILED": "bold red",
    "stopped": "yellow",
    "not run": "yellow",
}
#: Log lines whose content the table shows in its columns, and DVC's lines on what it starts.
_REPEATED = re.compile(r"\d+/\d+ |sample \S+: |Running stage |> python |\w+: done in ")
_OF_RUNS = ("prefect.flow_runs", "prefect.task_runs")
#: Free columns at the right, for the terminal's "^C": it must not begin a new line.
_MARGIN = 3
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def draw(stages: list[StageLine], width: int, message: str) -> RenderableType:
    """Return the table at ``width`` columns; ``message`` is shown until there are stages."""
    if not stages:
        return Text(_CONTROL.sub(" ", message), style="dim", no_wrap=True, overflow="ellipsis")
    rows = max(11, *(len(_rows(line)) for line in stages))
    bar = max(6, min(24, width - 62 - rows))
    widths = [9, 10, bar, rows, 7, 7, 7, max(4, width - 47 - bar - rows)]
    parts: list[RenderableType] = [_line(widths, [Text(text, style="dim") for text in _HEADINGS])]
    for line in stages:
        parts.append(_line(widths, _cells(line, bar)))
        if line.news:
            style = "red" if line.status == "FAILED" else "dim italic"
            news = Text(_CONTROL.sub(" ", " ".join(line.news.split())), style=style)
            news.truncate(2 * (width - 6), overflow="ellipsis")
            parts.append(Padding(news, (0, 2, 0, 2)))
    return Group(*parts)


def _line(widths: list[int], cells: list[RenderableType]) -> Table:
    grid = Table.grid(padding=(0, 1, 0, 0))
    for place, width in enumerate(widths):
        justify = "right" if 3 <= place <= 6 else "left"
        grid.add_column(width=width, no_wrap=True, overflow="ellipsis", justify=justify)  # type: ignore[arg-type]
    grid.add_row(*cells)
    return grid


def _cells(line: StageLine, bar: int) -> list[RenderableType]:
    progress = line.progress
    rate, left = progress.get("rate"), progress.get("seconds_left")
    figures = sorted(list_figures(progress), key=lambda figure: "second" in figure)
    return [
        Text(line.stage, style="dim" if line.status == "waiting" else ""),
        Text(line.status, style=_STATUS[line.status]),
        _bar(line, bar),
        Text(_rows(line)),
        Text(f"{rate:.3g}/s" if rate else ""),
        Text(_clock(line.seconds) if line.status in ("running", "done", "FAILED") else ""),
        Text(_clock(left) if rate and left is not None else ""),
        Text(_CONTROL.sub(" ", ", ".join(figures))),
    ]


def _bar(line: StageLine, width: int) -> RenderableType:
    if line.status in ("waiting", "not run", "stopped", "FAILED"):
        return Text("")
    total = line.progress.get("total", 0) if line.status == "running" else 1
    done = line.progress.get("done", 0) if line.status == "running" else 1
    # Without a total the bar pulses: the time left is unknown.
    return ProgressBar(total or None, done, width=width, pulse=not total)


def _rows(line: StageLine) -> str:
    if line.progress:
        return f"{line.progress['done']}/{line.progress['total']} {line.progress['unit']}"
    return "" if line.rows_in is None else f"{line.rows_kept}/{line.rows_in} kept"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def is_terminal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Tell whether a table can be redrawn there: not in a pipe, in CI, in a dumb terminal, or with
    NO_COLOR.
    """
    plain = environment.get("NO_COLOR") or environment.get("CI")
    return stream.isatty() and not plain and environment.get("TERM", "dumb") != "dumb"


class Messages(logging.Handler):
    """The last line that each Prefect task run logged, by its name; the flow's own under ""."""

    def __init__(self, first: str) -> None:
        """Start with ``first`` as the flow's message."""
        super().__init__(logging.INFO)
        self.last = {"": first}

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line, unless the table shows the same in its columns."""
        text = record.getMessage()
        if record.name.startswith(_OF_RUNS) and not _REPEATED.match(text):
            self.last[getattr(record, "task_run_name", "")] = text


class LiveTable:
    """Shows a run until the block ends; its last state stays on the terminal, unless
    :meth:`vanish` was called.
    """

    def __init__(self, checkout: Path, name: str) -> None:
        """Show the run called ``name`` in ``checkout``."""
        self.messages = Messages(f"Run {name}: starting Prefect")
        last = self.messages.last
        self._console = Console()
        self._live = Live(
            get_renderable=lambda: draw(
                read_stages(checkout, time.time(), last), self._console.width - _MARGIN, last[""]
            ),
            console=self._console,
            refresh_per_second=4,
            # DVC's colorama keeps the stdout of its import, and resets colours there at exit.
            redirect_stdout=False,
        )

    def __enter__(self) -> LiveTable:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def vanish(self) -> None:
        """Leave no table behind when the block ends: the closing table follows."""
        self._live.transient = True


def log_to_file(path: Path, table: LiveTable | None) -> None:
    """Append further log records to ``path``; the console has them too unless there is a table.

    Call it after Prefect is imported, which sets up logging.
    """
    root = logging.getLogger()
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(next((h.formatter for h in root.handlers if h.formatter), None))
    root.handlers = [file, table.messages] if table else [*root.handlers, file]
