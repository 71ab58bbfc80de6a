"""What ``make plan`` forecast for a run, beside what came: for the closing table, the run's page in
Prefect and MLflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.runs.last_run import UNDONE, read_last
from flows.runs.own_process import run_module
from tasks.core.errors import PipelineError
from tasks.core.files import folder_size, read_if_there, write_json
from tasks.core.privacy import cache_folder
from tasks.core.stage import MEMORY, WORK
from tasks.scoring.intervals import measured_spread, smallest_gain

#: Figures of plan.json in the order of the table: the name for people, the form of a value, and
#: what it is multiplied with to be shown.
_FIGURES = {
    "kept_rows": ("kept rows", "{:,.0f}", 1),
    "minutes": ("minutes", "{:.1f}", 1),
    "peak_memory_mb": ("peak memory MB", "{:,.0f}", 1),
    "disk_mb": ("disk MB", "{:,.0f}", 1),
    "detectable_gain": ("smallest gain", "{:.1f}", 100),
}
_FILE = WORK / "forecast.json"


@dataclass(frozen=True)
class Compared:
    """A figure of the forecast: the ends of its 80 % interval, and what came."""

    key: str
    low: float
    high: float
    came: float

    @property
    def holds(self) -> bool:
        """Whether what came lies in the interval."""
        return self.low <= self.came <= self.high

    def describe(self) -> str:
        """Return the figure as the closing table has it."""
        name, form, times = _FIGURES[self.key]
        low, high, came = (form.format(times * end) for end in (self.low, self.high, self.came))
        return f"{name} {low} to {high}, came {came}"

    def row(self) -> dict[str, Any]:
        """Return the figure as a row of a table."""
        name, _, times = _FIGURES[self.key]
        ends = {"low": self.low, "high": self.high, "came": self.came}
        shown = {end: round(times * value, 1) for end, value in ends.items()}
        return {"figure": name, **shown, "within": "yes" if self.holds else "no"}


def compare(checkout: Path, main: Path, last: dict[str, Any]) -> list[Compared]:
    """Return what was forecast for a run in ``checkout`` and what came; empty where the plan in
    ``main`` is of another run or of other settings.

    ``last`` is what :func:`flows.runs.last_run.read_last` returns. Time, memory and disk are those
    of a run whose stages all ran, else a part was there already.
    """
    found = _read_plan(main, last)
    if not found:
        return []
    came = {"kept_rows": _kept_rows(checkout, last), **_costs(checkout, last)}
    if _has(last, "evaluate") and (spread := measured_spread(checkout)):
        came["detectable_gain"] = smallest_gain(found.get("labelled_items", 0), spread)
    return [
        Compared(key, found[key]["low"], found[key]["high"], value)
        for key in _FIGURES
        if found.get(key) and (value := came.get(key)) is not None
    ]


def record(
    checkout: Path, main: Path, tell: Callable[[str], None], warn: Callable[[str], None]
) -> list[Compared]:
    """Return :func:`compare` of the last run in ``checkout``, and log it in the run of MLflow that
    register made: the tag ``forecast`` and the file ``plan/forecast.json``.

    In a process of its own: MLflow takes seconds to import. A store that does not take it is a
    warning: the run is done.
    """
    last = read_last(checkout)
    compared = compare(checkout, main, last) if last else []
    told = read_if_there(checkout / "artifacts" / "register" / "registration.json") or {}
    if not (last and compared and _has(last, "register") and "run_id" in told):
        return compared
    came = {one.key: one.came for one in compared}
    write_json(checkout / _FILE, {**_read_plan(main, last), "came": came})
    text = "; ".join(one.describe() for one in compared)
    try:
        run_module(
            "tasks.tracking.forecast", "forecast", checkout, told["run_id"], str(_FILE), text
        )
        tell(f"the forecast and what came are in MLflow run {told['run_id']}")
    except PipelineError as error:
        warn(f"the forecast is not in MLflow: {error}")
    return compared


def _read_plan(main: Path, last: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with contextlib.suppress(PipelineError):  # a plan that cannot be read is none
        found = read_if_there(main / "artifacts" / "plan" / "plan.json") or {}
    own = (found.get("run"), found.get("settings")) == (last["name"], last.get("settings"))
    return found if own else {}


def _has(last: dict[str, Any], name: str) -> bool:
    """Tell whether the artifacts of a stage are this run's."""
    done = (stage["stage"] for stage in last["stages"] if stage["status"] not in UNDONE)
    return name in done


def _kept_rows(checkout: Path, last: dict[str, Any]) -> int | None:
    kept = read_if_there(checkout / "artifacts" / "verify" / "summary.json")
    if kept and not kept["rows_in"]:  # nothing is generated: supervise makes the rows
        kept = read_if_there(checkout / "artifacts" / "supervise" / "summary.json")
    return kept["rows_kept"] if kept and _has(last, kept["stage"]) else None


def _costs(checkout: Path, last: dict[str, Any]) -> dict[str, float]:
    stages = last["stages"]
    if {stage["status"] for stage in stages} != {"ran"}:
        return {}
    came = {"minutes": sum(stage["seconds"] for stage in stages) / 60}
    told = (read_if_there(checkout / WORK / stage["stage"] / MEMORY) for stage in stages)
    if peaks := [one["peak_mb"] for one in told if one]:
        came["peak_memory_mb"] = max(peaks)
    if began := last.get("began"):
        came["disk_mb"] = _disk(checkout, [stage["stage"] for stage in stages], began)
    return came


def _disk(checkout: Path, stages: Iterable[str], began: float) -> float:
    """Return the MB of the stages' results, journals and checkpoints, and of the merged models that
    were used since ``began`` (seconds since 1970): others in the cache are those of other runs.
    """
    folders = [checkout / place / stage for stage in stages for place in ("artifacts", WORK)]
    size = sum(map(folder_size, folders))
    for folder in (cache_folder() / "merged").glob("*"):
        with contextlib.suppress(FileNotFoundError):  # another run has cleared it away
            if folder.stat().st_mtime >= began:
                size += folder_size(folder)
    return size / 2**20
