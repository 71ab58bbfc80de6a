"""Where training rows come from: each source makes its rows batch by batch, so that a million of
them are never in memory; see :mod:`tasks.supervise.stage` for what they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.files import choose, fingerprint, row_seed
from tasks.core.parquet import Batches, column_values, concat, need_columns, take_rows
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.core.stage import Stage
from tasks.lm.prompts import fill
from tasks.scoring.datasets import has_items, load_dataset, load_items, render
from tasks.supervise.constructed import construct_rows

_P3 = pa.schema(
    [
        (name, pa.string())
        for name in ("row_id", "dataset", "task_type", "context", "instruction", "response")
    ]
)
#: What is held in memory of each row: ``asked`` says whether it has an instruction, ``place`` is
#: its number in the source.
KEYS = pa.schema(
    [
        *(INSTRUCTIONS.field(name) for name in ("row_id", "passage_id", "task_type")),
        ("asked", pa.bool_()),
        ("place", pa.int64()),
    ]
)
#: Makes a source's rows (rows.INSTRUCTIONS), batch by batch.
Read = Callable[[], Iterable[pa.Table]]


@dataclass(frozen=True)
class Source:
    """The rows of a source: ``read`` reads them again each time; only their keys are held in
    memory.
    """

    read: Read
    keys: pa.Table

    @classmethod
    def of(cls, read: Read) -> Source:
        """Read the rows once, for their keys."""
        parts, start = [], 0
        for table in read():
            asked = pc.not_equal(table["instruction"], "")
            place = pa.array(np.arange(start, start + len(table)), pa.int64())
            named = table.select(["row_id", "passage_id", "task_type"])
            parts.append(named.append_column("asked", asked).append_column("place", place))
            start += len(table)
        return cls(read, concat(parts, KEYS))

    def rows(self, chosen: pa.Table) -> Iterator[pa.Table]:
        """Yield the rows of some of the keys, under the ids that the keys have."""
        done, column = 0, INSTRUCTIONS.get_field_index("row_id")
        for table in take_rows(self.read(), chosen["place"].to_numpy()):
            ids = chosen["row_id"].slice(done, len(table))
            yield table.set_column(column, INSTRUCTIONS.field(column), ids)
            done += len(table)


#: A source, and how many of its rows are left out by reason.
SourceRows = tuple[Source, Counter[str]]


def _read_instructions(stage: Stage) -> SourceRows:
    """The rows that a generator wrote and verify kept."""
    rows = Batches(stage.path("instructions"), INSTRUCTIONS)
    return Source.of(lambda: rows), Counter()


def _make_nothing(stage: Stage) -> SourceRows:
    return Source.of(list), Counter()


def _read_texts(stage: Stage) -> SourceRows:
    """The raw text of the passages that a generator would be given."""
    passages, left_out = _choose_passages(stage)
    return Source.of(lambda: map(_text_rows, passages())), Counter({"max_passages": left_out})


def _text_rows(passages: pa.Table) -> pa.Table:
    empty = pa.array([""] * len(passages), pa.string())
    columns = {
        "row_id": passages["passage_id"],
        "passage_id": passages["passage_id"],
        "document": passages["document"],
        "task_type": empty,
        "context": passages["text"],
        "instruction": empty,
        "response": passages["text"],
    }
    return pa.table(columns, INSTRUCTIONS)


def _construct(stage: Stage) -> SourceRows:
    """Claims with labels by construction, on the passages that a generator would be given."""
    passages, _ = _choose_passages(stage)
    rows, dropped = construct_rows(
        concat(passages(), PASSAGES),
        stage.params.generate.task_types,
        stage.params.supervise.seed,
    )
    return Source.of(lambda: [rows]), dropped


def _choose_passages(stage: Stage) -> tuple[Read, int]:
    """Return the passages that a generator would be given (rows.PASSAGES), and how many others
    there are: ``generate.max_passages`` and its seed choose.
    """
    path, generate = stage.path("passages"), stage.params.generate
    passages = Batches(path, PASSAGES)
    ids = column_values(Batches(path, pa.schema([PASSAGES.field("passage_id")])), "passage_id")
    places = choose(ids, generate.max_passages, generate.seed, "passage").to_numpy()
    return lambda: take_rows(passages, places), len(passages) - len(places)


def _read_p3(stage: Stage) -> SourceRows:
    """General instruction tuning: prompted rows of the annotated datasets, with their passages."""
    path = stage.path("rows")
    takes = "source p3 takes the train.parquet that make bonito leaves in bonito/artifacts/remix"
    need_columns(path, _P3.names, "supervise.rows", takes)
    rows = Batches(path, _P3)
    source = Source.of(lambda: map(_prompted_rows, rows))
    return source, Counter({"empty": len(rows) - len(source.keys)})


def _prompted_rows(table: pa.Table) -> pa.Table:
    """Return the rows with their passages in place, without those that are then empty."""
    kept = []
    for row in table.to_pylist():
        context = row["context"] or ""
        instruction, response = (
            fill(row[name] or "", context).strip() for name in ("instruction", "response")
        )
        if instruction and response:
            kept.append(
                {
                    "row_id": row["row_id"],
                    "passage_id": _name_passage(context, row["row_id"]),
                    "document": row["dataset"],
                    "task_type": row["task_type"],
                    "context": context,
                    "instruction": instruction,
                    "response": response,
                }
            )
    return pa.Table.from_pylist(kept, schema=INSTRUCTIONS)


def _render_labelled(stage: Stage) -> SourceRows:
    """Labelled items of the target task, each under one of its templates, drawn by the item's id.

    Items on a passage or of a document of the evaluation set are left out: another question on it
    tells of it as well.
    """
    evaluate, path = stage.params.evaluate, stage.path("rows")
    dataset = load_dataset(Path(evaluate.dataset))
    templates = dataset.templates[: evaluate.templates or None]
    items = stage.path("items")
    evaluated = load_items(dataset, items) if has_items(items) else []
    passages = {_one_spaced(item.context) for item in evaluated}
    documents = {item.document for item in evaluated if item.document}
    seed = stage.params.supervise.seed
    kept: list[dict[str, Any]] = []
    dropped: Counter[str] = Counter()
    for item in load_items(dataset, path):
        if _one_spaced(item.context) in passages:
            dropped["in_evaluation"] += 1
            continue
        if item.document in documents:
            dropped["of_evaluated_document"] += 1
            continue
        template = templates[row_seed(seed, "template", item.id) % len(templates)]
        kept.append(
            {
                "row_id": item.id,
                "passage_id": _name_passage(item.context, item.id),
                "document": path.name,
                "task_type": dataset.task_type,
                "context": item.context,
                "instruction": render(template, item),
                "response": template.choices[item.gold] if dataset.classifies else item.golds[0],
            }
        )
    table = pa.Table.from_pylist(kept, schema=INSTRUCTIONS)
    return Source.of(lambda: [table]), dropped


def _name_passage(context: str, row_id: str) -> str:
    """Return a name of a row's passage, the same for all rows on it: they are held out together. A
    row without a passage has its own.
    """
    text = _one_spaced(context)
    return fingerprint("passage", text)[:20] if text else row_id


def _one_spaced(text: str) -> str:
    return " ".join(text.split())


#: Name in supervise.source -> what makes the source.
SOURCES: dict[str, Callable[[Stage], SourceRows]] = {
    "bonito": _read_instructions,
    "prompted": _read_instructions,
    "none": _make_nothing,
    "tapt": _read_texts,
    "p3": _read_p3,
    "labelled": _render_labelled,
    "constructed": _construct,
}
