"""Is the reader any good? A task type is judged only where it beats chance by an interval.

Rows labelled by people are the best test (``verify.tests``). Without them a type is tested on
claims and questions that rules make from the corpus, with known answers. Where the rules make none,
the rows to be judged are the test: the reader must agree with a row's own response more often than
with that of another row. Both shares come from the same rows, so it is their difference that has an
interval.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.claims.construct import SHARES, construct
from tasks.claims.passages import passages_of
from tasks.claims.spans import SPANS, construct_spans
from tasks.core.errors import PipelineError
from tasks.core.files import choose
from tasks.core.parquet import (
    GROUP,
    Batches,
    column_values,
    concat,
    need_columns,
    rows_at,
    take_rows,
)
from tasks.core.rows import PASSAGES
from tasks.core.setting_paths import is_nothing
from tasks.lm.prompts import fill
from tasks.scoring.f1 import draw_groups, interval
from tasks.scoring.intervals import wilson
from tasks.verify.judging import are_same

log = logging.getLogger(__name__)
PEOPLE, RULES, OWN_ROWS = "rows of people", "rows made by rules", "the rows themselves"
_ROWS = pa.schema(
    [(name, pa.string()) for name in ("row_id", "task_type", "context", "instruction", "response")]
)
_KEYS = pa.schema([_ROWS.field(name) for name in ("row_id", "task_type")])
_LEAST = 20
#: Fewest passages that are drawn from: all of fewer are on one side by chance in over 2.5 %.
_LEAST_PASSAGES = 6
#: Most passages that are drawn from, a seeded choice: each is drawn in every resample.
_MOST_PASSAGES = 2000
_RESAMPLES = 1000


@dataclass(frozen=True)
class Test:
    """A task type's test: right answers of the reader, and what chance would give (0-1).

    ``margin`` is the lower end of the 95 % interval of the share that is right less chance.
    """

    source: str
    rows: int
    right: int
    chance: float
    margin: float
    passages: int

    @property
    def enough(self) -> bool:
        """Whether there are enough rows to tell anything."""
        return are_enough(self.rows, self.passages)

    @property
    def passed(self) -> bool:
        """Whether the reader beats chance by the interval."""
        return self.enough and self.margin > 0

    def figures(self) -> dict[str, Any]:
        """Return the test as JSON values."""
        return asdict(self) | {
            "chance": round(self.chance, 4),
            "margin": round(self.margin, 4),
            "passed": self.passed,
        }


def are_enough(rows: int, passages: int) -> bool:
    """Tell whether a test of this size (test rows, and their passages) can show anything."""
    return rows >= _LEAST and passages >= _LEAST_PASSAGES


def read_tests(
    path: Path | None, kinds: Iterable[str], most: int, seed: int
) -> list[dict[str, Any]]:
    """Return rows labelled by people, of these task types, at most ``most`` of each, chosen by the
    seed.

    The instruction contains the passage. Without a file there are no rows, and a row that lacks an
    instruction or a response is none.
    """
    if path is None or is_nothing(path):
        return []
    need_columns(path, _ROWS.names, "verify.tests", "it takes a remix's heldout.parquet")
    keys = concat(Batches(path, _KEYS), _KEYS)
    chosen: list[dict[str, Any]] = []
    for kind in kinds:
        of_kind = np.flatnonzero(pc.fill_null(pc.equal(keys["task_type"], kind), False))
        ids = column_values(keys.take(of_kind).to_batches(GROUP), "row_id")
        places = of_kind[choose(ids, most, seed, "test").to_numpy()]
        chosen += rows_at(Batches(path, _ROWS), places)
    for row in chosen:
        row["context"] = row["context"] or ""
        row["instruction"] = fill(row["instruction"] or "", row["context"])
        row["response"] = fill(row["response"] or "", row["context"]).strip()
    return [row for row in chosen if row["instruction"].strip() and row["response"]]


def construct_tests(
    passages: Iterable[pa.Table], kinds: Sequence[str], most: int, seed: int
) -> list[dict[str, Any]]:
    """Return rows with known responses that rules make from the corpus, at most ``most`` of each
    task type that they can make; none where the corpus has no suitable sentence.

    ``passages`` are tables of rows.PASSAGES; they are read twice.
    """
    if not kinds:
        return []
    rows: list[dict[str, Any]] = []
    # A part of a large corpus is enough.
    chosen = choose(column_values(passages, "passage_id"), 4 * most, seed, "test passage")
    premises = passages_of(concat(take_rows(passages, chosen.to_numpy()), PASSAGES))
    for kind in kinds:
        if kind == SPANS:
            table = construct_spans(premises, seed, 1)
        elif kind in SHARES:
            try:
                table = construct(premises, seed, 1, shares={kind: 1.0}).table
            except PipelineError as error:
                log.warning("%s: the reader cannot be tested (%s)", kind, error)
                continue
        else:
            continue
        rows += table.take(choose(table["row_id"].to_pylist(), most, seed, "test")).to_pylist()
    return rows


def check_labels(
    source: str,
    golds: Sequence[str],
    answers: Sequence[str],
    offered: Sequence[tuple[str, ...]],
    passages: Sequence[str],
) -> Test:
    """Return the test of a label type on rows whose labels are known.

    ``offered`` are the labels that each row's instruction names. Chance is to give the commonest
    of them: one wording asks for Yes or No, another for True or False. Where few rows offer the
    same labels that is on the high side, so a doubtful reader does not pass.
    """
    golds, answers = [gold.lower() for gold in golds], [answer.lower() for answer in answers]
    right = sum(gold == answer for gold, answer in zip(golds, answers, strict=True))
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for labels, gold in zip(offered, golds, strict=True):
        counts[labels][gold] += 1
    chance = sum(max(counted.values()) for counted in counts.values()) / len(golds)
    margin = wilson(right, len(golds))[0] - chance
    return Test(source, len(golds), right, chance, margin, len({*passages}))


def check_answers(
    source: str,
    golds: Any,
    answers: Any,
    passages: Any,
    seed: int,
    same: Callable[[str, str], bool] = are_same,
) -> Test:
    """Return the test of answers, lists or Arrow columns of texts; chance is agreeing with the gold
    answer of another row.

    The difference of the two shares has a bootstrap interval that draws ``passages``, one a row.
    """
    rows = pa.table({"gold": golds, "answer": answers, "passage": passages})
    count, half = len(rows), len(rows) // 2  # the next row is often of the same passage
    others = pa.concat_tables([rows.slice(half), rows.slice(0, half)])
    right, chance = (
        np.fromiter(map(same, _texts(rows, "answer"), _texts(against, "gold")), np.int64, count)
        for against in (rows, others)
    )
    gains = rows.select(["passage"]).append_column("gain", pa.array(right - chance))
    by_passage = gains.group_by("passage").aggregate([("gain", "sum"), ("gain", "count")])
    margin = _margin(by_passage.sort_by("passage"), seed)
    return Test(source, count, int(right.sum()), chance.mean().item(), margin, len(by_passage))


def _margin(by_passage: pa.Table, seed: int) -> float:
    """Return the lower end of the 95 % interval of the rows' mean gain."""
    names = _texts(by_passage, "passage")
    drawn = by_passage.take(choose(names, _MOST_PASSAGES, seed, "margin"))
    gains, rows = (drawn[name].to_numpy() for name in ("gain_sum", "gain_count"))
    counts = draw_groups(len(drawn), _RESAMPLES, seed)
    return interval(np.array([count @ gains / (count @ rows) for count in counts]))[0]


def _texts(rows: pa.Table, name: str) -> Iterator[str]:
    return column_values(rows.to_batches(GROUP), name)
