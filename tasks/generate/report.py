"""Counts of the rows that generate writes, and the page of samples."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.files import write_text
from tasks.core.stage import Stage
from tasks.core.task_types import TASK_TYPES


class PredictionTally:
    """Counts of the rows counted so far, and the first of them to show."""

    _SHOWN = 20

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.rows: Counter[str] = Counter()
        self.parsed: Counter[str] = Counter()
        self.tokens = {"prompt_tokens": 0, "output_tokens": 0}
        self.sampled_again = 0
        self.first: list[dict[str, Any]] = []

    def count(self, table: pa.Table) -> pa.Table:
        """Count a shard's rows and return it."""
        kinds, reasons = table["task_type"].to_pylist(), table["reason"].to_pylist()
        self.reasons.update(reason for reason in reasons if reason)
        self.rows.update(kinds)
        self.parsed.update(kind for kind, reason in zip(kinds, reasons, strict=True) if not reason)
        for name in self.tokens:
            self.tokens[name] += sum(table[name].to_pylist())
        self.sampled_again += sum(number > 0 for number in table["attempt"].to_pylist())
        self.first += table.slice(0, self._SHOWN - len(self.first)).to_pylist()
        return table

    def summarise(self, stage: Stage, generator: str) -> None:
        """Write ``summary.json`` and ``samples.md``.

        ``generator`` is the identity of the model that wrote the rows, or empty.
        """
        total = self.rows.total()
        by_type = {
            kind: {"rows": self.rows[kind], "parsed": self.parsed[kind]}
            for kind in TASK_TYPES
            if self.rows[kind]
        }
        stage.summary(
            total,
            total - self.reasons.total(),
            dict(self.reasons),
            generator=generator,
            by_task_type=by_type,
            sampled_again=self.sampled_again,
            **self.tokens,
        )
        _write_samples(stage.out / "samples.md", self.first, total)


def _write_samples(path: Path, rows: list[dict[str, Any]], total: int) -> None:
    """Write predictions for people to read (DVC and MLflow show the file as it is)."""
    parts = [
        f"## {row['row_id']} ({TASK_TYPES[row['task_type']].full_name})"
        f"{'' if row['parsed'] else ' - unusable: ' + row['reason']}\n\n"
        f"> {' '.join(row['context'].split())}\n\n```\n{row['prediction'].strip()}\n```\n"
        for row in rows
    ]
    write_text(path, f"# The first {len(parts)} of {total} predictions\n\n" + "\n".join(parts))
