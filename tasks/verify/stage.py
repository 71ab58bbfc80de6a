"""verify: a reader answers instructions without seeing their responses; rows that it disagrees with
are not kept.

validate looks at a row's form, verify at whether its answer is right. It comes behind validate, so
that no model reads a row whose form is wrong. It reads only the rows that
``verify.confident_share`` lets through, those that the generator itself was surest of; the others
are not kept. ``verify.reader: none`` passes all rows on, unjudged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.parquet import TableWriter, passage_texts
from tasks.core.quality import Reviewed
from tasks.core.rows import INSTRUCTIONS, UNVERIFIED, VERIFIED
from tasks.core.sections.verify import CROSS_FIT, Verify
from tasks.core.stage import Stage, run_stage
from tasks.lm.preflight import check_run
from tasks.scoring.reviews import WRONG_BY_REVIEW, Reviews
from tasks.verify.asking import ask, forget_removed
from tasks.verify.cross_fit import fit_readers, forget_readers
from tasks.verify.guard import Test
from tasks.verify.judging import UNSURE, Decision, Prior, Word, decide
from tasks.verify.reader import Reader
from tasks.verify.report import Tally, write_report
from tasks.verify.rivals import find_beaten
from tasks.verify.rows import Row, Rows, is_read
from tasks.verify.testing import check_reader, choose_tests, weigh

log = logging.getLogger(__name__)


def verify(stage: Stage) -> None:
    """Write ``instructions.parquet`` (rows.VERIFIED), ``quarantine.parquet`` (rows.UNVERIFIED),
    ``report.html``, ``metrics.json`` and ``summary.json``.
    """
    params = stage.params.verify
    rows = Rows.of(stage)
    reviews = Reviews.read(stage.inputs.get("reviews"), params.seed)
    if not is_read(stage) or params.reader != CROSS_FIT:
        forget_readers(stage, passage_texts(stage.path("passages")))
    if not is_read(stage):
        forget_removed(stage)
        alone = ((row, _decide(row, None, params, reviews)) for row in rows)
        return _write(stage, alone, reviews, {}, [])
    readers = _readers(stage, rows)
    answered = ask(stage, readers, choose_tests(stage, rows), rows)
    tested = check_reader(answered, params.seed)
    judged = {kind for kind, test in tested.items() if test.passed}
    prior = Prior(answered)

    def decide_all() -> Iterator[tuple[Row, Decision]]:
        for row, answer in answered:
            is_judged = answer is not None and row.values["task_type"] in judged
            word = weigh(row, answer, prior) if is_judged else None
            yield row, _decide(row, word, params, reviews)

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
