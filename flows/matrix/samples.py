"""Tasks that the generators of a matrix wrote, for the report to show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flows.matrix.results import Result
from tasks.core.parquet import read_table

_SAMPLES = 3


def pick_samples(results: Sequence[Result], main: Path) -> list[dict[str, Any]]:
    """Return a few tasks that each generator wrote for each dataset, and what became of them."""
    shown, seen = [], set()
    for result in results:
        kind = result.cell.supervision.rpartition("+")[2]
        key = (result.cell.dataset, kind, result.cell.params["generate"]["generator"])
        if result.status != "done" or kind not in ("bonito", "prompted") or key in seen:
            continue
        wrote, judged = (
            result.artifacts(main) / "generate" / "predictions.parquet",
            result.artifacts(main) / "validate" / "instructions.parquet",
        )
        if not (wrote.is_file() and judged.is_file()):
            continue
        seen.add(key)
        kept = set(read_table(judged, ["row_id"])["row_id"].to_pylist())
        table = read_table(wrote)
        step = max(1, len(table) // _SAMPLES)
        rows = table.take(list(range(0, len(table), step))[:_SAMPLES]).to_pylist()
        counts = {
            "predictions": len(table),
            "parsed": pc.sum(table["parsed"]).as_py() or 0,
            "kept": len(kept),
        }
        tasks = [
            {
                **{name: row[name] for name in ("context", "prediction", "reason", "task_type")},
                "kept": row["row_id"] in kept,
            }
            for row in rows
        ]
        shown.append(
            {"dataset": key[0], "supervision": kind, "generator": key[2], **counts, "tasks": tasks}
        )
    return shown
