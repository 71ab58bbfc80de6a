"""Three numbers about rows, never merged into one: well-formed, agreed by a reader, right by
review.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.files import read_json


@dataclass(frozen=True)
class RowQuality:
    """Shares in 0-1; None where nobody judged.

    ``well_formed`` is of the predictions, ``agreed`` of the rows that the reader was asked,
    ``right`` of the rows that a person read (``reviewed``) among those that the reader keeps
    (``reviewed_of``). Its 95 % interval is None where the rows read are no sample of the kept ones.
    """

    well_formed: float | None
    agreed: float | None
    right: float | None
    low: float | None
    high: float | None
    reviewed: int
    reviewed_of: int

    @classmethod
    def read(cls, validated: Path, verified: Path) -> RowQuality:
        """Read the outputs of validate and verify."""
        form = read_json(validated / "metrics.json")["yield"]
        return cls.of(form, read_json(verified / "summary.json"))

    @classmethod
    def of(cls, well_formed: float | None, word: dict[str, Any]) -> RowQuality:
        """Take the share of well-formed predictions and verify's summary."""
        names = ("agreed", "right", "right_low", "right_high", "reviewed", "reviewed_of")
        return cls(well_formed, *(word[name] for name in names))

    def metrics(self) -> dict[str, float]:
        """Return the three shares by name, and the last one's interval; those that there are."""
        found = {
            "rows_well_formed": self.well_formed,
            "rows_agreed": self.agreed,
            "rows_right": self.right,
            "rows_right_low": self.low,
            "rows_right_high": self.high,
        }
        return {name: value for name, value in found.items() if value is not None}

    def describe(self) -> str:
        """Return the three numbers in words."""
        form = "not judged" if self.well_formed is None else f"{100 * self.well_formed:.0f} %"
        word = "not judged" if self.agreed is None else f"{100 * self.agreed:.0f} %"
        return (
            f"well-formed {form}, agreed by the reader {word}, right by review {self.reviewed_as}"
        )

    @property
    def reviewed_as(self) -> str:
        """``44 % (34 to 55; 85 of 85 kept rows read)``, or without the interval why there is none;
        or ``not reviewed``.
        """
        if self.right is None:
            return "not reviewed"
        share, read = (
            f"{100 * self.right:.0f} %",
            f"{self.reviewed} of {self.reviewed_of} kept rows",
        )
        if self.low is None or self.high is None:
            return f"{share} ({read} read, no sample of them)"
        return f"{share} ({100 * self.low:.0f} to {100 * self.high:.0f}; {read} read)"
