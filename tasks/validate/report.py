"""The report page of validation; its template is templates/report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.page import Page, Tile, percent, write_page
from tasks.core.task_types import CLASSIFICATION, TASK_TYPES
from tasks.lm.prompts import PLACEHOLDER
from tasks.validate.suites import Suites
from tasks.validate.verdicts import Verdicts

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
#: Rows that are shown of a task type's kept rows, and of each expectation's failing ones.
_KEPT_SHOWN, _FAILING_SHOWN = 4, 3


class Samples:
    """The few rows that the report shows, spread evenly over the file and picked before its second
    pass.
    """

    def __init__(self, verdicts: Verdicts) -> None:
        """Choose the rows: some kept ones a type, some failing ones a type and expectation."""
        self._verdicts = verdicts
        self._rows: dict[int, dict[str, Any]] = {}
        self._kept: dict[str, list[int]] = {}
        self._failing: dict[tuple[str, str], list[int]] = {}
        kept = verdicts.kept()
        for name in verdicts.types.names:
            is_type = verdicts.of_type(name)
            self._kept[name] = _spread(is_type & kept, _KEPT_SHOWN)
            for expectation in verdicts.expectations:
                self._failing[name, expectation] = _spread(
                    is_type & verdicts.failing(expectation), _FAILING_SHOWN
                )
            self._failing[name, "parsed"] = _spread(
                is_type & (verdicts.unparsed >= 0), _FAILING_SHOWN
            )
        self._picked = np.unique(
            [row for rows in (*self._kept.values(), *self._failing.values()) for row in rows]
        ).astype(np.int64)

    def take(self, batch: pa.Table, start: int) -> None:
        """Keep the picked rows of a batch of predictions that begins at position ``start``."""
        first, last = np.searchsorted(self._picked, [start, start + len(batch)])
        for row in self._picked[first:last].tolist():
            fields = batch.slice(row - start, 1).to_pylist()[0]
            text = fields["instruction"] if fields["parsed"] else fields["prediction"]
            self._rows[row] = {
                **fields,
                "pieces": text.split(PLACEHOLDER),
                "reasons": self._verdicts.reasons(row),
            }

    def kept(self, task_type: str) -> list[dict[str, Any]]:
        """Return sample rows of a task type that were kept."""
        return [self._rows[row] for row in self._kept[task_type]]

    def failing(self, task_type: str, expectation: str) -> list[dict[str, Any]]:
        """Return sample rows of a task type that failed an expectation (``parsed``: unparsable)."""
        return [self._rows[row] for row in self._failing[task_type, expectation]]


def write_report(
    path: Path,
    verdicts: Verdicts,
    suites: Suites,
    samples: Samples,
    balanced: dict[str, bool],
    share: float,
    floor: float,
    links: Sequence[tuple[str, str]],
) -> None:
    """Write the report.

    ``balanced`` is classification type -> whether its labels are balanced, ``share`` and ``floor``
    are yields in 0-1, ``links`` are (name, relative address) of other pages.
    """
    dropped = verdicts.count_reasons(first_only=True)
    write_page(
        path,
        _TEMPLATE,
        _head(verdicts, share, floor, links),
        predictions=len(verdicts),
        dropped=sorted(dropped.items(), key=lambda item: (-item[1], item[0])),
        sections=[
            _section(name, verdicts, suites, samples, balanced) for name in verdicts.types.names
        ],
    )


def _head(verdicts: Verdicts, share: float, floor: float, links: Sequence[tuple[str, str]]) -> Page:
    # Not green above the floor: a row of the right form may be wrong.
    kept, tone = int(verdicts.kept().sum()), "" if share >= floor else "bad"
    tiles = (
        Tile("Predictions", f"{len(verdicts):,}"),
        Tile("Kept", f"{kept:,}"),
        Tile("Not kept", f"{len(verdicts) - kept:,}"),
        Tile("Yield", percent(share), f"of the right form; floor {percent(floor)}", tone),
    )
    lead = "What the generator wrote, what is kept to train on, and why the rest is not."
    return Page("Validation", lead, tiles, links=links)


def _section(
    name: str, verdicts: Verdicts, suites: Suites, samples: Samples, balanced: dict[str, bool]
) -> dict[str, Any]:
    is_type = verdicts.of_type(name)
    predictions, parsed = int(is_type.sum()), int((is_type & (verdicts.unparsed < 0)).sum())
    says = "the prediction splits into an instruction and a response"
    rows = [
        _line("parsed", says, predictions, predictions - parsed, samples.failing(name, "parsed"))
    ]
    for check in suites.of(name):
        failed = int((is_type & verdicts.failing(check.name)).sum())
        rows.append(
            _line(check.name, check.says, parsed, failed, samples.failing(name, check.name))
        )
    counts = verdicts.count_labels(name) if name in CLASSIFICATION else {}
    return {
        "name": name,
        "title": TASK_TYPES[name].full_name,
        "predictions": predictions,
        "kept": int((is_type & verdicts.kept()).sum()),
        "expectations": rows,
        "labels": [
            {"name": label, "rows": count, "share": count / sum(counts.values())}
            for label, count in counts.items()
        ],
        "balanced": balanced.get(name),
        "samples": samples.kept(name),
    }


def _line(
    name: str, says: str, rows: int, failed: int, samples: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "name": name,
        "says": says,
        "rows": rows,
        "failed": failed,
        "rate": (rows - failed) / rows if rows else 1.0,
        "samples": samples,
    }


def _spread(chosen: np.ndarray, count: int) -> list[int]:
    """Return at most ``count`` positions, spread evenly over the chosen ones."""
    rows = np.flatnonzero(chosen)
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)].tolist()
