"""Counts of what verify kept, and its report page; the template is templates/report.html."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from tasks.core.page import Page, Tile, percent, stage_links, write_page
from tasks.core.quality import Reviewed
from tasks.core.sections.verify import NO_READER, Verify
from tasks.core.task_types import TASK_TYPES
from tasks.verify.judging import ADOPTED, DISAGREES, REPAIRED, WRITTEN, Decision
from tasks.verify.rows import Row

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
#: Sample rows shown for each task type and outcome.
_SHOWN = 5
KEPT = "kept"


class Tally:
    """Rows counted so far, and the first few of every task type and outcome."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.types: dict[str, Counter[str]] = defaultdict(Counter)
        self.samples: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)

    def count(self, row: Row, decision: Decision, values: dict[str, Any]) -> None:
        """Count a row; ``values`` are its rows.VERIFIED."""
        counts = self.types[values["task_type"]]
        outcome = decision.reasons[0] if decision.reasons else KEPT
        counts["rows"] += 1
        counts["from_quarantine"] += row.repairing
        counts[outcome] += 1
        counts["judged"] += decision.agreement is not None and not row.repairing
        counts["agreed"] += (
            decision.agreement is not None
            and not row.repairing
            and decision.origin == WRITTEN
            and DISAGREES not in decision.reasons
        )
        if outcome == KEPT:
            counts[decision.origin] += 1
        self.reasons.update(decision.reasons[:1])
        samples = self.samples[values["task_type"], outcome]
        if len(samples) < _SHOWN:
            asked = values["instruction"].replace(values["context"], "\x1f").split("\x1f")
            samples.append(values | {"pieces": asked, "written": row.values["response"]})

    @property
    def rows(self) -> int:
        """Rows counted."""
        return sum(counts["rows"] for counts in self.types.values())

    @property
    def kept(self) -> int:
        """Rows that are kept."""
        return sum(counts[KEPT] for counts in self.types.values())

    @property
    def agreed(self) -> float | None:
        """The share (0-1) of the rows that the reader was asked, of judged types, whose response it
        confirms; None where no type is judged.
        """
        judged = sum(counts["judged"] for counts in self.types.values())
        agreed = sum(counts["agreed"] for counts in self.types.values())
        return round(agreed / judged, 4) if judged else None

    def by_task_type(self) -> dict[str, dict[str, int]]:
        """Return task type -> its counts."""
        names = ("rows", "from_quarantine", "judged", "agreed", KEPT, ADOPTED, REPAIRED)
        return {
            kind: {name: self.types[kind][name] for name in names}
            for kind in TASK_TYPES
            if kind in self.types
        }


def write_report(
    folder: Path,
    params: Verify,
    tally: Tally,
    tested: dict[str, dict[str, Any]],
    reviewed: Reviewed,
) -> None:
    """Write the page into ``folder``; ``tested`` is task type -> the reader's test, ``reviewed``
    what people found.
    """
    counts = tally.by_task_type()
    repaired = sum(each[REPAIRED] for each in counts.values())
    adopted = sum(each[ADOPTED] for each in counts.values())
    share, _, bounds = str(reviewed).partition(":")[0].partition(" (")
    tiles = [
        Tile("Well-formed", f"{tally.rows - sum(c['from_quarantine'] for c in counts.values()):,}"),
        Tile("Agreed by the reader", percent(tally.agreed) or "not judged"),
        Tile("Right by review", share, bounds.replace(")", "", 1)),
        Tile("Kept", f"{tally.kept:,}"),
        Tile("Reader's answer taken", f"{repaired + adopted:,}", f"{repaired:,} from quarantine"),
    ]
    lead = (
        "A reader answers the instructions that the generator was surest of, without their "
        "responses. That it agrees does not prove a row right: read some, and count."
    )
    reader = NO_READER if params.reader == NO_READER else params.address or params.reader
    write_page(
        folder / "report.html",
        _TEMPLATE,
        Page(
            "Verification",
            lead,
            tiles,
            facts=(("reader", reader),),
            links=stage_links("verify"),
        ),
        dropped=sorted(tally.reasons.items(), key=lambda item: (-item[1], item[0])),
        rows=tally.rows,
        sections=[
            {
                "name": kind,
                "title": TASK_TYPES[kind].full_name,
                "counts": each,
                "test": tested.get(kind),
                "review": str(reviewed.by_type.get(kind, "")),
                "samples": [
                    (outcome, samples)
                    for (of_kind, outcome), samples in sorted(tally.samples.items())
                    if of_kind == kind
                ],
            }
            for kind, each in counts.items()
        ],
    )
