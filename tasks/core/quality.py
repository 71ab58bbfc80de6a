"""Three numbers about rows, never merged into one: well-formed, agreed by a reader, right by
review.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.files import read_if_there, read_json


@dataclass(frozen=True)
class Reviewed:
    """What people found: ``right`` is the share (0-1) of the rows that they read (``read``) among
    those that are kept (``of``), None where they read none. Its 95 % interval is None where the
    rows read are no sample of the kept ones. ``by_type`` is the same of each task type of which
    they read rows.
    """

    right: float | None
    low: float | None
    high: float | None
    read: int
    of: int
    by_type: dict[str, Reviewed] = field(default_factory=dict)

    @classmethod
    def parse(
        cls, told: Mapping[str, Any], kinds: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Reviewed:
        """Take a stage's figures (:meth:`tasks.scoring.reviews.Reviews.figures`), and those of each
        task type.
        """
        names = ("right", "right_low", "right_high", "reviewed", "reviewed_of")
        by_type = {kind: cls.parse(own) for kind, own in (kinds or {}).items() if own["reviewed"]}
        right, low, high, read, of = (told[name] for name in names)
        return cls(right, low, high, read, of, by_type)

    def __str__(self) -> str:
        """``44 % (34 to 55; 85 of 85 kept rows read)``, or without the interval why there is none;
        or ``not reviewed``. Several task types follow, each with the same.
        """
        if len(self.by_type) < 2:
            return self._share()
        kinds = ", ".join(f"{kind} {found}" for kind, found in self.by_type.items())
        return f"{self._share()}: {kinds}"

    def _share(self) -> str:
        if self.right is None:
            return "not reviewed"
        share, read = f"{100 * self.right:.0f} %", f"{self.read} of {self.of} kept rows"
        if self.low is None or self.high is None:
            return f"{share} ({read} read, no sample of them)"
        return f"{share} ({100 * self.low:.0f} to {100 * self.high:.0f}; {read} read)"


@dataclass(frozen=True)
class RowQuality:
    """Shares in 0-1; None where nobody judged.

    ``well_formed`` is of the predictions, ``agreed`` of the rows that the reader was asked.
    ``generated`` is what people found among the rows that the reader keeps, ``made`` among those
    that no generator wrote (None where they read none).
    """

    well_formed: float | None
    agreed: float | None
    generated: Reviewed
    made: Reviewed | None = None

    @classmethod
    def read(cls, validated: Path, verified: Path, supervised: Path | None = None) -> RowQuality:
        """Read the outputs of validate, verify and supervise."""
        form = read_json(validated / "metrics.json")["yield"]
        made = read_if_there(supervised / "summary.json") if supervised else None
        return cls.of(form, read_json(verified / "summary.json"), (made or {}).get("review"))

    @classmethod
    def of(
        cls,
        well_formed: float | None,
        word: Mapping[str, Any],
        made: Mapping[str, Any] | None = None,
    ) -> RowQuality:
        """Take the share of well-formed predictions, verify's summary, and ``review`` of
        supervise's.
        """
        generated = Reviewed.parse(word, word.get("review_by_task_type"))
        read = Reviewed.parse(made, made["by_task_type"]) if made and made["reviewed"] else None
        return cls(well_formed, word["agreed"], generated, read)

    def metrics(self) -> dict[str, float]:
        """Return the shares by name, those that there are.

        ``rows_right`` is about the rows that the reader keeps, or where there are none about those
        that no generator wrote. Where there are both, those have ``rows_right_made``.
        """
        right = self.made if self.made and not self.generated.of else self.generated
        found = {
            "rows_well_formed": self.well_formed,
            "rows_agreed": self.agreed,
            "rows_right": right.right,
        }
        if self.made and right is not self.made:
            found["rows_right_made"] = self.made.right
        return {name: value for name, value in found.items() if value is not None}

    def describe(self) -> str:
        """Return the three numbers in words."""
        form = "not judged" if self.well_formed is None else f"{100 * self.well_formed:.0f} %"
        word = "not judged" if self.agreed is None else f"{100 * self.agreed:.0f} %"
        told = f"well-formed {form}, agreed by the reader {word}, right by review "
        if not self.made:
            return f"{told}{self.generated}"
        if not self.generated.of:
            return f"{told}{self.made}"
        return f"{told}{self.generated}; of the rows that no generator wrote {self.made}"
