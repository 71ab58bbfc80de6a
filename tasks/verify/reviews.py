"""People's verdicts on rows: how many of the kept rows are right, as far as somebody read them."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.row_reader import read_rows
from tasks.core.section import Section
from tasks.scoring.intervals import wilson

log = logging.getLogger(__name__)


class Verdict(Section):
    """A line of a reviews file. ``key`` is that of the row as it was read (:func:`review_key`)."""

    row_id: str
    key: str
    task_type: str
    verdict: Literal["right", "wrong", "unclear"]
    reason: str
    reviewer: str = ""


def review_key(instruction: str, response: str) -> str:
    """Return the key of a verdict: that of the text, whatever id it has in a later run."""
    return fingerprint("review", instruction, response)[:16]


@dataclass
class Reviews:
    """Verdicts by key, and those of the rows counted so far."""

    verdicts: dict[str, Verdict]
    counts: Counter[str] = field(default_factory=Counter)

    @classmethod
    def read(cls, path: Path | None) -> Reviews:
        """Read a JSON Lines file of :class:`Verdict`; a path of another kind has none.

        A line that is no verdict, or a second verdict on a row, is an error that names it.
        """
        if path is None or path.suffix != ".jsonl":
            return cls({})
        found: dict[str, Verdict] = {}
        for number, row in enumerate(read_rows(path), start=1):
            try:
                verdict = Verdict.model_validate(row)
            except ValidationError as error:
                first = error.errors()[0]
                raise PipelineError(
                    f"verify.reviews: {path} row {number}: {'.'.join(map(str, first['loc']))}: "
                    f"{first['msg']}"
                ) from error
            if verdict.key in found:
                raise PipelineError(
                    f"verify.reviews: {path} row {number}: row {verdict.row_id} has a verdict "
                    "already"
                )
            found[verdict.key] = verdict
        return cls(found)

    def count(self, row: dict[str, Any]) -> str:
        """Count and return the verdict on a row (rows.INSTRUCTIONS) that the reader keeps; empty
        where there is none.
        """
        found = self.verdicts.get(review_key(row["instruction"], row["response"]))
        if found is None:
            return ""
        self.counts[found.verdict] += 1
        return found.verdict

    def figures(self) -> dict[str, float | int | None]:
        """Return ``right`` (the share 0-1 of the reviewed rows that are right, unclear ones are
        not), its 95 % interval and how many were ``reviewed``; None where no row was reviewed.

        Rows that are excluded as wrong count too: the share is about what the reader keeps.
        """
        reviewed = self.counts.total()
        unknown = len(self.verdicts) - reviewed
        if unknown:
            log.info("%d of %d reviewed rows are not kept in this run", unknown, len(self.verdicts))
        if not reviewed:
            return {"right": None, "right_low": None, "right_high": None, "reviewed": 0}
        low, high = wilson(self.counts["right"], reviewed)
        return {
            "right": round(self.counts["right"] / reviewed, 4),
            "right_low": round(low, 4),
            "right_high": round(high, 4),
            "reviewed": reviewed,
        }
