"""Three numbers about rows, never merged into one: well-formed, agreed by a reader, right by
review.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.core.files import read_if_there, read_json


@dataclass(frozen=True)
class Reviewed:
    """What people found: ``right`` is the share (0-1) of the rows that they read (``read``) among
    those that are kept (``of``), None where they read none. Its 95 % interval is None where the
    rows read are no sample of the kept ones.
    """

    right: float | None
    low: float | None
    high: float | None
    read: int
    of: int

    @classmethod
    def parse(cls, told: Mapping[str, Any]) -> Reviewed:
        """Take a stage's figures (:meth:`tasks.scoring.reviews.Reviews.figures`)."""
        names = ("right", "right_low", "right_high", "reviewed", "reviewed_of")
        return cls(*(told[name] for name in names))

    def __str__(self) -> str:
        """``44 % (34 to 55; 85 of 85 kept rows read)``, or without the interval why there is none;
        or ``not reviewed``.
        """
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
    that no generator wrote (None where they read none), and ``by_type`` the same by task type.
    """

    well_formed: float | None
    agreed: float | None
    generated: Reviewed
    made: Reviewed | None = None
    by_type: dict[str, Reviewed] = field(default_factory=dict)

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
        quality = cls(well_formed, word["agreed"], Reviewed.parse(word))
        if not made or not made["reviewed"]:
            return quality
        kinds = made["by_task_type"].items()
        by_type = {kind: Reviewed.parse(told) for kind, told in kinds if told["reviewed"]}
        return replace(quality, made=Reviewed.parse(made), by_type=by_type)

    def metrics(self) -> dict[str, float]:
        """Return the shares by name, and the interval of the last one; those that there are.

        ``rows_right`` is about the rows that the reader keeps, or where there are none about those
        that no generator wrote. Where there are both, those have ``rows_right_made``.
        """
        right = self.made if self.made and not self.generated.of else self.generated
        found = {
            "rows_well_formed": self.well_formed,
            "rows_agreed": self.agreed,
            "rows_right": right.right,
            "rows_right_low": right.low,
            "rows_right_high": right.high,
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
            return told + self.reviewed_as
        made = str(self.made)
        if len(self.by_type) > 1:
            made += f": {', '.join(f'{kind} {each}' for kind, each in self.by_type.items())}"
        if not self.generated.of:
            return told + made
        return f"{told}{self.reviewed_as}; of the rows that no generator wrote {made}"

    @property
    def reviewed_as(self) -> str:
        """What people found among the rows that the reader keeps, in words."""
        return str(self.generated)
