"""Run one cell of a matrix: its checkout, every stage in DVC's order, its DVC experiment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from flows.matrix.cells import Cell
from flows.matrix.matrix_file import Matrix
from flows.matrix.report import write_report
from flows.matrix.results import Result, read_adapted_answers, tabulate_cells
from flows.runs import worktree
from flows.runs.dvc_graph import read_graph
from flows.runs.dvc_repro import reproduce
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, read_json, write_json
from tasks.core.parquet import write_table

#: Columns of a cell's predictions: enough to score them again.
PREDICTED = ["item_id", "template", "prediction", "golds"]
OUT = Path("artifacts") / "matrix"
_seconds = threading.Lock()
Log = Callable[[str], None]
#: Takes a checkout and a stage; returns a function to call every second while the stage runs.
Watch = Callable[[Path, str], Callable[[], None]]


def bring_up_to_date(
    cell: Cell, main: Path, environment: dict[str, str], gpus: int, log: Log, watch: Watch
) -> Result:
    """Run the stages of a cell that are not up to date, in ``main/.runs/<cell>``.

    A failure is a result with its reason.
    """
    run = worktree.Run(cell.name, main, main / worktree.RUNS / cell.name, cell.params)
    try:
        with worktree.hold(run):
            worktree.prepare(run, log)
            result = _run_stages(cell, run, environment, gpus, log, watch)
            if result.status == "done":
                log(worktree.record(run))
            return result
    except PipelineError as error:
        return Result(cell, "failed", str(error))


def _run_stages(
    cell: Cell, run: worktree.Run, environment: dict[str, str], gpus: int, log: Log, watch: Watch
) -> Result:
    stages: list[dict[str, Any]] = []
    for node in read_graph(run.path):
        outcome = reproduce(run.path, node.name, log, watch(run.path, node.name), environment)
        if outcome.status == "failed":
            return Result(cell, "failed", f"{node.name}: {outcome.error}", stages)
        log(f"{node.name}: {outcome.status} ({outcome.seconds:.0f} s)")
        measured = outcome.seconds if outcome.status == "ran" else None
        seconds = _remember_seconds(run, node.name, measured)
        stages.append({"stage": node.name, "status": outcome.status, "seconds": seconds})
    return Result(cell, "done", "", stages, gpus)


def _remember_seconds(run: worktree.Run, stage: str, seconds: float | None) -> float | None:
    """Return how long this work took when it was done, here or in another cell: a stage from the
    cache has no time of its own.
    """
    entry = yaml.safe_load((run.path / "dvc.lock").read_text(encoding="utf-8"))["stages"][stage]
    key = fingerprint(stage, {name: value for name, value in entry.items() if name != "outs"})
    file = run.main / ".work" / "matrix" / "seconds.json"
    with _seconds:
        known: dict[str, float] = read_json(file) if file.exists() else {}
        if seconds is not None:
            write_json(file, known | {key: round(seconds, 2)})
            return round(seconds, 2)
        return known.get(key)


def write_results(plan: Matrix, results: list[Result], main: Path, final: bool) -> None:
    """Write the files of the results so far; ``final``: also the report and MLflow's parent run."""
    folder = main / OUT
    last = results[-1]
    if last.status == "done":
        keep_predictions(last, main, folder / plan.name / "predictions")
    rows = tabulate_cells(results, main)
    write_json(folder / "cells.json", rows)
    write_json(folder / plan.name / "cells.json", rows)
    if final:
        write_report(plan, results, main, folder / plan.name)


def keep_predictions(result: Result, main: Path, folder: Path) -> None:
    """Write a cell's answers (item id, template, prediction, golds)."""
    write_table(
        folder / f"{result.cell.name}.parquet",
        read_adapted_answers(result, main).select(PREDICTED),
    )
