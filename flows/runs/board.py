"""The state of a run's stages, for the live table.

The flow writes ``.work/board.json``; each stage its ``progress.json``, ``sample.json`` and
``summary.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.files import write_json

_BOARD = Path(".work") / "board.json"
#: Statuses after which nothing else of the run is done.
ENDED = ("failed", "stopped")
#: Keys of progress.json (:mod:`tasks.core.progress`); the others are figures, such as a loss.
_COUNTS = {"stage", "done", "total", "unit", "rate", "seconds_left"}
_SHOWN = {"ran": "done", "restored": "from cache", "failed": "FAILED"}


@dataclass(frozen=True)
class StageLine:
    """One stage's line. ``progress`` is its progress file, ``news`` its latest sample, message or
    error.
    """

    stage: str
    status: str
    seconds: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    rows_in: int | None = None
    rows_kept: int | None = None
    news: str = ""


def show_status(status: str) -> str:
    """Return how the live table and the closing one name a status."""
    return _SHOWN.get(status, status)


def begin_board(checkout: Path, stages: Iterable[str]) -> None:
    """Put every stage of the run on the board, as waiting."""
    _write(checkout, {stage: {"status": "waiting"} for stage in stages})


def mark(checkout: Path, stage: str, status: str, seconds: float = 0.0, error: str = "") -> None:
    """Write a stage's state to the board: ``running``, or the status of its outcome."""
    entry = {"status": status, "since": time.time(), "seconds": seconds, "error": error}
    _write(checkout, {**_entries(checkout), stage: entry})


def find_ending(checkout: Path) -> str:
    """Return what ended this run, such as "ingest failed"; empty where nothing has."""
    words = {"failed": "failed", "stopped": "was stopped"}
    return next(
        (
            f"{stage} {words[entry['status']]}"
            for stage, entry in _entries(checkout).items()
            if entry["status"] in ENDED
        ),
        "",
    )


def find_unfinished(checkout: Path, held: bool) -> tuple[str, float] | None:
    """Return where a checkout's last run stands if it has not finished, such as "failed in ingest:
    no documents", and since when (seconds since 1970).

    None if it has finished, or no stage ever began. ``held``: a process that still runs holds the
    checkout.
    """
    words = {
        "failed": "failed in {}: {}",
        "stopped": "stopped in {}: {}",
        "running": "running {}" if held else "interrupted in {}",
        "waiting": "running, before {}" if held else "interrupted before {}",
    }
    try:
        changed = (checkout / _BOARD).stat().st_mtime
    except FileNotFoundError:
        return None
    entries = _entries(checkout)
    for status, told in words.items():
        for stage, entry in entries.items():
            if entry["status"] == status:
                return told.format(stage, " ".join(entry.get("error", "").split())), changed
    return None


def clear_board(checkout: Path) -> None:
    """Remove the board of an earlier run."""
    (checkout / _BOARD).unlink(missing_ok=True)


def read_progress(checkout: Path, stage: str, since: float = 0.0) -> dict[str, Any]:
    """Return the progress file of a stage; empty where it has not written it since then."""
    return _optional(checkout / ".work" / stage / "progress.json", since)


def list_figures(progress: Mapping[str, Any]) -> list[str]:
    """Return what a stage shows beside its counts, such as "loss 0.37"."""
    return [
        f"{name.replace('_', ' ')} {value}"
        for name, value in progress.items()
        if name not in _COUNTS
    ]


def read_sample(checkout: Path, stage: str, since: float = 0.0) -> dict[str, Any]:
    """Return the latest row that ``stage`` has generated, with its task type, context and
    prediction; empty where it has written none since then.
    """
    return _optional(checkout / ".work" / stage / "sample.json", since)


def read_stages(checkout: Path, now: float, messages: Mapping[str, str]) -> list[StageLine]:
    """Return a line for each stage; ``messages`` holds the last log message of each stage."""
    return [
        _read_stage(checkout, stage, entry, now, messages.get(stage, ""))
        for stage, entry in _entries(checkout).items()
    ]


def _entries(checkout: Path) -> dict[str, dict[str, Any]]:
    """Return the board's entries by stage, in the order of the graph."""
    return {entry["stage"]: entry for entry in _optional(checkout / _BOARD).get("stages", [])}


def _write(checkout: Path, entries: dict[str, dict[str, Any]]) -> None:
    stages = [{**entry, "stage": stage} for stage, entry in entries.items()]
    write_json(checkout / _BOARD, {"stages": stages})


def _read_stage(
    checkout: Path, stage: str, entry: dict[str, Any], now: float, message: str
) -> StageLine:
    status, since = entry["status"], entry.get("since", now)
    if status == "running":
        progress = read_progress(checkout, stage, since)
        news = str(read_sample(checkout, stage, since).get("prediction", "")) or message
        return StageLine(stage, status, now - since, progress, news=news)
    if status in ("ran", "unchanged", "restored"):
        summary = _optional(checkout / "artifacts" / stage / "summary.json")
        rows_in, rows_kept = summary.get("rows_in"), summary.get("rows_kept")
        return StageLine(stage, show_status(status), entry["seconds"], {}, rows_in, rows_kept)
    seconds, error = entry.get("seconds", 0.0), entry.get("error", "")
    return StageLine(stage, show_status(status), seconds, news=error)


def _optional(path: Path, since: float = 0.0) -> dict[str, Any]:
    """Return a JSON file's object; empty where it is missing or older than ``since``."""
    try:
        return dict(json.loads(path.read_text("utf-8"))) if path.stat().st_mtime >= since else {}
    except (OSError, ValueError):  # missing, or removed meanwhile
        return {}
