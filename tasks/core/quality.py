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

    ``well_formed`` is of the predictions, ``agreed`` of the well-formed rows, ``right`` of the kept
    rows that a person read (``reviewed``), with its 95 % interval.
    """

    well_formed: float | None
    agreed: float | None
    right: float | None
    low: float | None
    high: float | None
    reviewed: int

    @classmethod
    def read(cls, validated: Path, verified: Path) -> RowQuality:
        """Read the outputs of validate and verify."""
        form = read_json(validated / "metrics.json")["yield"]
        return cls.of(form, read_json(verified / "summary.json"))

    @classmethod
    def of(cls, well_formed: float | None, word: dict[str, Any]) -> RowQuality:
        """Take the share of well-formed predictions and verify's summary."""
        names = ("agreed", "right", "right_low", "right_high", "reviewed")
        return cls(well_formed, *(word[name] for name in names))

    def metrics(self) -> dict[str, float]:
        """Return the three shares by name, those that there are."""
        found = {
            "rows_well_formed": self.well_formed,
            "rows_agreed": self.agreed,
            "rows_right": self.right,
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
        """``44 % (34 to 55) of 85 read``, or ``not reviewed``."""
        if self.right is None or self.low is None or self.high is None:
            return "not reviewed"
        right, low, high = (100 * share for share in (self.right, self.low, self.high))
        return f"{right:.0f} % ({low:.0f} to {high:.0f}) of {self.reviewed} read"
