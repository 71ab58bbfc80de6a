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
from tasks.lm.engine import Completion, OnDone
from tasks.lm.prompts import Prompter, fill
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.f1 import squad_f1
from tasks.scoring.pieces import Answers, Meter, keep_answers
from tasks.scoring.predict import name_model, need_writer, open_writer
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
        need_writer(model.base, model.revision, model.precision, params)
        folder = model.folder()
        prompter = Prompter(load_tokenizer(str(folder)), model.form)
        log.info("%s: %d general tasks", model.name, len(tasks))
        instructions = [fill(task["instruction"], task["context"]) for task in tasks]
        prompts = [prompter.prompt(instruction) for instruction in instructions]
        with open_writer(folder, model.precision, prompts, params, on_done) as write:
            yield lambda part: (
                _general_row(model.name, task, prompter.text(instruction), completion)
                for task, instruction, completion in zip(
                    tasks[part], instructions[part], write(prompts[part]), strict=True
                )
            )

    key = work_key(__name__, model.key(), tasks, params.engine, params.max_new_tokens, params.seed)
    kept = (journal, key, "general", len(tasks), opened, meter, "general tasks", others)
    return name_model(keep_answers(*kept), model.name)


def _general_row(
    model: str, task: dict[str, Any], prompt: str, completion: Completion
) -> dict[str, Any]:
    gold = fill(task["response"], task["context"]).strip()
    prediction = completion.text.strip()
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
