"""People's verdicts on the rows that no generator wrote: verify counts those on a generator's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import PipelineError
from tasks.core.rows import QUARANTINE
from tasks.core.stage import Stage
from tasks.scoring.reviews import WRONG_BY_REVIEW, Reviews
from tasks.supervise.sources import Source

Keys = dict[str, pa.Table]


def review_rows(
    stage: Stage, sources: Mapping[str, Source], chosen: Keys
) -> tuple[Keys, Keys, dict[str, Any]]:
    """Return source -> the keys of the rows to train on, source -> those that are not, as a person
    found them wrong (``verify.exclude_wrong``), and what people found
    (:meth:`Reviews.figures`, and the same ``by_task_type``).

    ``chosen`` is source -> keys. Rows of a generator stay and are not counted again. Where all are
    a generator's there are no figures. Raises :class:`PipelineError` where no row is left.
    """
    params = stage.params
    own = [name for name in chosen if name not in ("none", params.supervise.mix.generator)]
    if not own:
        return chosen, {}, {}
    reviews = Reviews.read(stage.inputs.get("reviews"), params.verify.seed)
    kept, wrong = dict(chosen), {}
    for name in own:
        found = pa.array(_find_wrong(sources[name].rows(chosen[name]), reviews), pa.bool_())
        if params.verify.exclude_wrong:
            kept[name] = chosen[name].filter(pc.invert(found))
            wrong[name] = chosen[name].filter(found)
    if not any(map(len, kept.values())):
        raise PipelineError(
            f"no row is left to train on: people found all {sum(map(len, wrong.values()))} wrong. "
            "Set verify.exclude_wrong to false, or look at the verdicts in verify.reviews"
        )
    return kept, wrong, reviews.figures() | {"by_task_type": reviews.by_task_type()}


def quarantined(sources: Mapping[str, Source], wrong: Keys) -> Iterator[pa.Table]:
    """Yield the rows that a person found wrong, with their reason (rows.QUARANTINE)."""
    field = QUARANTINE.field("reasons")
    for name, keys in wrong.items():
        for table in sources[name].rows(keys):
            yield table.append_column(field, pa.array([[WRONG_BY_REVIEW]] * len(table), field.type))


def _find_wrong(tables: Iterable[pa.Table], reviews: Reviews) -> Iterator[bool]:
    """Count the rows that have an instruction, and tell of each row whether it was found wrong."""
    for table in tables:
        for row in table.select(["task_type", "instruction", "response"]).to_pylist():
            yield bool(row["instruction"]) and reviews.count(row) == "wrong"
