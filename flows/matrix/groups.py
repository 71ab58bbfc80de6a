"""A matrix's groups: the cells that differ only in their seed, compared with one another.

``groups.json`` holds them; the report shows them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.matrix.cells import Cell
from flows.matrix.compare import (
    judge_together,
    majority_baseline,
    measure_difference,
    summarise,
)
from flows.matrix.results import COSTS, Result, Scores, measure_cost, questions_key
from flows.matrix.supervision import START
from tasks.core.files import read_json
from tasks.scoring.datasets import load_dataset
from tasks.scoring.f1 import Scored
from tasks.tracking.registry import gain_metrics

#: An entry's comparisons.
_COMPARED = ("vs_none", "vs_start", "vs_tapt")
GroupKey = tuple[str, str, str, int, str]


def compare_groups(
    results: Sequence[Result], main: Path, scored: dict[str, Scores]
) -> list[dict[str, Any]]:
    """Return an entry for each group of cells that differ only in the seed, compared with
    zero-shot, TAPT and its start on the same model and dataset. The verdicts are corrected for the
    number of comparisons (Holm).

    Zero-shot and the start alone have entries even where no cell is made for them. ``scored`` is
    what :func:`read_scores` returns.
    """
    done = _group_results([result for result in results if result.cell.name in scored])
    entries = _describe_references(done, scored)
    for key, members in done.items():
        own = [scored[result.cell.name] for result in members]
        entry = _describe(key, own) | {"cells": [result.cell.name for result in members]}
        entry |= _mean_costs([measure_cost(result, main) for result in members])
        for name in ("none", "tapt"):
            others = _find_opponents(members[0].cell, results, scored, name)
            if others and key[2] != name:
                entry[f"vs_{name}"] = _compare(own, others)
        general = [
            read_json(result.artifacts(main) / "evaluate" / "scores.json").get("general")
            for result in members
        ]
        entry["general"] = _mean_general(general)
        entries.append(entry)
    judge_together([entry[name] for entry in entries for name in _COMPARED if entry[name]])
    datasets = list(dict.fromkeys(key[:2] for key in done))
    return sorted(entries, key=lambda entry: datasets.index((entry["model"], entry["dataset"])))


def _describe(key: GroupKey, own: Sequence[Scores]) -> dict[str, Any]:
    """Return a group's entry with all its keys; what it takes other cells or files to know is None.

    A group that started from an adapter is compared with zero-shot and its start by its own runs.
    """
    runs, draws = [scores.scored for scores in own], own[0].draws
    corrected = [scores.corrected for scores in own if scores.corrected]
    entry: dict[str, Any] = dict(
        zip(("model", "dataset", "supervision", "rows", "variant"), key, strict=True)
    )
    entry |= summarise(runs, draws) | {"majority": majority_baseline(runs), "cells": []}
    entry["prior_corrected"] = summarise(corrected, draws) if len(corrected) == len(runs) else None
    entry |= dict.fromkeys((*_COMPARED, "general", *COSTS))
    for name in ("none", START):
        if key[2] != name and all(name in scores.references for scores in own):
            others = [scores.references[name].scored for scores in own]
            entry[f"vs_{name}"] = _compare(own, others)
    return entry


def _compare(own: Sequence[Scores], others: Sequence[Scored]) -> dict[str, Any]:
    return measure_difference([scores.scored for scores in own], others, own[0].draws)


def _describe_references(
    done: dict[GroupKey, list[Result]], scored: dict[str, Scores]
) -> list[dict[str, Any]]:
    """Return entries of zero-shot and of each start alone that no cell shows, from the runs that
    started there.

    The start of a ``p3+...`` cell is another cell's adapter, which has an entry as that cell.
    """
    entries = []
    shown = {_reference(key[2], members[0].cell) for key, members in done.items()}
    for members in done.values():
        cell = members[0].cell
        for name, scores in scored[cell.name].references.items():
            reference = _reference(name, cell)
            if reference in shown or (name == START and cell.start):
                continue
            shown.add(reference)
            variant = cell.variant if name == START else ""
            entries.append(_describe((cell.model, cell.dataset, name, 0, variant), [scores]))
    return entries


def _reference(name: str, cell: Cell) -> tuple[str, ...]:
    """Return what tells one reference of a cell from another's: zero-shot is one for a dataset."""
    start = cell.params["finetune"]["start"] if name == START else ""
    return cell.model, cell.dataset, name, start


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
        scored[other.name].scored for other in others if questions_key(other) == questions_key(cell)
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
    from those of the runs. Without a start the keys of the start are None.
    """
    known = [scores for scores in general if scores]
    if len(known) < len(general):
        return None
    if len(known) == 1:
        return {"start": None, "gain_over_start": None, **known[0]}
    result: dict[str, Any] = {"tasks": known[0]["tasks"]}
    for name in ("zero_shot", "start", "adapted", "change", "gain_over_start"):
        runs = [scores[name] for scores in known if name in scores]
        result[name] = _mean_score(runs) if len(runs) == len(known) else None
    return result


def _mean_score(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        "f1": round(sum(run["f1"] for run in runs) / len(runs), 2),
        "f1_low": min(run["f1_low"] for run in runs),
        "f1_high": max(run["f1_high"] for run in runs),
    }
