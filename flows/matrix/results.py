"""The results of a matrix's cells: read from their checkouts and compared.

``cells.json`` has one row for each cell, ``predictions/`` every cell's answers, ``groups.json``
what the report shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.matrix.cells import Cell
from flows.matrix.compare import (
    Draws,
    judge_change,
    majority_baseline,
    measure_difference,
    summarise,
)
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.parquet import read_table
from tasks.core.rows import EVALUATIONS, require
from tasks.scoring.datasets import load_dataset, load_items
from tasks.scoring.f1 import Scored, scored_of
from tasks.tracking.registry import gain_metrics

#: Stages whose seconds are GPU seconds where there is a GPU.
ON_GPU = ("generate", "finetune", "baseline", "evaluate")


@dataclass(frozen=True)
class Result:
    """How a cell ended.

    ``stages``: each stage's status and seconds (None: unknown, made by an earlier run).
    """

    cell: Cell
    status: str
    reason: str = ""
    stages: list[dict[str, Any]] = field(default_factory=list)
    gpus: int = 0

    def artifacts(self, main: Path) -> Path:
        """Return the folder of the cell's artifacts."""
        return main / ".runs" / self.cell.name / "artifacts"


def tabulate_cells(results: Sequence[Result], main: Path) -> list[dict[str, Any]]:
    """Return the rows of cells.json: identity, the run's F1 with its interval, status, reason and
    cost.
    """
    rows = []
    for result in results:
        adapted: dict[str, Any] = {}
        if result.status == "done":
            adapted = read_json(result.artifacts(main) / "evaluate" / "scores.json")["adapted"]
        scores = {name: adapted.get(name) for name in ("f1", "f1_low", "f1_high")}
        rows.append(
            {
                **result.cell.identity(),
                **scores,
                "status": result.status,
                "reason": result.reason,
                "cell": result.cell.name,
                **measure_cost(result, main),
            }
        )
    return rows


def measure_cost(result: Result, main: Path) -> dict[str, Any]:
    """Return training rows and tokens, and wall and GPU seconds of a cell's stages, including those
    it shares with other cells.
    """
    known = [stage for stage in result.stages if stage["seconds"] is not None]
    wall = sum(stage["seconds"] for stage in known) if len(known) == len(result.stages) else None
    gpu = (
        result.gpus * sum(stage["seconds"] for stage in known if stage["stage"] in ON_GPU)
        if wall is not None
        else None
    )
    summary = result.artifacts(main) / "finetune" / "summary.json"
    training = read_json(summary) if result.status == "done" and summary.is_file() else {}
    return {
        "rows_trained": training.get("rows_kept"),
        "tokens": training.get("tokens"),
        "wall_seconds": None if wall is None else round(wall, 1),
        "gpu_seconds": None if gpu is None else round(gpu, 1),
    }


@dataclass(frozen=True)
class Scores:
    """A cell's scores, plain and prior corrected (None: extraction, or switched off), and the
    resamples of its dataset.
    """

    scored: Scored
    corrected: Scored | None
    draws: Draws


def compare_groups(
    results: Sequence[Result], main: Path, scored: dict[str, Scores]
) -> list[dict[str, Any]]:
    """Return an entry for each group of cells that differ only in the seed, compared with zero-shot
    and TAPT on the same model and dataset.

    ``scored`` is what :func:`read_scores` returns.
    """
    entries = []
    done = _group_results([result for result in results if result.cell.name in scored])
    datasets = list(dict.fromkeys(key[:2] for key in done))
    for key, members in sorted(done.items(), key=lambda pair: datasets.index(pair[0][:2])):
        model, dataset, supervision, rows, variant = key
        runs = [scored[result.cell.name].scored for result in members]
        corrected = [kept for result in members if (kept := scored[result.cell.name].corrected)]
        draws = scored[members[0].cell.name].draws
        entry: dict[str, Any] = {
            "model": model,
            "dataset": dataset,
            "supervision": supervision,
            "rows": rows,
            "variant": variant,
        }
        entry |= summarise(runs, draws) | {
            "majority": majority_baseline(runs),
            "cells": [result.cell.name for result in members],
        }
        entry["prior_corrected"] = (
            summarise(corrected, draws) if len(corrected) == len(runs) else None
        )
        entry |= {"vs_none": None, "vs_tapt": None} | _mean_costs(
            [measure_cost(result, main) for result in members]
        )
        for name in ("none", "tapt"):
            others = _find_opponents(members[0].cell, results, scored, name)
            if others and supervision != name:
                change = measure_difference(runs, others, draws)
                entry[f"vs_{name}"] = change | {"verdict": judge_change(change)}
        general = [
            read_json(result.artifacts(main) / "evaluate" / "scores.json").get("general")
            for result in members
        ]
        entry["general"] = general[0] if len(general) == 1 else _mean_general(general)
        entries.append(entry)
    return entries


def measure_gains_over_tapt(
    results: Sequence[Result], main: Path, scored: dict[str, Scores]
) -> dict[str, dict[str, float]]:
    """Return cell name -> MLflow's metrics of its gain over TAPT, in points with the paired 95 %
    interval; a group's ``vs_tapt`` is the mean of its cells.

    TAPT cells have none, nor have cells without a TAPT cell on the same model, rows and items.
    """
    gains = {}
    for cell in (
        result.cell
        for result in results
        if result.cell.name in scored and result.cell.supervision != "tapt"
    ):
        others = _find_opponents(cell, results, scored, "tapt")
        if not others:
            continue
        scores = scored[cell.name]
        change = measure_difference([scores.scored], others, scores.draws)
        # The name that register uses: the run's other keys end with it.
        dataset = load_dataset(main / cell.params["evaluate"]["dataset"]).name
        bounds = (change[name] for name in ("f1", "f1_low", "f1_high"))
        gains[cell.name] = gain_metrics("tapt", dataset, *bounds)
    return gains


def read_scores(results: Sequence[Result], main: Path) -> dict[str, Scores]:
    """Return cell name -> its scores. Cells on one dataset share items, templates and resamples."""
    questions: dict[tuple[Any, ...], tuple[Any, Any, Any, Draws]] = {}
    scores = {}
    for result in results:
        if result.status != "done":
            continue
        evaluate, key = result.cell.params["evaluate"], _questions_key(result.cell)
        if key not in questions:
            dataset = load_dataset(main / key[0])
            items = load_items(dataset, main / key[1], key[2], evaluate["seed"])
            templates = dataset.templates[: key[3] or None]
            draws = Draws.make(items, len(templates), evaluate["bootstrap"], evaluate["seed"])
            questions[key] = (dataset, templates, items, draws)
        dataset, templates, items, draws = questions[key]
        answers = read_adapted_answers(result, main)
        corrects = dataset.classifies and evaluate.get("prior_correction", True)
        corrected = (
            scored_of(dataset, templates, items, answers, corrected=True) if corrects else None
        )
        scored = scored_of(dataset, templates, items, answers)
        scores[result.cell.name] = Scores(scored, corrected, draws)
    return scores


def _questions_key(cell: Cell) -> tuple[Any, ...]:
    """Return the settings that determine a cell's questions."""
    values = cell.params["evaluate"]
    return tuple(values[key] for key in ("dataset", "items", "max_items", "templates", "seed"))


def read_adapted_answers(result: Result, main: Path) -> pa.Table:
    """Return the answers of a cell's adapted model (schema ``rows.EVALUATIONS``)."""
    path = result.artifacts(main) / "evaluate" / "predictions.parquet"
    table = require(read_table(path), EVALUATIONS, path)
    answers = table.filter(pc.equal(table["model"], "adapted"))
    if not len(answers):
        raise PipelineError(f"{path} holds no answers of the adapted model: run the cell again")
    return answers


GroupKey = tuple[str, str, str, int, str]


def _group_key(cell: Cell) -> GroupKey:
    return cell.model, cell.dataset, cell.supervision, cell.rows, cell.variant


def _group_results(results: Sequence[Result]) -> dict[GroupKey, list[Result]]:
    groups: dict[GroupKey, list[Result]] = defaultdict(list)
    for result in results:
        groups[_group_key(result.cell)].append(result)
    return groups


def _find_opponents(
    cell: Cell, results: Sequence[Result], scored: dict[str, Scores], name: str
) -> list[Scored]:
    """Return the scores to compare a cell with: same model, dataset and questions, as many rows
    (zero-shot has none).
    """
    wanted = (cell.model, cell.dataset, name, 0 if name == "none" else cell.rows, "")
    others = (
        result.cell
        for result in results
        if _group_key(result.cell) == wanted and result.cell.name in scored
    )
    return [
        scored[other.name].scored
        for other in others
        if _questions_key(other) == _questions_key(cell)
    ]


def _mean_costs(costs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of each cost over a group's cells; None where one is unknown."""
    values = {name: [cost[name] for cost in costs] for name in costs[0]}
    return {
        name: None if None in column else round(sum(column) / len(column), 1)
        for name, column in values.items()
    }


def _mean_general(general: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the mean over seeds with the widest bounds: the mean's own interval cannot be derived
    from those of the runs.
    """
    known = [scores for scores in general if scores]
    if len(known) < len(general):
        return None
    result: dict[str, Any] = {"tasks": known[0]["tasks"]}
    for name in ("zero_shot", "adapted", "change"):
        result[name] = {
            "f1": round(sum(scores[name]["f1"] for scores in known) / len(known), 2),
            "f1_low": min(scores[name]["f1_low"] for scores in known),
            "f1_high": max(scores[name]["f1_high"] for scores in known),
        }
    return result
