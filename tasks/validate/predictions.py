"""The predictions file: read in batches, and written again as instructions and quarantine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import PipelineError
from tasks.core.parquet import Batches, TableWriter
from tasks.core.rows import INSTRUCTIONS, PREDICTIONS, QUARANTINE
from tasks.core.task_types import task_type
from tasks.validate.report import Samples
from tasks.validate.texts import fill_all, unspace
from tasks.validate.verdicts import Verdicts

#: The columns that validation reads.
COLUMNS = pa.schema(
    [PREDICTIONS.field(name) for name in (*INSTRUCTIONS.names, "prediction", "parsed", "reason")]
)
_REASONS = QUARANTINE.field("reasons")


def count_rows(predictions: Path) -> int:
    """Return how many rows the file has; raise :class:`PipelineError` if it has none."""
    rows = len(Batches(predictions, COLUMNS))
    if not rows:
        raise PipelineError(
            f"{predictions} holds no predictions: run generate again, or look at what ingest kept"
        )
    return rows


def read_batches(predictions: Path) -> Iterator[tuple[int, pa.Table]]:
    """Yield (position of its first row, clean batch) in the file's order."""
    start = 0
    for batch in Batches(predictions, COLUMNS):
        yield start, clean_batch(batch)
        start += len(batch)


def clean_batch(table: pa.Table) -> pa.Table:
    """Return a batch without nulls, with short names of task types and unspaced placeholders.

    An unknown task type is a :class:`PipelineError`.
    """
    columns = {
        name: pc.fill_null(table[name].combine_chunks(), False if name == "parsed" else "")
        for name in table.column_names
    }
    types = columns["task_type"].dictionary_encode()
    columns["task_type"] = pa.array(
        [task_type(name) for name in types.dictionary.to_pylist()], pa.string()
    ).take(types.indices)
    for name in ("instruction", "response"):
        columns[name] = unspace(columns[name])
    return pa.table(columns, COLUMNS)


def write_rows(predictions: Path, verdicts: Verdicts, folder: Path) -> Samples:
    """Write every row to instructions.parquet or quarantine.parquet, in the file's order.

    Return the rows that the report shows.
    """
    samples = Samples(verdicts)
    kept = verdicts.kept()
    with (
        TableWriter(folder / "instructions.parquet", INSTRUCTIONS) as good,
        TableWriter(folder / "quarantine.parquet", QUARANTINE) as bad,
    ):
        for start, batch in read_batches(predictions):
            keep = kept[start : start + len(batch)]
            rows = fill_passages(batch)
            good.write(rows.filter(pa.array(keep)))
            reasons = [verdicts.reasons(start + place) for place in np.flatnonzero(~keep)]
            column = pa.array(reasons, _REASONS.type)
            bad.write(rows.filter(pa.array(~keep)).append_column(_REASONS, column))
            samples.take(batch, start)
    return samples


def fill_passages(batch: pa.Table) -> pa.Table:
    """Return a batch as rows.INSTRUCTIONS, with the passage in its placeholders.

    An unparsable row shows the raw prediction as its instruction.
    """
    context, template, response, parsed, prediction = (
        batch[name].combine_chunks()
        for name in ("context", "instruction", "response", "parsed", "prediction")
    )
    instruction = fill_all(template, context)
    shows_text = pc.or_(parsed, pc.not_equal(instruction, ""))
    columns = {name: batch[name] for name in INSTRUCTIONS.names} | {
        "instruction": pc.if_else(shows_text, instruction, prediction),
        "response": fill_all(response, context),
    }
    return pa.table(columns, INSTRUCTIONS)
