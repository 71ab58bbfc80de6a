"""supervise: the training rows of the target model, from one of the paper's supervision sources.

The stages after it are the same for all sources.

Instructions that a generator wrote (``bonito``, ``prompted``), the raw passages (``tapt``),
prompted rows of annotated datasets (``p3``), labelled items of the target task itself
(``labelled``: the ceiling), or nothing (``none``).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import PipelineError
from tasks.core.files import choose, row_seed
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES, require
from tasks.core.stage import Stage, run_stage
from tasks.lm.prompts import fill
from tasks.scoring.datasets import load_dataset, load_items, render

log = logging.getLogger(__name__)
MAX_ROWS = "max_rows"
_P3_COLUMNS = ["row_id", "dataset", "task_type", "context", "instruction", "response"]
#: rows.INSTRUCTIONS, and how many rows are left out by reason.
Supervision = tuple[pa.Table, Counter[str]]


def supervise(stage: Stage) -> None:
    """Write ``instructions.parquet`` (rows.INSTRUCTIONS) and ``summary.json``."""
    params = stage.params.supervise
    rows, dropped = _SOURCES[params.source](stage)
    total = len(rows) + dropped.total()
    if not len(rows) and params.source != "none":
        raise PipelineError(
            f"supervise.source {params.source} gives no row to train on "
            f"({dict(dropped) or 'its input is empty'})"
        )
    chosen = choose(rows["row_id"].to_pylist(), params.max_rows, params.seed, "supervise")
    dropped[MAX_ROWS] += len(rows) - len(chosen)
    rows = rows.take(chosen)
    write_table(stage.out / "instructions.parquet", rows)
    stage.summary(
        total,
        len(rows),
        dict(dropped),
        source=params.source,
        by_task_type=dict(sorted(Counter(rows["task_type"].to_pylist()).items())),
    )
    log.info("%s: %d rows", params.source, len(rows))


def _read_instructions(stage: Stage) -> Supervision:
    """The rows that a generator wrote and validate kept."""
    path = stage.path("instructions")
    return require(read_table(path), INSTRUCTIONS, path), Counter()


def _make_nothing(stage: Stage) -> Supervision:
    return INSTRUCTIONS.empty_table(), Counter()


def _read_passages(stage: Stage) -> Supervision:
    """The raw text of the passages that a generator would get: ``generate.max_passages`` and its
    seed choose them.
    """
    path, generate = stage.path("passages"), stage.params.generate
    table = require(read_table(path), PASSAGES, path)
    chosen = choose(
        table["passage_id"].to_pylist(), generate.max_passages, generate.seed, "passage"
    )
    rows = [
        {
            "row_id": row["passage_id"],
            "passage_id": row["passage_id"],
            "document": row["document"],
            "task_type": "",
            "context": row["text"],
            "instruction": "",
            "response": row["text"],
        }
        for row in table.take(chosen).to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=INSTRUCTIONS), Counter(
        {"max_passages": len(table) - len(rows)}
    )


def _read_p3(stage: Stage) -> Supervision:
    """General instruction tuning: prompted rows of the annotated datasets, with their passages."""
    path = stage.path("rows")
    _require_columns(path, _P3_COLUMNS)
    kept, dropped = [], Counter[str]()
    for row in read_table(path, _P3_COLUMNS).to_pylist():
        instruction, response = (
            fill(row[name], row["context"]).strip() for name in ("instruction", "response")
        )
        if not instruction or not response:
            dropped["empty"] += 1
            continue
        whole = {
            "passage_id": row["row_id"],
            "document": row["dataset"],
            "instruction": instruction,
            "response": response,
        }
        kept.append({name: row[name] for name in ("row_id", "task_type", "context")} | whole)
    return pa.Table.from_pylist(kept, schema=INSTRUCTIONS), dropped


def _render_labelled(stage: Stage) -> Supervision:
    """Labelled items of the target task, each under one of its templates, drawn by the item's id.

    Items of the evaluation set are left out.
    """
    evaluate, path = stage.params.evaluate, stage.path("rows")
    dataset = load_dataset(Path(evaluate.dataset))
    templates = dataset.templates[: evaluate.templates or None]
    evaluated = {render(templates[0], item) for item in load_items(dataset, stage.path("items"))}
    seed = stage.params.supervise.seed
    kept: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for item in load_items(dataset, path):
        if render(templates[0], item) in evaluated:
            dropped["in_evaluation"] += 1
            continue
        template = templates[row_seed(seed, "template", item.id) % len(templates)]
        kept.append(
            {
                "row_id": item.id,
                "passage_id": item.id,
                "document": path.name,
                "task_type": dataset.task_type,
                "context": item.context,
                "instruction": render(template, item),
                "response": template.choices[item.gold] if dataset.classifies else item.golds[0],
            }
        )
    return pa.Table.from_pylist(kept, schema=INSTRUCTIONS), dropped


_SOURCES: dict[str, Callable[[Stage], Supervision]] = {
    "bonito": _read_instructions,
    "prompted": _read_instructions,
    "none": _make_nothing,
    "tapt": _read_passages,
    "p3": _read_p3,
    "labelled": _render_labelled,
}


def _require_columns(path: Path, columns: list[str]) -> None:
    try:
        present = pq.read_schema(path).names
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(
            f"supervise.rows: {path} cannot be read as Parquet: source p3 takes the "
            "train.parquet of bonito.remix.stage"
        ) from error
    missing = [name for name in columns if name not in present]
    if missing:
        raise PipelineError(
            f"supervise.rows: {path} has no column {missing[0]!r}: source p3 takes the "
            "train.parquet of bonito.remix.stage"
        )


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "supervise",
        supervise,
        ("passages", "instructions"),
        argv,
        settings={"rows": "supervise.rows", "items": "evaluate.items"},
    )
