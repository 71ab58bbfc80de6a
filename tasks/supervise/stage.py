"""supervise: the training rows of the target model, from one supervision source or a mix of them.

The stages after it are the same for all sources. Rows are chosen by their keys, the only part held
in memory, and written batch by batch.

The sources are instructions that a generator wrote (``bonito``, ``prompted``), the raw passages
(``tapt``), prompted rows of annotated datasets (``p3``), labelled items of the target task itself
(``labelled``: the ceiling), claims with labels by construction (``constructed``), or nothing
(``none``). A mix takes the rows of several (:mod:`tasks.core.mix`).
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from tasks.claims.construct import FEW_ROWS
from tasks.core.errors import PipelineError
from tasks.core.files import choose, row_seed
from tasks.core.parquet import GROUP, column_values, write_batches
from tasks.core.rows import INSTRUCTIONS, QUARANTINE
from tasks.core.sections.supervise import Supervise
from tasks.core.setting_paths import NOTHING
from tasks.core.stage import Stage, format_reasons, run_stage
from tasks.scoring.datasets import has_items
from tasks.scoring.reviews import WRONG_BY_REVIEW
from tasks.supervise.reviewed import quarantined, review_rows
from tasks.supervise.sources import KEYS, SOURCES, Source

log = logging.getLogger(__name__)
#: Reasons of rows that are left out: more than supervise.max_rows, more than a source's share.
MAX_ROWS, OVER_SHARE = "max_rows", "over_share"
#: Reason of rows that evaluate asks where there are no labelled items: a tenth, at most a hundred.
HELD_OUT, _HELD_OUT_SHARE, _HELD_OUT_MOST = "held_out", 0.1, 100
#: Reason of the other rows on their passages, such as the raw text: they must not be seen either.
OF_HELD_OUT_PASSAGE = "of_held_out_passage"
_SOURCE = "source"


def supervise(stage: Stage) -> None:
    """Write ``instructions.parquet`` (rows.INSTRUCTIONS), ``summary.json``, and
    ``heldout.parquet``: rows kept out of the training where there are no labelled items, else none.
    Where no generator wrote some of the rows, ``quarantine.parquet`` has those of them that a
    person found wrong (rows.QUARANTINE).
    """
    params = stage.params.supervise
    sources, dropped = _read_sources(stage)
    keys = {name: source.keys for name, source in sources.items()}
    total = _count(keys) + dropped.total()
    chosen, wanted = _choose_rows(keys, params, dropped)
    held_out: dict[str, pa.Table] = {}
    if not has_items(stage.path("items")):
        kept, held_out = _hold_out(chosen, params)
        dropped[HELD_OUT] += _count(held_out)
        dropped[OF_HELD_OUT_PASSAGE] += _count(chosen) - _count(kept) - _count(held_out)
        chosen = kept
    chosen, wrong, review = review_rows(stage, sources, chosen)
    dropped[WRONG_BY_REVIEW] += _count(wrong)
    if review:
        write_batches(stage.out / "quarantine.parquet", quarantined(sources, wrong), QUARANTINE)
    for file, keep in (("instructions.parquet", chosen), ("heldout.parquet", held_out)):
        tables = (sources[name].rows(mine) for name, mine in keep.items())
        write_batches(stage.out / file, chain.from_iterable(tables), INSTRUCTIONS)
    rows = pa.concat_tables(chosen.values())
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
        **({"review": review} if review else {}),
    )
    for name, table in chosen.items():
        log.info("%s: %d rows", name, len(table))
    if 0 < len(rows) < FEW_ROWS:
        log.warning(
            "only %d rows to train on: they teach hardly anything. "
            "The reports of validate and verify say which rows went and why",
            len(rows),
        )


def _read_sources(stage: Stage) -> tuple[dict[str, Source], Counter[str]]:
    """Return the sources by name, and the rows left out by reason.

    Rows of two sources never share an id: where an earlier source has one of a source's ids, all
    ids of the later one get its name as a prefix (``labelled:17``).
    """
    sources: dict[str, Source] = {}
    dropped: Counter[str] = Counter()
    for name in stage.params.supervise.mix.names:
        source, left_out = SOURCES[name](stage)
        if not len(source.keys) and name != "none":
            raise PipelineError(
                f"supervise.source {name} gives no row to train on "
                f"({f'dropped: {format_reasons(left_out)}' if left_out else 'its input is empty'})"
            )
        ids = source.keys["row_id"]
        while any(_share_one(ids, other.keys["row_id"]) for other in sources.values()):
            ids = pc.binary_join_element_wise(name, ids, ":")
        keys = source.keys.set_column(KEYS.get_field_index("row_id"), "row_id", ids)
        sources[name] = Source(source.read, keys)
        dropped += left_out
    return sources, dropped


def _share_one(ids: pa.ChunkedArray, others: pa.ChunkedArray) -> bool:
    return bool(pc.any(pc.is_in(ids, others.combine_chunks())).as_py())


def _choose_rows(
    sources: dict[str, pa.Table], params: Supervise, dropped: Counter[str]
) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """Return source -> the keys of the rows to train on, and how many the sources with a share
    should give.

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
            mine = pool.filter(pc.equal(pool[_SOURCE], name)).select(KEYS.names)
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
) -> tuple[dict[str, pa.Table], dict[str, pa.Table]]:
    """Return source -> the keys of the rows to train on, and of those that evaluate asks: the
    instructions on some passages, a seeded choice. No row on these passages is trained on.

    Raises :class:`PipelineError` where nothing can be held out: such a run would have nothing to
    measure.
    """
    asked = {name: keys.filter(keys["asked"]) for name, keys in chosen.items()}
    ids = pa.concat_tables(keys.select(["passage_id"]) for keys in asked.values())
    counted = pa.Table.from_struct_array(pc.value_counts(ids["passage_id"]))
    if len(counted) < 2:
        raise PipelineError(
            f"evaluate.items is {NOTHING}, and supervise.source {params.source} gives too "
            "few instructions to hold some out: name labelled items, or generate from more passages"
        )
    most = min(_HELD_OUT_MOST, max(1, int(_HELD_OUT_SHARE * len(ids))))
    passages: list[str] = []
    held = 0
    places = enumerate(column_values(counted.to_batches(GROUP), "values"))
    # Each passage has a row at least, and one passage stays.
    first = heapq.nsmallest(
        min(most, len(counted) - 1),
        places,
        key=lambda each: (row_seed(params.seed, HELD_OUT, each[1]), each[1]),
    )
    for place, name in first:
        if held < most:
            passages.append(name)
            held += counted["counts"][place].as_py()
    names = pa.array(passages, pa.string())
    kept = {
        source: keys.filter(pc.invert(pc.is_in(keys["passage_id"], names)))
        for source, keys in chosen.items()
    }
    held_out = {
        source: keys.filter(pc.is_in(keys["passage_id"], names)) for source, keys in asked.items()
    }
    return kept, held_out


def _count(tables: dict[str, pa.Table]) -> int:
    return sum(map(len, tables.values()))


def _draw(table: pa.Table, count: int, seed: int) -> pa.Table:
    """Return a seeded choice of ``count`` rows, or all where there are fewer."""
    if not count:
        return table.slice(0, 0)
    ids = column_values(table.to_batches(GROUP), "row_id")
    return table.take(choose(ids, count, seed, "supervise"))


def _count_types(keys: pa.Table) -> dict[str, int]:
    counts = keys["task_type"].value_counts().to_pylist()
    return dict(sorted((count["values"], count["counts"]) for count in counts))


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "supervise",
        supervise,
        ("passages", "instructions"),
        argv,
        settings={
            "rows": "supervise.rows",
            "items": "evaluate.items",
            "reviews": "verify.reviews",
        },
    )
