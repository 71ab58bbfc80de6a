"""The results of a matrix's cells, read from their checkouts.

``cells.json`` has one row for each cell, ``predictions/`` every cell's answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from flows.matrix.cells import Cell
from flows.matrix.compare import Draws
from flows.matrix.supervision import START
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.parquet import read_table
from tasks.core.rows import EVALUATIONS, require
from tasks.scoring.datasets import Dataset, Item, Template, load_dataset, load_items
from tasks.scoring.f1 import Scored, scored_of

#: Stages whose seconds are GPU seconds where there is a GPU.
ON_GPU = ("generate", "verify", "finetune", "baseline", "evaluate", "register")
#: What :func:`measure_cost` returns.
COSTS = ("rows_trained", "tokens", "wall_seconds", "gpu_seconds")


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
    """Return the rows of cells.json: identity, the run's F1 with its interval, that of its start
    alone and the gain over it (None: no start), status, reason and cost.
    """
    rows = []
    for result in results:
        scores: dict[str, Any] = {}
        if result.status == "done":
            scores = read_json(result.artifacts(main) / "evaluate" / "scores.json")
        adapted = scores.get("adapted", {})
        rows.append(
            {
                **result.cell.identity(),
                **{name: adapted.get(name) for name in ("f1", "f1_low", "f1_high")},
                "start": scores.get("start", {}).get("f1"),
                "gain_over_start": scores.get("gain_over_start", {}).get("f1"),
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
    wall = gpu = None
    if all(stage["seconds"] is not None for stage in result.stages):
        wall = round(sum(stage["seconds"] for stage in result.stages), 1)
        on_gpu = sum(stage["seconds"] for stage in result.stages if stage["stage"] in ON_GPU)
        gpu = round(result.gpus * on_gpu, 1)
    summary = result.artifacts(main) / "finetune" / "summary.json"
    training = read_json(summary) if result.status == "done" and summary.is_file() else {}
    return {
        "rows_trained": training.get("rows_kept"),
        "tokens": training.get("tokens"),
        "wall_seconds": wall,
        "gpu_seconds": gpu,
    }


@dataclass(frozen=True)
class Scores:
    """A cell's scores, plain and prior corrected (None: extraction, or switched off), and the
    resamples of its dataset.

    ``references`` of a cell that started from an adapter are ``none`` (zero-shot) and ``start``
    (the start alone), as its own run scored them; those of a start are ``none``.
    """

    scored: Scored
    corrected: Scored | None
    draws: Draws
    references: dict[str, Scores] = field(default_factory=dict)


@dataclass(frozen=True)
class _Questions:
    """What cells on one dataset are asked, and its resamples."""

    dataset: Dataset
    templates: tuple[Template, ...]
    items: list[Item]
    draws: Draws

    @classmethod
    def read(cls, cell: Cell, main: Path) -> _Questions:
        evaluate = cell.params["evaluate"]
        file, path, most, templates, seed = questions_key(cell)
        dataset = load_dataset(main / file)
        items = load_items(dataset, main / path, most, seed)
        asked = dataset.templates[: templates or None]
        return cls(
            dataset, asked, items, Draws.make(items, len(asked), evaluate["bootstrap"], seed)
        )

    def score(
        self, answers: pa.Table, corrects: bool, references: dict[str, Scores] | None = None
    ) -> Scores:
        asked = self.dataset, self.templates, self.items
        corrected = scored_of(*asked, answers, corrected=True) if corrects else None
        return Scores(scored_of(*asked, answers), corrected, self.draws, references or {})


def read_scores(results: Sequence[Result], main: Path) -> dict[str, Scores]:
    """Return cell name -> its scores. Cells on one dataset share items, templates and resamples."""
    questions: dict[tuple[Any, ...], _Questions] = {}
    scores = {}
    for result in results:
        if result.status != "done":
            continue
        key = questions_key(result.cell)
        if key not in questions:
            questions[key] = _Questions.read(result.cell, main)
        corrects = questions[key].dataset.classifies and result.cell.params["evaluate"].get(
            "prior_correction", True
        )
        references = {}
        if len(start := _read_answers(result, main, START)):
            zero_shot = questions[key].score(_read_answers(result, main, "zero_shot"), corrects)
            alone = questions[key].score(start, corrects, {"none": zero_shot})
            references = {"none": zero_shot, START: alone}
        adapted = read_adapted_answers(result, main)
        scores[result.cell.name] = questions[key].score(adapted, corrects, references)
    return scores


def questions_key(cell: Cell) -> tuple[Any, ...]:
    """Return the settings that determine a cell's questions."""
    values = cell.params["evaluate"]
    return tuple(values[key] for key in ("dataset", "items", "max_items", "templates", "seed"))


def read_adapted_answers(result: Result, main: Path) -> pa.Table:
    """Return the answers of a cell's adapted model (schema ``rows.EVALUATIONS``)."""
    answers = _read_answers(result, main, "adapted")
    if not len(answers):
        raise PipelineError(
            f"{_answers_path(result, main)} holds no answers of the adapted model: run the cell "
            "again"
        )
    return answers


def _read_answers(result: Result, main: Path, model: str) -> pa.Table:
    """Return the answers of one model; none where the run did not ask it."""
    path = _answers_path(result, main)
    table = require(read_table(path), EVALUATIONS, path)
    return table.filter(pc.equal(table["model"], model))


def _answers_path(result: Result, main: Path) -> Path:
    return result.artifacts(main) / "evaluate" / "predictions.parquet"
