"""verify: a reader answers instructions without seeing their responses; rows that it disagrees with
are not kept.

validate looks at a row's form, verify at whether its answer is right. It comes behind validate, so
that no model reads a row whose form is wrong. It reads only the rows that
``verify.confident_share`` lets through, those that the generator itself was surest of; the others
are not kept. ``verify.reader: none`` passes all rows on, unjudged.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, write_json
from tasks.core.parquet import Batches, TableWriter, gather
from tasks.core.quality import Reviewed
from tasks.core.rows import INSTRUCTIONS, PASSAGES, UNVERIFIED, VERIFIED
from tasks.core.sections.verify import CROSS_FIT, Verify
from tasks.core.stage import Stage, run_stage
from tasks.core.task_types import TASK_TYPES
from tasks.lm.preflight import check_run
from tasks.scoring.reviews import WRONG_BY_REVIEW, Reviews
from tasks.verify.asking import Answered, Pair, ask, forget_removed, read_texts
from tasks.verify.cross_fit import fit_readers, forget_readers
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
    UNSURE,
    Decision,
    Prior,
    Word,
    are_same,
    decide,
    weigh_answers,
    weigh_labels,
    weigh_told_labels,
)
from tasks.verify.reader import Reader
from tasks.verify.report import Tally, write_report
from tasks.verify.rivals import find_beaten
from tasks.verify.rows import Row, Rows, is_read

log = logging.getLogger(__name__)
#: What the rows themselves are tested by where nothing else tests the reader; a passage by its
#: digest.
_OWN = pa.schema([(name, pa.string()) for name in ("task_type", "gold", "answer", "passage")])


def verify(stage: Stage) -> None:
    """Write ``instructions.parquet`` (rows.VERIFIED), ``quarantine.parquet`` (rows.UNVERIFIED),
    ``report.html``, ``metrics.json`` and ``summary.json``.
    """
    params = stage.params.verify
    rows = Rows.of(stage)
    reviews = Reviews.read(stage.inputs.get("reviews"), params.seed)
    if not is_read(stage) or params.reader != CROSS_FIT:
        forget_readers(stage, read_texts(stage))
    if not is_read(stage):
        forget_removed(stage)
        alone = ((row, _decide(row, None, params, reviews)) for row in rows)
        return _write(stage, alone, reviews, {}, [])
    readers = _readers(stage, rows)
    answered = ask(stage, readers, _read_tests(stage, rows), rows)
    tested = _test_reader(answered, params.seed)
    _warn(tested)
    judged = {kind for kind, test in tested.items() if test.passed}
    prior = Prior(answered)

    def decide_all() -> Iterator[tuple[Row, Decision]]:
        for row, answer in answered:
            yield row, _decide(row, _weigh(row, answer, prior, judged), params, reviews)

    # Rows are decided twice: a million of them with their texts would fill the memory.
    decided = ((row.values, decision) for row, decision in decide_all())
    beaten = find_beaten(decided, params.keep_per_passage)
    _write(stage, _add_reasons(decide_all(), beaten), reviews, tested, readers)


def _readers(stage: Stage, rows: Rows) -> Sequence[Reader]:
    """Return the reader; with ``verify.reader: cross-fit`` one for each half of the rows."""
    if stage.params.verify.reader == CROSS_FIT:
        return fit_readers(
            stage,
            lambda: (row.values for row in rows if not row.repairing and not row.unsure),
        )
    return [Reader.of(stage.params.verify)]


def _add_reasons(
    decided: Iterable[tuple[Row, Decision]], reasons: Iterable[str]
) -> Iterator[tuple[Row, Decision]]:
    for (row, decision), reason in zip(decided, reasons, strict=True):
        decision.reasons += [reason] if reason else []
        yield row, decision


def _decide(row: Row, word: Word | None, params: Verify, reviews: Reviews) -> Decision:
    if row.unsure:
        return Decision(row.values["response"], confidence=row.confidence, reasons=[UNSURE])
    decision = decide(row.values, word, params, row.repairing, row.nearly)
    decision.confidence = row.confidence
    if params.exclude_wrong:
        asked = row.values["instruction"]
        decision.excluded = reviews.verdict(asked, decision.response) == "wrong"
    return decision


def _read_tests(stage: Stage, rows: Rows) -> list[Row]:
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


def _test_reader(answered: Answered, seed: int) -> dict[str, Test]:
    """Return task type -> the reader's test: on the test rows, or where there are too few of them
    on the rows themselves.
    """
    tests = {kind: _test(pairs, seed) for kind, pairs in _by_type(answered.tests()).items()}
    tested = {kind for kind, test in tests.items() if test.enough}
    own = gather((_own(*pair) for pair in answered if _tests_itself(pair[0], tested)), _OWN)
    for kind in pc.unique(own["task_type"]).to_pylist():
        rows = own.filter(pc.equal(own["task_type"], kind))
        same = operator.eq if TASK_TYPES[kind].read_as == "labels" else are_same
        tests[kind] = check_answers(
            OWN_ROWS, rows["gold"], rows["answer"], rows["passage"], seed, same
        )
    return dict(sorted(tests.items()))


def _tests_itself(row: Row, tested: set[str]) -> bool:
    kind = row.values["task_type"]
    return row.kind == "answers" and not row.repairing and kind not in tested


def _own(row: Row, answer: Any) -> tuple[str, str, str, str]:
    gold, told, passage = _said(row, answer, Prior([]))
    return row.values["task_type"], gold, told, fingerprint(passage)


def _by_type(pairs: Iterable[Pair]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair[0].values["task_type"], []).append(pair)
    return dict(sorted(found.items()))


def _test(pairs: list[Pair], seed: int) -> Test:
    """Return the test on rows of a task type whose answers are known."""
    prior, first = Prior(pairs), pairs[0][0]
    said = (_said(row, answer, prior) for row, answer in pairs)
    golds, answers, passages = map(list, zip(*said, strict=True))
    if first.choices:
        offered = [row.choices for row, _ in pairs]
        return check_labels(first.source, golds, answers, offered, passages)
    return check_answers(first.source, golds, answers, passages, seed)


def _said(row: Row, answer: Any, prior: Prior) -> tuple[str, str, str]:
    """Return a row's response, the reader's answer, and the passage."""
    gold = row.label if row.choices else row.values["response"]
    return gold, _word(row, answer, prior).answer.lower(), row.values["context"]


def _weigh(
    row: Row, answer: dict[str, object] | None, prior: Prior, judged: set[str]
) -> Word | None:
    known = answer is not None and row.values["task_type"] in judged
    return _word(row, answer, prior) if known else None


def _word(row: Row, answer: Any, prior: Prior) -> Word:
    if row.kind == "labels":
        return weigh_labels(row.label, row.choices, answer["scores"], prior.of(row.choices))
    if row.choices:
        return weigh_told_labels(row.label, row.choices, answer["answers"])
    return weigh_answers(row.nearly or row.values["response"], answer["answers"])


def _warn(tested: dict[str, Test]) -> None:
    for kind, test in tested.items():
        if not test.passed:
            log.warning(
                "%s is not judged: the reader is right on %d of %d (%s), by chance %.0f %%",
                kind,
                test.right,
                test.rows,
                test.source,
                100 * test.chance,
            )


def _write(
    stage: Stage,
    decided: Iterable[tuple[Row, Decision]],
    reviews: Reviews,
    tested: dict[str, Test],
    readers: Sequence[Reader],
) -> None:
    tally = Tally()
    with (
        TableWriter(stage.out / "instructions.parquet", VERIFIED) as kept,
        TableWriter(stage.out / "quarantine.parquet", UNVERIFIED) as dropped,
    ):
        for row, decision in decided:
            values = _values(row, decision)
            if not decision.reasons:
                reviews.count(values)
                decision.reasons += [WRONG_BY_REVIEW] if decision.excluded else []
            tally.count(row, decision, values)
            if decision.reasons:
                dropped.add(values | {"reasons": decision.reasons})
            else:
                kept.add(values)
    if tally.rows and not tally.kept:
        raise PipelineError(
            f"none of {tally.rows} rows is kept ({dict(tally.reasons)}): look at "
            "artifacts/validate/instructions.parquet, lower verify.min_agreement, or set "
            "verify.reader to none"
        )
    _summarise(stage, tally, reviews, tested, readers)


def _values(row: Row, decision: Decision) -> dict[str, Any]:
    return {
        **{name: row.values[name] for name in INSTRUCTIONS.names},
        "response": decision.response,
        "agreement": decision.agreement,
        "answer": decision.answer,
        "confidence": decision.confidence,
        "origin": decision.origin,
    }


def _summarise(
    stage: Stage,
    tally: Tally,
    reviews: Reviews,
    tested: dict[str, Test],
    readers: Sequence[Reader],
) -> None:
    """Write report, metrics and summary."""
    figures = {kind: test.figures() for kind, test in tested.items()}
    known, kinds = {"agreed": tally.agreed} | reviews.figures(), reviews.by_task_type()
    write_json(stage.out / "metrics.json", {name: known[name] for name in ("agreed", "right")})
    reviewed = Reviewed.parse(known, kinds)
    write_report(stage.out, stage.params.verify, tally, figures, reviewed)
    stage.summary(
        tally.rows,
        tally.kept,
        dict(tally.reasons),
        **known,
        review_by_task_type=kinds,
        by_task_type=tally.by_task_type(),
        reader=figures,
        readers=[reader.identity for reader in readers],
    )
    log.info(
        "kept %d of %d rows; agreed %s; not kept: %s",
        tally.kept,
        tally.rows,
        "not judged" if tally.agreed is None else f"{tally.agreed:.0%}",
        ", ".join(f"{name} {rows}" for name, rows in tally.reasons.most_common()) or "none",
    )


def main(argv: list[str] | None = None) -> int:
    """Run the stage from its command line and return its exit status."""
    return run_stage(
        "verify",
        verify,
        ["instructions", "quarantine", "passages", "predictions"],
        argv,
        settings={"tests": "verify.tests", "reviews": "verify.reviews"},
        check=check_run,
    )
