"""General tasks: held-out rows of a remix, which tell what a training made a model forget."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.files import fingerprint, row_seed
from tasks.core.parquet import need_columns, read_table
from tasks.core.rows import EVALUATIONS
from tasks.core.sections.baseline import Baseline
from tasks.core.sections.evaluate import Evaluate
from tasks.core.setting_paths import is_nothing
from tasks.core.store import work_key
from tasks.lm.engine import OnDone
from tasks.lm.prompts import fill
from tasks.scoring.f1 import squad_f1
from tasks.scoring.pieces import Answers, Meter, keep_answers
from tasks.scoring.predict import name_model, write_answers
from tasks.scoring.scoreable import Scoreable

log = logging.getLogger(__name__)
GENERAL = "general"


def answer_general(
    model: Scoreable,
    path: Path,
    baseline: Baseline,
    params: Evaluate,
    journal: Path,
    meter: Meter,
    others: Path | None = None,
) -> pa.Table:
    """Return one row (rows.EVALUATIONS, its template the task type) per general task of the file at
    ``path``; none for ``supervision/none``.
    """
    tasks = general_tasks(path, baseline)
    if not tasks:
        return EVALUATIONS.empty_table()

    @contextlib.contextmanager
    def opened(on_done: OnDone) -> Iterator[Answers]:
        log.info("%s: %d general tasks", model.name, len(tasks))
        instructions = [fill(task["instruction"], task["context"]) for task in tasks]
        with write_answers(model, instructions, params, on_done) as write:
            yield lambda part: (
                _general_row(model.name, task, prompt, text)
                for task, (prompt, text) in zip(tasks[part], write(part), strict=True)
            )

    key = work_key(__name__, model.key(), tasks, params.engine, params.max_new_tokens, params.seed)
    answers = keep_answers(journal, key, len(tasks), opened, meter, "general tasks", others)
    return name_model(answers, model.name)


def _general_row(model: str, task: dict[str, Any], prompt: str, prediction: str) -> dict[str, Any]:
    gold = fill(task["response"], task["context"]).strip()
    return {
        "model": model,
        "dataset": GENERAL,
        "template": task["task_type"],
        "item_id": task["row_id"],
        "prompt": prompt,
        "prediction": prediction,
        "golds": [gold],
        "choices": [],
        "scores": [],
        "f1": squad_f1(prediction, [gold]),
    }


def general_tasks(path: Path, baseline: Baseline) -> list[dict[str, Any]]:
    """Return ``general_rows`` held-out rows of a remix, drawn in turn from each task type."""
    if is_nothing(path):
        return []
    columns = ["row_id", "task_type", "context", "instruction", "response"]
    takes = "it takes a remix's heldout.parquet (docs/generator.md)"
    need_columns(path, columns, "baseline.general", takes)
    table = read_table(path, columns)
    turns: dict[str, int] = {}
    order = []
    for row in sorted(
        table.to_pylist(),
        key=lambda row: row_seed(baseline.seed, GENERAL, row["row_id"]),
    ):
        turns[row["task_type"]] = turns.get(row["task_type"], 0) + 1
        order.append((turns[row["task_type"]], row["task_type"], row["row_id"], row))
    return [row for *_, row in sorted(order, key=lambda entry: entry[:3])[: baseline.general_rows]]


def name_passages(path: Path, baseline: Baseline) -> dict[str, str]:
    """Return general task -> a name of its passage, the same for all tasks on one; a task without a
    passage has its own.
    """
    return {
        task["row_id"]: fingerprint("passage", text) if text else task["row_id"]
        for task in general_tasks(path, baseline)
        for text in [" ".join(task["context"].split())]
    }
