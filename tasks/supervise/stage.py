"""supervise: the training rows of the target model, from one supervision source or a mix of them.

The stages after it are the same for all sources.

Instructions that a generator wrote (``bonito``, ``prompted``), the raw passages (``tapt``),
prompted rows of annotated datasets (``p3``), labelled items of the target task itself
(``labelled``: the ceiling), claims with labels by construction (``constructed``), or nothing
(``none``). A mix takes the rows of several (:mod:`tasks.core.mix`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.data_params import Supervise
from tasks.core.errors import PipelineError
from tasks.core.files import choose, row_seed
from tasks.core.parquet import read_columns, read_table, write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES, require
from tasks.core.stage import Stage, run_stage
from tasks.lm.prompts import fill
from tasks.scoring.datasets import has_items, load_dataset, load_items, render
from tasks.supervise.constructed import construct_rows

log = logging.getLogger(__name__)
#: Reasons of rows that are left out: more than supervise.max_rows, more than a source's share.
MAX_ROWS, OVER_SHARE = "max_rows", "over_share"
#: Reason of rows that evaluate asks where there are no labelled items: a tenth, at most a hundred.
HELD_OUT, _HELD_OUT_SHARE, _HELD_OUT_MOST = "held_out", 0.1, 100
_SOURCE = "source"
_P3_COLUMNS = ["row_id", "dataset", "task_type", "context", "instruction", "response"]
#: rows.INSTRUCTIONS, and how many rows are left out by reason.
SourceRows = tuple[pa.Table, Counter[str]]


def supervise(stage: Stage) -> None:
    """Write ``instructions.parquet`` (rows.INSTRUCTIONS), ``summary.json``, and
    ``heldout.parquet``: rows kept out of the training where there are no labelled items, else none.
    """
    params = stage.params.supervise
    sources, dropped = _read_sources(stage)
    total = sum(map(len, sources.values())) + dropped.total()
    chosen, wanted = _choose_rows(sources, params, dropped)
    held_out = INSTRUCTIONS.empty_table()
    if not has_items(stage.path("items")):
        chosen, held_out = _hold_out(chosen, params)
        dropped[HELD_OUT] += len(held_out)
    rows = pa.concat_tables(chosen.values())
    write_table(stage.out / "instructions.parquet", rows)
    write_table(stage.out / "heldout.parquet", held_out)
    stage.summary(
        total,
        len(rows),
        dict(dropped),
        source=params.source,
        by_task_type=_count_types(rows),
        by_source={
            name: {"rows": len(table), "by_task_type": _count_types(table)}
            | ({"rows_wanted": wanted[name]} if name in wanted else {})
            for name, table in chosen.items()
        },
    )
    for name, table in chosen.items():
        log.info("%s: %d rows", name, len(table))


def _read_sources(stage: Stage) -> tuple[dict[str, pa.Table], Counter[str]]:
    """Return source -> its rows, and the rows left out by reason.

    Rows of two sources never share an id: where an earlier source has one of a source's ids, all
    ids of the later one get its name before them (``labelled:17``).
    """
    tables: dict[str, pa.Table] = {}
    dropped: Counter[str] = Counter()
    taken: set[str] = set()
    for name in stage.params.supervise.mix.names:
        table, left_out = _SOURCES[name](stage)
        if not len(table) and name != "none":
            raise PipelineError(
                f"supervise.source {name} gives no row to train on "
                f"({dict(left_out) or 'its input is empty'})"
            )
        ids = table["row_id"].to_pylist()
        while not taken.isdisjoint(ids):
            ids = [f"{name}:{row_id}" for row_id in ids]
        taken.update(ids)
        tables[name] = table.set_column(
            INSTRUCTIONS.get_field_index("row_id"), "row_id", pa.array(ids, pa.string())
        )
        dropped += left_out
    return tables, dropped


def _choose_rows(
    sources: dict[str, pa.Table], params: Supervise, dropped: Counter[str]
) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """Return source -> the rows to train on, and how many the sources with a share should give.

    Rows that are not chosen are counted in ``dropped``.
    """
    whole = {name: table for name, table in sources.items() if name not in params.mix.shares}
    of_whole, wanted = params.mix.allot(sum(map(len, whole.values())), params.max_rows)
    pool = pa.concat_tables(
        table.append_column(_SOURCE, pa.array([name] * len(table), pa.string()))
        for name, table in whole.items()
    )
    pool = _draw(pool, of_whole, params.seed)
    chosen = {}
    for name, table in sources.items():
        if name in whole:
            mine = pool.filter(pc.equal(pool[_SOURCE], name)).select(INSTRUCTIONS.names)
        else:
            mine = _draw(table, wanted[name], params.seed)
            if len(mine) < wanted[name]:
                log.warning(
                    "%s: all %d rows; its share of %s would be %d",
                    name,
                    len(mine),
                    params.source,
                    wanted[name],
                )
        chosen[name] = mine
        dropped[MAX_ROWS if name in whole else OVER_SHARE] += len(table) - len(mine)
    return chosen, wanted


def _hold_out(
    chosen: dict[str, pa.Table], params: Supervise
) -> tuple[dict[str, pa.Table], pa.Table]:
    """Return the rows to train on, and those kept out of it: whole passages, a seeded choice.

    Raises :class:`PipelineError` where nothing can be held out: such a run would have no figure.
    """
    rows = pa.concat_tables(chosen.values())
    asked = rows.filter(pc.not_equal(rows["instruction"], ""))
    counts = Counter(asked["passage_id"].to_pylist())
    order = sorted(counts, key=lambda name: (row_seed(params.seed, HELD_OUT, name), name))
    if len(order) < 2:
        raise PipelineError(
            f"evaluate.items is supervision/none, and supervise.source {params.source} gives too "
            "few instructions to hold some out: name labelled items, or generate from more passages"
        )
    most = min(_HELD_OUT_MOST, max(1, int(_HELD_OUT_SHARE * len(asked))))
    passages: list[str] = []
    for name in order[:-1]:
        if sum(counts[other] for other in passages) < most:
            passages.append(name)
    names = pa.array(passages, pa.string())
    kept = {
        source: table.filter(pc.invert(pc.is_in(table["passage_id"], names)))
        for source, table in chosen.items()
    }
    return kept, asked.filter(pc.is_in(asked["passage_id"], names))


def _draw(table: pa.Table, count: int, seed: int) -> pa.Table:
    """Return a seeded choice of ``count`` rows, or all where there are fewer."""
    if not count:
        return table.slice(0, 0)
    return table.take(choose(table["row_id"].to_pylist(), count, seed, "supervise"))


def _count_types(rows: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(rows["task_type"].to_pylist()).items()))


def _read_instructions(stage: Stage) -> SourceRows:
    """The rows that a generator wrote and validate kept."""
    path = stage.path("instructions")
    return require(read_table(path), INSTRUCTIONS, path), Counter()


def _make_nothing(stage: Stage) -> SourceRows:
    return INSTRUCTIONS.empty_table(), Counter()


def _read_texts(stage: Stage) -> SourceRows:
    """The raw text of the passages that a generator would be given."""
    passages, left_out = _choose_passages(stage)
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
        for row in passages.to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=INSTRUCTIONS), Counter({"max_passages": left_out})


def _construct(stage: Stage) -> SourceRows:
    """Claims with labels by construction, on the passages that a generator would be given."""
    passages, _ = _choose_passages(stage)
    return construct_rows(passages, stage.params.generate.task_types, stage.params.supervise.seed)


def _choose_passages(stage: Stage) -> tuple[pa.Table, int]:
    """Return the passages that a generator would be given (rows.PASSAGES), and how many others
    there are: ``generate.max_passages`` and its seed choose.
    """
    path, generate = stage.path("passages"), stage.params.generate
    table = require(read_table(path), PASSAGES, path)
    chosen = choose(
        table["passage_id"].to_pylist(), generate.max_passages, generate.seed, "passage"
    )
    return table.take(chosen), len(table) - len(chosen)


def _read_p3(stage: Stage) -> SourceRows:
    """General instruction tuning: prompted rows of the annotated datasets, with their passages."""
    path = stage.path("rows")
    takes = "source p3 takes the train.parquet of bonito.remix.stage"
    table = read_columns(path, _P3_COLUMNS, "supervise.rows", takes)
    kept, dropped = [], Counter[str]()
    for row in table.to_pylist():
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


def _render_labelled(stage: Stage) -> SourceRows:
    """Labelled items of the target task, each under one of its templates, drawn by the item's id.

    Items of the evaluation set are left out.
    """
    evaluate, path = stage.params.evaluate, stage.path("rows")
    dataset = load_dataset(Path(evaluate.dataset))
    templates = dataset.templates[: evaluate.templates or None]
    items = stage.path("items")
    evaluated = (
        {render(templates[0], item) for item in load_items(dataset, items)}
        if has_items(items)
        else set()
    )
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


_SOURCES: dict[str, Callable[[Stage], SourceRows]] = {
    "bonito": _read_instructions,
    "prompted": _read_instructions,
    "none": _make_nothing,
    "tapt": _read_texts,
    "p3": _read_p3,
    "labelled": _render_labelled,
    "constructed": _construct,
}


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "supervise",
        supervise,
        ("passages", "instructions"),
        argv,
        settings={"rows": "supervise.rows", "items": "evaluate.items"},
    )
