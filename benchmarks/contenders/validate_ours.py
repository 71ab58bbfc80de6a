"""Our parsing and the stage validate, from a Parquet file of raw predictions to instructions,
quarantine, report and Data Docs.

With ``judge`` false no more than the authors' package does: split, put the passage in, drop what
does not split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.contenders.pairs import digests
from benchmarks.contenders.stages import empty, stage
from benchmarks.worker import Done, serve
from tasks.core import parquet
from tasks.core.params import parse_params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import PREDICTIONS
from tasks.core.yaml_file import read_yaml
from tasks.lm.prompts import parse_prediction
from tasks.validate import stage as validate
from tasks.validate.predictions import COLUMNS, clean_batch, fill_passages
from tasks.validate.texts import fill_all


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Parse the parameters; ``batch`` sets another number of rows to be in memory at once."""
    if config.get("batch"):
        parquet.GROUP = config["batch"]
    params = parse_params(read_yaml(Path("params.yaml")), "params.yaml")
    return {**config, "params": params, "folder": Path(config["out"])}


def play(state: dict[str, Any]) -> Done:
    """Parse, and run the stage as it is."""
    folder = empty(state["folder"])
    parsed = _parsed(Path(state["predictions"]))
    if not state["judge"]:
        rows = fill_passages(clean_batch(parsed.filter(parsed["parsed"]).select(COLUMNS.names)))
        write_table(folder / "instructions.parquet", rows)
        return Done(
            len(parsed),
            lambda: {
                "pairs": digests(
                    zip(rows["instruction"].to_pylist(), rows["response"].to_pylist(), strict=True)
                )
            },
        )
    write_table(folder / "predictions.parquet", parsed)
    validate.validate(
        stage("validate", state["params"], folder, predictions=folder / "predictions.parquet")
    )
    return Done(len(parsed), lambda: _outputs(parsed, folder / "out"))


def _parsed(path: Path) -> pa.Table:
    """Parse as generate does, row by row."""
    table = read_table(path)
    columns: dict[str, list[Any]] = {
        name: [] for name in ("parsed", "reason", "instruction", "response")
    }
    # Only strings are kept: Python's garbage collection would look through as many task objects.
    for task in map(parse_prediction, table["prediction"].to_pylist()):
        columns["parsed"].append(not task.reason)
        columns["reason"].append(task.reason)
        columns["instruction"].append(task.instruction)
        columns["response"].append(task.response)
    for name, column in columns.items():
        field = PREDICTIONS.field(name)
        table = table.set_column(
            table.column_names.index(name), field, pa.array(column, field.type)
        )
    return table


def _outputs(parsed: pa.Table, out: Path) -> dict[str, Any]:
    """Return what the gate compares: every parsed pair before validation, and the rows that were
    kept.
    """
    instructions = fill_all(
        parsed["instruction"].combine_chunks(), parsed["context"].combine_chunks()
    ).to_pylist()
    pairs = digests(zip(instructions, parsed["response"].to_pylist(), strict=True))
    return {"pairs": pairs, "kept": read_table(out / "instructions.parquet")["row_id"].to_pylist()}


if __name__ == "__main__":
    serve(load, play)
