"""Sample tasks of a matrix's generators, for the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from flows.matrix.results import Result
from tasks.core.mix import parse_mix
from tasks.core.parquet import read_table

_SAMPLES = 3


def pick_samples(results: Sequence[Result], main: Path) -> list[dict[str, Any]]:
    """Return a few tasks of each generator for each dataset, and whether they were kept."""
    shown, seen = [], set()
    for result in results:
        kind = parse_mix(result.cell.params["supervise"]["source"]).generator
        key = (result.cell.dataset, kind, result.cell.params["generate"]["generator"])
        if result.status != "done" or not kind or key in seen:
            continue
        written = result.artifacts(main) / "generate" / "predictions.parquet"
        validated = result.artifacts(main) / "validate" / "instructions.parquet"
        if not (written.is_file() and validated.is_file()):
            continue
        seen.add(key)
        kept = set(read_table(validated, ["row_id"])["row_id"].to_pylist())
        table = read_table(written)
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
