"""bonito-llm's post-processing, from a Parquet file of raw predictions to one of instructions:
split, fill in the passage, drop what does not split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.contenders.authors_package import load as authors
from benchmarks.contenders.pairs import digests
from benchmarks.worker import Done, serve
from datasets import Dataset, disable_progress_bars


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Take its class without the engine: what is measured here needs none."""
    disable_progress_bars()
    options = {} if config["pool"] else {"num_proc": None}
    return {**config, "processing": authors("abstract").AbstractBonito(), "options": options}


def play(state: dict[str, Any]) -> Done:
    """Read, process, write."""
    table = pq.read_table(state["predictions"], columns=["context", "prediction"])
    done = state["processing"]._postprocess_dataset(
        Dataset(table), context_col="context", **state["options"]
    )
    Path(state["out"]).unlink(missing_ok=True)
    done.to_parquet(state["out"])
    return Done(
        len(table), lambda: {"pairs": digests(zip(done["input"], done["output"], strict=True))}
    )


if __name__ == "__main__":
    serve(load, play)
