"""Is the reader any good? A task type is judged only where it beats chance by an interval.

Rows labelled by people are the best test (``verify.tests``). Without them a type is tested on
claims and questions that rules make from the corpus, with known answers. Where the rules make none,
the rows to be judged are the test: the reader must agree with a row's own response more often than
with that of another row.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
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
from tasks.lm.prompts import fill
from tasks.scoring.intervals import wilson
from tasks.verify.judging import agree

log = logging.getLogger(__name__)
PEOPLE, RULES, OWN_ROWS = "rows of people", "rows made by rules", "the rows themselves"
_ROWS = pa.schema(
    [(name, pa.string()) for name in ("row_id", "task_type", "context", "instruction", "response")]
)
_KEYS = pa.schema([_ROWS.field(name) for name in ("row_id", "task_type")])
_LEAST = 20


@dataclass(frozen=True)
class Test:
    """A task type's test: right answers of the reader, and what chance would give (0-1)."""

    source: str
    rows: int
    right: int
    chance: float

    @property
    def low(self) -> float:
        """The lower end of the 95 % interval of the share that is right (0-1)."""
        return wilson(self.right, self.rows)[0]

    @property
    def enough(self) -> bool:
        """Whether there are enough rows to tell anything."""
        return self.rows >= _LEAST

    @property
    def passed(self) -> bool:
        """Whether the reader beats chance by the interval."""
        return self.enough and self.low > self.chance

    def figures(self) -> dict[str, Any]:
        """Return the test as JSON values."""
        return asdict(self) | {
            "chance": round(self.chance, 4),
            "low": round(self.low, 4),
            "passed": self.passed,
        }


def read_tests(
    path: Path | None, kinds: Iterable[str], most: int, seed: int
) -> list[dict[str, Any]]:
    """Return rows labelled by people, of these task types, at most ``most`` of each, chosen by the
    seed.

    The instruction contains the passage. Without a file there are no rows.
    """
    if path is None or path.suffix != ".parquet":
        return []
    need_columns(path, _ROWS.names, "verify.tests", "it takes a remix's heldout.parquet")
    keys = concat(Batches(path, _KEYS), _KEYS)
    chosen: list[dict[str, Any]] = []
    for kind in kinds:
        of_kind = np.flatnonzero(pc.fill_null(pc.equal(keys["task_type"], kind), False))
        ids = column_values(keys.take(of_kind).to_batches(GROUP), "row_id")
        places = of_kind[choose(ids, most, seed, "test").to_numpy()]
        chosen += rows_at(Batches(path, _ROWS), places)
    return [
        row
        | {
            "instruction": fill(row["instruction"], row["context"]),
            "response": fill(row["response"], row["context"]).strip(),
        }
        for row in chosen
    ]


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


def check_labels(source: str, golds: Sequence[str], answers: Sequence[str]) -> Test:
    """Return the test of a label type; chance is always giving the commonest label."""
    golds, answers = [gold.lower() for gold in golds], [answer.lower() for answer in answers]
    right = sum(gold == answer for gold, answer in zip(golds, answers, strict=True))
    return Test(source, len(golds), right, max(Counter(golds).values()) / len(golds))


def check_answers(source: str, golds: Any, answers: Any) -> Test:
    """Return the test of answers, lists or Arrow columns; chance is agreeing with the gold answer
    of another row.
    """
    rows = pa.table({"gold": golds, "answer": answers})
    half = len(rows) // 2  # the next row is often of the same passage
    others = pa.concat_tables([rows.slice(half), rows.slice(0, half)])
    right, chance = (
        sum(map(agree, _texts(rows, "answer"), _texts(against, "gold")))
        for against in (rows, others)
    )
    return Test(source, len(rows), right, chance / len(rows))


def _texts(rows: pa.Table, name: str) -> Iterator[str]:
    return column_values(rows.to_batches(GROUP), name)
