"""``make review``: a person reads a sample of the rows that a run trains on, and judges each.

    python -m flows.review.rows [--profile NAME] [--port 4300]

Each verdict goes to the file ``verify.reviews`` at once. The sample depends on the seed and on the
rows' texts alone, so that it is the same at every start. It is drawn from the rows that verify
keeps; where no generator writes any, such as with claims made by rules, from those of supervise.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flows.review.lines_file import LinesFile, find_line, put_line
from flows.review.place import Place, make_parser, say
from flows.review.server import serve
from flows.runs import CODE
from flows.runs.limits import rows_stage
from tasks.core.errors import PipelineError
from tasks.core.log_lines import set_up_logging
from tasks.core.page import Page
from tasks.core.parquet import Batches
from tasks.core.ports import read_port
from tasks.core.rows import INSTRUCTIONS, QUARANTINE, UNVERIFIED, VERIFIED
from tasks.core.stage import one_line_errors
from tasks.core.task_types import TASK_TYPES
from tasks.scoring.draw import SAMPLE, Draw
from tasks.scoring.intervals import wilson
from tasks.scoring.reviews import WRONG_BY_REVIEW, Reviews, Verdict, review_key

PORT, VARIABLE = 4300, "REVIEW_PORT"
_SHOWN = (
    *("row_id", "task_type", "document", "context", "instruction", "response"),
    *("answer", "agreement", "origin"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C; return 2 after an error that the user can fix."""
    parser = make_parser("flows.review.rows", "Judge a sample of a run's training rows.", PORT)
    arguments = parser.parse_args(argv)
    set_up_logging("review")
    with one_line_errors("review"):
        port = read_port(arguments.port, VARIABLE)
        place = Place(CODE, arguments.profile, arguments.settings)
        page = Page(
            "Review", "Is the response right for this instruction and passage?", script=SCRIPT
        )
        with place.run.reading():
            serve(open_desk(place), page, port, VARIABLE)
        return 0
    return 2


SCRIPT = "/scripts/review.js"


def open_desk(place: Place) -> ReviewDesk:
    """Return the desk of a run, and print what it is about."""
    place.need_own("verify", "reviews", "local/mine/reviews.jsonl")
    path = place.user_file("verify", "reviews")
    if path.suffix != ".jsonl":
        raise PipelineError(
            f"verify.reviews is {place.shown(path)}, which is no .jsonl file: name the file that "
            "verdicts go to, such as local/mine/reviews.jsonl"
        )
    file = LinesFile(path, place.main)
    file.create()  # before the run is looked for: a run refuses a setting whose file is missing
    mix = place.params.supervise.mix
    folder = place.artifact(f"{rows_stage(mix)}/instructions.parquet").parent
    kept = kept_rows(folder) if mix.generator else made_rows(folder)
    whose = "the reader keeps" if mix.generator else f"{mix} gave"
    rows, count = draw(kept, SAMPLE, place.params.verify.seed)
    if not rows:
        raise PipelineError(f"{place.shown(folder)} has no rows to judge")
    desk = ReviewDesk(rows, file, os.environ.get("REVIEWER", ""))
    judged = desk.state()["progress"]["total"]["judged"]
    say(
        rows=f"{len(rows)} drawn of {count:,} that {whose}, {place.shown(folder)}",
        verdicts=f"{place.shown(path)}, {judged} of the {len(rows)} judged",
    )
    if place.params.verify.exclude_wrong:
        say(wrong="a row judged wrong is not trained on from the next run (verify.exclude_wrong)")
    return desk


def draw(kept: Iterable[dict[str, Any]], most: int, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Return at most ``most`` of the rows, each task type in its share and at least once, and how
    many rows there are. Memory does not grow with their number.
    """
    drawn = Draw(most, seed)
    for row in kept:
        drawn.add(review_key(row["instruction"], row["response"]), row)
    rows = [{"key": key, **{name: row.get(name) for name in _SHOWN}} for key, row in drawn.rows()]
    return rows, drawn.counts.total()


def kept_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield verify's rows, with those that an earlier review excluded: without them the share of
    right rows would rise by itself.
    """
    for batch in Batches(folder / "instructions.parquet", VERIFIED):
        yield from batch.to_pylist()
    for batch in Batches(folder / "quarantine.parquet", UNVERIFIED):
        yield from (row for row in batch.to_pylist() if row["reasons"] == [WRONG_BY_REVIEW])


def made_rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield supervise's instructions (rows.INSTRUCTIONS), which no reader has answered, with those
    that an earlier review excluded.
    """
    for batch in Batches(folder / "instructions.parquet", INSTRUCTIONS):
        yield from (row for row in batch.to_pylist() if row["instruction"])
    excluded = folder / "quarantine.parquet"
    for batch in Batches(excluded, QUARANTINE) if excluded.is_file() else ():
        yield from batch.to_pylist()


class ReviewDesk:
    """The drawn rows and the verdicts on them.

    A change names what its page saw (``before``) and what shall be (``after``, null: no verdict).
    If another page has judged the row meanwhile, nothing is written and the page says so.
    """

    def __init__(self, rows: list[dict[str, Any]], file: LinesFile, reviewer: str = "") -> None:
        self.rows, self.file, self.reviewer = rows, file, reviewer
        self._rows = {row["key"]: row for row in rows}

    def state(self) -> dict[str, Any]:
        """Return the rows, the verdicts and the progress."""
        titles = {name: kind.full_name for name, kind in TASK_TYPES.items()}
        return {"rows": self.rows, "titles": titles, **self._seen()}

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        """Write, replace or remove a verdict; return the verdicts and the progress."""
        row = self._rows.get(str(change.get("key")))
        if row is None:
            raise PipelineError("this row is not in the sample: load the page again")
        after = change.get("after")
        verdict = None if after is None else self._verdict(row, after)
        with self.file.edit() as lines:
            found = _brief(Reviews.read(self.file.path).verdicts.get(row["key"]))
            if found != change.get("before"):
                word = f"judged {found['verdict']}" if found else "given back"
                raise PipelineError(f"this row was {word} meanwhile, in another page: look again")
            put_line(lines, find_line(lines, lambda line: line["key"] == row["key"]), verdict)
        return self._seen()

    def _verdict(self, row: dict[str, Any], after: Any) -> dict[str, Any]:
        given = after if isinstance(after, dict) else {}
        reason = " ".join(str(given.get("reason", "")).split())
        if given.get("verdict") != "right" and not reason:
            raise PipelineError(f"why is it {given.get('verdict')}? Give a reason")
        values = {name: row[name] for name in ("row_id", "key", "task_type")}
        try:
            verdict = Verdict(
                **values,
                verdict=given.get("verdict"),  # type: ignore[arg-type]
                reason=reason,
                reviewer=self.reviewer,
            )
        except ValidationError as error:
            raise PipelineError("a verdict is right, wrong or unclear") from error
        return verdict.model_dump()

    def _seen(self) -> dict[str, Any]:
        known = Reviews.read(self.file.path).verdicts
        verdicts = {key: known[key] for key in self._rows if key in known}
        return {
            "verdicts": {key: _brief(verdict) for key, verdict in verdicts.items()},
            "progress": self._progress(verdicts),
        }

    def _progress(self, verdicts: dict[str, Verdict]) -> dict[str, Any]:
        """Return counts of all rows and by task type: ``rows``, ``judged``, ``right``, ``wrong``,
        ``unclear``, and the share (0-1) of right ones with its 95 % interval.
        """
        kinds = [kind for kind in TASK_TYPES if any(row["task_type"] == kind for row in self.rows)]
        by_type = {kind: self._count(verdicts, kind) for kind in kinds}
        return {"total": self._count(verdicts, ""), "by_task_type": by_type}

    def _count(self, verdicts: dict[str, Verdict], kind: str) -> dict[str, Any]:
        rows = [row for row in self.rows if not kind or row["task_type"] == kind]
        words = Counter(verdicts[row["key"]].verdict for row in rows if row["key"] in verdicts)
        low, high = wilson(words["right"], words.total())
        return {
            **{"rows": len(rows), "judged": words.total()},
            **{word: words[word] for word in ("right", "wrong", "unclear")},
            "share": words["right"] / words.total() if words else None,
            **{"low": low, "high": high},
        }


def _brief(verdict: Verdict | None) -> dict[str, str] | None:
    """Return what a page knows of a verdict."""
    return verdict.model_dump(include={"verdict", "reason"}) if verdict else None


if __name__ == "__main__":
    sys.exit(main())
