"""What the cells of a matrix came to: read from their checkouts, compared, and written for people
and programs.

``cells.json`` has one row a cell, ``predictions/`` every cell's answers, ``groups.json`` what the
report shows.
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
from tasks.tracking.ledger import tapt_metrics

#: Stages whose seconds are GPU seconds where there is a GPU.
ON_GPU = ("generate", "finetune", "baseline", "evaluate")


@dataclass(frozen=True)
class Result:
    """How a cell went.

    ``stages``: each stage's status and seconds (None: made by an earlier run that did not say).
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
    """Return the rows of cells.json: identity, F1 with its interval (as the run itself measured
    it), status, reason, and what it cost.
    """
    rows = []
    for result in results:
        done = result.status == "done"
        own = (
            read_json(result.artifacts(main) / "evaluate" / "scores.json")["adapted"]
            if done
            else {}
        )
        scores = {name: own.get(name) for name in ("f1", "f1_low", "f1_high")}
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
    """Return training rows and tokens, and wall and GPU seconds of a cell's stages, those it shared
    with other cells included.
    """
    known = [stage for stage in result.stages if stage["seconds"] is not None]
    wall = sum(stage["seconds"] for stage in known) if len(known) == len(result.stages) else None
    gpu = (
        result.gpus * sum(stage["seconds"] for stage in known if stage["stage"] in ON_GPU)
        if wall is not None
        else None
    )
    summary = result.artifacts(main) / "finetune" / "summary.json"
    told = read_json(summary) if result.status == "done" and summary.is_file() else {}
    return {
        "rows_trained": told.get("rows_kept"),
        "tokens": told.get("tokens"),
        "wall_seconds": None if wall is None else round(wall, 1),
        "gpu_seconds": None if gpu is None else round(gpu, 1),
    }


@dataclass(frozen=True)
class Scores:
    """A cell's scores, the same with the prior corrected (None: extraction, or not asked for), and
    the resamples of its dataset.
    """

    scored: Scored
    corrected: Scored | None
    draws: Draws


def compare_groups(
    results: Sequence[Result], main: Path, scored: dict[str, Scores]
) -> list[dict[str, Any]]:
    """Return one entry a group of cells that differ in the seed alone, compared with zero-shot and
    with TAPT on the same model and dataset.

    ``scored`` is what :func:`read_scores` returns.
    """
    found = []
    done = _group_results([result for result in results if result.cell.name in scored])
    datasets = list(dict.fromkeys(key[:2] for key in done))
    for key, own in sorted(done.items(), key=lambda pair: datasets.index(pair[0][:2])):
        model, dataset, supervision, rows, variant = key
        runs = [scored[result.cell.name].scored for result in own]
        corrected = [kept for result in own if (kept := scored[result.cell.name].corrected)]
        draws = scored[own[0].cell.name].draws
        entry: dict[str, Any] = {
            "model": model,
            "dataset": dataset,
            "supervision": supervision,
            "rows": rows,
            "variant": variant,
        }
        entry |= summarise(runs, draws) | {
            "majority": majority_baseline(runs),
            "cells": [result.cell.name for result in own],
        }
        entry["prior_corrected"] = (
            summarise(corrected, draws) if len(corrected) == len(runs) else None
        )
        entry |= {"vs_none": None, "vs_tapt": None} | _mean_costs(
            [measure_cost(result, main) for result in own]
        )
        for name in ("none", "tapt"):
            others = _find_opponents(own[0].cell, results, scored, name)
            if others and supervision != name:
                change = measure_difference(runs, others, draws)
                entry[f"vs_{name}"] = change | {"verdict": judge_change(change)}
        general = [
            read_json(result.artifacts(main) / "evaluate" / "scores.json").get("general")
            for result in own
        ]
        entry["general"] = general[0] if len(general) == 1 else _mean_general(general)
        found.append(entry)
    return found


def measure_gains_over_tapt(
    results: Sequence[Result], main: Path, scored: dict[str, Scores]
) -> dict[str, dict[str, float]]:
    """Return cell name -> what MLflow shows of its gain over TAPT, in points with the paired 95 %
    interval; the mean of a group's is its ``vs_tapt``.

    Cells of TAPT itself have none, nor have those without a TAPT cell on the same model, rows and
    evaluation items.
    """
    found = {}
    for cell in (
        result.cell
        for result in results
        if result.cell.name in scored and result.cell.supervision != "tapt"
    ):
        others = _find_opponents(cell, results, scored, "tapt")
        if not others:
            continue
        own = scored[cell.name]
        change = measure_difference([own.scored], others, own.draws)
        dataset = load_dataset(
            main / cell.params["evaluate"]["dataset"]
        ).name  # as register calls it: the other keys of the run end with it
        found[cell.name] = tapt_metrics(dataset, change["f1"], change["f1_low"], change["f1_high"])
    return found


def read_scores(results: Sequence[Result], main: Path) -> dict[str, Scores]:
    """Return cell name -> how it scored.

    Cells on one dataset ask the same items under the same templates.
    """
    asked: dict[tuple[str, str, int, int, int], tuple[Any, Any, Any, Draws]] = {}
    found = {}
    for result in results:
        if result.status != "done":
            continue
        evaluate, key = result.cell.params["evaluate"], _questions_key(result.cell)
        if key not in asked:
            dataset = load_dataset(main / key[0])
            items = load_items(dataset, main / key[1], key[2], evaluate["seed"])
            templates = dataset.templates[: key[3] or None]
            asked[key] = (
                dataset,
                templates,
                items,
                Draws.make(items, len(templates), evaluate["bootstrap"], evaluate["seed"]),
            )
        dataset, templates, items, draws = asked[key]
        answers = read_adapted_answers(result, main)
        corrects = dataset.classifies and evaluate.get("prior_correction", True)
        corrected = (
            scored_of(dataset, templates, items, answers, corrected=True) if corrects else None
        )
        found[result.cell.name] = Scores(
            scored_of(dataset, templates, items, answers), corrected, draws
        )
    return found


def _questions_key(cell: Cell) -> tuple[str, str, int, int, int]:
    """Return what settles which questions a cell was asked."""
    evaluate = cell.params["evaluate"]
    return (
        evaluate["dataset"],
        evaluate["items"],
        evaluate["max_items"],
        evaluate["templates"],
        evaluate["seed"],
    )


def read_adapted_answers(result: Result, main: Path) -> pa.Table:
    """Return the answers of a cell's adapted model (rows.EVALUATIONS)."""
    path = result.artifacts(main) / "evaluate" / "predictions.parquet"
    table = require(read_table(path), EVALUATIONS, path)
    own = table.filter(pc.equal(table["model"], "adapted"))
    if not len(own):
        raise PipelineError(f"{path} holds no answers of the adapted model: run the cell again")
    return own


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
    """Return the scores to compare a cell's with: same model and dataset, as many rows (zero-shot
    has none), the same questions.
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
    """Return the mean of each cost over a group's cells; None where one of them is not known."""
    return {
        name: None
        if any(own[name] is None for own in costs)
        else round(sum(own[name] for own in costs) / len(costs), 1)
        for name in costs[0]
    }


def _mean_general(general: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the mean over seeds; the interval of a mean of runs is not known from theirs, so the
    widest bounds stand for it.
    """
    known = [own for own in general if own]
    if len(known) < len(general):
        return None
    result: dict[str, Any] = {"tasks": known[0]["tasks"]}
    for name in ("zero_shot", "adapted", "change"):
        result[name] = {
            "f1": round(sum(own[name]["f1"] for own in known) / len(known), 2),
            "f1_low": min(own[name]["f1_low"] for own in known),
            "f1_high": max(own[name]["f1_high"] for own in known),
        }
    return result
