"""Which held-out rows a generator is evaluated on: of the others a few numbers and ids are held."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bonito.params import GeneratorEvaluate
from tasks.core.files import fingerprint, row_seed
from tasks.core.parquet import GROUP, gather, rows_at
from tasks.core.task_types import TASK_TYPES

log = logging.getLogger(__name__)
#: What the draw holds of each row: its place in the file, its lot, and its passage's digest.
_KEYS = pa.schema(
    [
        ("place", pa.int64()),
        ("row_id", pa.string()),
        ("task_type", pa.string()),
        ("lot", pa.int64()),
        ("passage", pa.binary(32)),
    ]
)


def draw_rows(batches: Iterable[pa.Table], params: GeneratorEvaluate) -> list[dict[str, Any]]:
    """Return ``rows_per_type`` rows of each task type, drawn by hash, no passage twice in a type;
    ordered by type and hash.

    The batches are read twice, the second time for the rows that are drawn.
    """
    keys = gather(_read_keys(batches, params), _KEYS)
    chosen: list[int] = []
    for kind in TASK_TYPES:
        drawn: dict[bytes, int] = {}
        for passage, place in _in_order(keys.filter(pc.equal(keys["task_type"], kind))):
            if len(drawn) == params.rows_per_type:
                break
            drawn.setdefault(passage, place)
        if len(drawn) < params.rows_per_type:
            log.warning(
                "%s: %d held-out passages instead of %d",
                kind,
                len(drawn),
                params.rows_per_type,
            )
        chosen += drawn.values()
    places = np.sort(np.array(chosen, np.int64))
    rows = list(rows_at(batches, places))
    return [rows[index] for index in np.searchsorted(places, chosen)]


def _read_keys(
    batches: Iterable[pa.Table], params: GeneratorEvaluate
) -> Iterator[tuple[int, str, str, int, bytes]]:
    """Yield :data:`_KEYS` of the rows whose passage is not too long."""
    place = -1
    for batch in batches:
        for row in batch.select(["row_id", "task_type", "context"]).to_pylist():
            place += 1
            row_id, kind, context = row.values()
            if not 0 < params.max_context_chars < len(context):
                lot = row_seed(params.seed, kind, row_id)
                yield place, row_id, kind, lot, bytes.fromhex(fingerprint(context))


def _in_order(keys: pa.Table) -> Iterator[tuple[bytes, int]]:
    """Yield passage and place of each row, in the order of the draw."""
    ordered = keys.sort_by([(name, "ascending") for name in ("lot", "row_id", "place")])
    for batch in ordered.to_batches(GROUP):
        yield from zip(batch["passage"].to_pylist(), batch["place"].to_pylist(), strict=True)
