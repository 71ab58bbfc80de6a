"""distilabel's formatting step, from a Parquet file to a Parquet file.

It splits nothing and drops nothing: it is given what already is split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from distilabel.steps import FormatTextGenerationSFT  # type: ignore[import-not-found]  # in the peers' environment alone

from benchmarks.contenders.pairs import digests
from benchmarks.worker import Done, serve


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Make the step, outside of a pipeline and its processes: what they cost is not counted against
    it.
    """
    step = FormatTextGenerationSFT()
    step.load()
    return {**config, "step": step}


def play(state: dict[str, Any]) -> Done:
    """Read, process in the step's own batches, write."""
    table = pq.read_table(
        state["predictions"],
        columns=["context", "instruction", "response"],
        filters=[("parsed", "=", True)],
    )
    rows = [
        {
            "instruction": row["instruction"].replace("{{context}}", row["context"].strip()),
            "generation": row["response"],
        }
        for row in table.to_pylist()
    ]
    size = state["step"].input_batch_size
    done = [
        row
        for start in range(0, len(rows), size)
        for batch in state["step"].process(rows[start : start + size])
        for row in batch
    ]
    Path(state["out"]).unlink(missing_ok=True)
    pq.write_table(pa.Table.from_pylist(done), state["out"])
    return Done(
        pq.read_metadata(state["predictions"]).num_rows,
        lambda: {"pairs": digests(_pair(row["messages"]) for row in done)},
    )


def _pair(messages: list[dict[str, str]]) -> tuple[str, str]:
    return messages[0]["content"], messages[1]["content"]


if __name__ == "__main__":
    serve(load, play)
