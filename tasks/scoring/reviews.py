"""People's verdicts on rows: how many of the kept rows are right, as far as somebody read them.

verify counts them for a generator's rows, supervise for those that no generator wrote.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.problems import explain
from tasks.core.row_reader import read_rows
from tasks.core.sections.base import Section
from tasks.core.setting_paths import is_nothing
from tasks.scoring.draw import SAMPLE, Draw
from tasks.scoring.intervals import wilson

log = logging.getLogger(__name__)
#: Reason of a row that is kept but for a person who found it wrong (verify.exclude_wrong).
WRONG_BY_REVIEW = "wrong_by_review"


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
    """Verdicts by key, and those of the rows counted so far by task type and verdict. Of these rows
    ``make review`` draws some with the seed (verify.seed).
    """

    verdicts: dict[str, Verdict]
    seed: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = Draw(SAMPLE, self.seed)

    @classmethod
    def read(cls, path: Path | None, seed: int = 0) -> Reviews:
        """Read a JSON Lines file of :class:`Verdict`; ``supervision/none`` has none.

        A line that is no verdict, or a second verdict on a row, is an error that names it.
        """
        if path is None or is_nothing(path):
            return cls({}, seed)
        found: dict[str, Verdict] = {}
        for number, row in enumerate(read_rows(path), start=1):
            try:
                verdict = Verdict.model_validate(row)
            except ValidationError as error:
                raise PipelineError(
                    f"verify.reviews: {path} row {number}: {explain(error, Verdict)}"
                ) from error
            if verdict.key in found:
                raise PipelineError(
                    f"verify.reviews: {path} row {number}: row {verdict.row_id} has a verdict "
                    "already"
                )
            found[verdict.key] = verdict
        return cls(found, seed)

    def verdict(self, instruction: str, response: str) -> str:
        """Return the verdict on a row; empty where there is none."""
        found = self.verdicts.get(review_key(instruction, response))
        return found.verdict if found else ""

    def count(self, row: dict[str, Any]) -> str:
        """Count a row (rows.INSTRUCTIONS) that is kept, and return the verdict on it; empty where
        there is none.
        """
        key = review_key(row["instruction"], row["response"])
        self._draw.add(key, {"task_type": row["task_type"]})
        found = self.verdicts.get(key)
        if found is None:
            return ""
        self.counts[row["task_type"], found.verdict] += 1
        return found.verdict

    def figures(self) -> dict[str, float | int | None]:
        """Return ``right`` (the share 0-1 of the reviewed rows that are right, unclear ones are
        not), its 95 % interval, how many rows were ``reviewed``, and of how many
        (``reviewed_of``); None where no row was reviewed.

        There is an interval where all rows that ``make review`` draws have a verdict, and so where
        all rows have one; without them those that happen to have one are no sample. Once the draw
        is read, other rows that have a verdict do not count, unless all have one. Rows that are
        excluded as wrong count too: the share is about what is kept without a verdict.
        """
        unknown = len(self.verdicts) - self.counts.total()
        if unknown:
            log.info("%d of %d reviewed rows are not kept in this run", unknown, len(self.verdicts))
        return self._figures(tuple(self._draw.counts))

    def by_task_type(self) -> dict[str, dict[str, float | int | None]]:
        """Return task type -> :meth:`figures` of its rows."""
        return {kind: self._figures((kind,)) for kind in sorted(self._draw.counts)}

    def _figures(self, kinds: tuple[str, ...]) -> dict[str, float | int | None]:
        counts, sampled = self._read_rows()
        reviewed = sum(count for (kind, _), count in counts.items() if kind in kinds)
        right = sum(counts[kind, "right"] for kind in kinds)
        found: dict[str, float | int | None] = dict.fromkeys(("right", "right_low", "right_high"))
        if reviewed:
            found["right"] = round(right / reviewed, 4)
        if reviewed and sampled:
            low, high = wilson(right, reviewed)
            found |= {"right_low": round(low, 4), "right_high": round(high, 4)}
        rows = sum(self._draw.counts[kind] for kind in kinds)
        return found | {"reviewed": reviewed, "reviewed_of": rows}

    def _read_rows(self) -> tuple[Counter[tuple[str, str]], bool]:
        """Return the verdicts that count, by task type and verdict, and whether they are those of a
        sample.
        """
        drawn = self._draw.rows()
        sampled = all(key in self.verdicts for key, _ in drawn)
        if sampled and self.counts.total() < self._draw.counts.total():
            read = ((row["task_type"], self.verdicts[key].verdict) for key, row in drawn)
            return Counter(read), sampled
        return self.counts, sampled
