"""The test of the reader: the rows that it is asked for it, and how its answers to them compare."""

from __future__ import annotations

import logging
import operator
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.files import fingerprint
from tasks.core.parquet import Batches, gather
from tasks.core.rows import PASSAGES
from tasks.core.stage import Stage
from tasks.core.task_types import TASK_TYPES
from tasks.verify.asking import Answered, Pair
from tasks.verify.guard import (
    OWN_ROWS,
    PEOPLE,
    RULES,
    Test,
    are_enough,
    check_answers,
    check_labels,
    construct_tests,
    read_tests,
)
from tasks.verify.judging import (
    Prior,
    Word,
    are_same,
    weigh_answers,
    weigh_labels,
    weigh_told_labels,
)
from tasks.verify.rows import Row, Rows

log = logging.getLogger(__name__)
#: What the rows themselves are tested by where nothing else tests the reader; a passage by its
#: digest.
_OWN = pa.schema([(name, pa.string()) for name in ("task_type", "gold", "answer", "passage")])


def choose_tests(stage: Stage, rows: Rows) -> list[Row]:
    """Return rows that test the reader: people's where there are enough of a type, else those made
    by rules, and people's few only where rules make none.
    """
    params = stage.params.verify
    kinds = sorted({row.values["task_type"] for row in rows if row.kind})
    people = read_tests(stage.inputs.get("tests"), kinds, params.test_rows, params.seed)
    of_type = {kind: [row for row in people if row["task_type"] == kind] for kind in kinds}
    few = [
        kind
        for kind, own in of_type.items()
        if not are_enough(len(own), len({row["context"] for row in own}))
    ]
    passages = Batches(stage.path("passages"), PASSAGES)
    made = construct_tests(passages, few, params.test_rows, params.seed)
    by_rules = {row["task_type"] for row in made}
    tests = [replace(rows.row(r), source=PEOPLE) for r in people if r["task_type"] not in by_rules]
    tests += [replace(rows.row(row), source=RULES) for row in made]
    return [row for row in tests if row.kind]


def check_reader(answered: Answered, seed: int) -> dict[str, Test]:
    """Return task type -> the reader's test: on the test rows, or where there are too few of them
    on the rows themselves. A warning names each type that it fails in.
    """
    of_type: dict[str, list[Pair]] = defaultdict(list)
    for pair in answered.tests():
        of_type[pair[0].values["task_type"]].append(pair)
    tests = {kind: check_type(pairs, seed) for kind, pairs in of_type.items()}
    own = gather(_own_rows(answered, {kind for kind, test in tests.items() if test.enough}), _OWN)
    for kind in pc.unique(own["task_type"]).to_pylist():
        rows = own.filter(pc.equal(own["task_type"], kind))
        same = operator.eq if TASK_TYPES[kind].read_as == "labels" else are_same
        tests[kind] = check_answers(
            OWN_ROWS, rows["gold"], rows["answer"], rows["passage"], seed, same
        )
    tests = dict(sorted(tests.items()))
    for kind, test in tests.items():
        if not test.passed:
            log.warning(
                "%s is not judged: the reader is right on %d of %d (%s), by chance %.0f %%",
                kind,
                test.right,
                test.rows,
                test.source,
                100 * test.chance,
            )
    return tests


def check_type(pairs: list[Pair], seed: int) -> Test:
    """Return the test on rows of a task type whose answers are known."""
    prior, first = Prior(pairs), pairs[0][0]
    said = (_said(row, answer, prior) for row, answer in pairs)
    golds, answers, passages = map(list, zip(*said, strict=True))
    if first.choices:
        offered = [row.choices for row, _ in pairs]
        return check_labels(first.source, golds, answers, offered, passages)
    return check_answers(first.source, golds, answers, passages, seed)


def _own_rows(answered: Answered, tested: set[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield :data:`_OWN` of the rows of a type that is not tested; labels that are ranked and rows
    to repair test nothing.
    """
    no_prior = Prior([])
    for row, answer in answered:
        kind = row.values["task_type"]
        if row.kind == "answers" and not row.repairing and kind not in tested:
            gold, told, passage = _said(row, answer, no_prior)
            yield kind, gold, told, fingerprint(passage)


def _said(row: Row, answer: Any, prior: Prior) -> tuple[str, str, str]:
    """Return a row's response, the reader's answer, and the passage."""
    gold = row.label if row.choices else row.values["response"]
    return gold, weigh(row, answer, prior).answer.lower(), row.values["context"]


def weigh(row: Row, answer: Any, prior: Prior) -> Word:
    """Return what the reader's answer (a row of reader.ANSWERED) says of a row."""
    if row.kind == "labels":
        return weigh_labels(row.label, row.choices, answer["scores"], prior.of(row.choices))
    if row.choices:
        return weigh_told_labels(row.label, row.choices, answer["answers"])
    return weigh_answers(row.nearly or row.values["response"], answer["answers"])
