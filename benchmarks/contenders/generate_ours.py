"""Our stage generate as it is, from passages.parquet to predictions.parquet, journal and all; the
engine is started once, before the first round.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from benchmarks.contenders.stages import empty, stage
from benchmarks.worker import Done, serve
from tasks.core.overlay import overlay
from tasks.core.params import parse_params
from tasks.core.parquet import read_table
from tasks.core.yaml_file import read_yaml
from tasks.generate import shards
from tasks.generate import stage as generate
from tasks.lm.prompts import bonito_input
from tasks.lm.tokenizers import load_tokenizer


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Start the engine on the merged weights, through the stage's own door."""
    params = parse_params(
        overlay(read_yaml(Path("params.yaml")), {"generate": config["generate"]}), "params.yaml"
    )
    opened = shards.open_generator_engine(params.generate, config["longest"])
    engine = SimpleNamespace(generate=opened.generate)  # without close: every round uses it
    tokenizer = load_tokenizer(params.generate.generator)
    vars(shards).update(
        open_generator_engine=lambda *_: engine, load_tokenizer=lambda *_: tokenizer
    )
    return {**config, "params": params, "folder": Path(config["folder"])}


def play(state: dict[str, Any]) -> Done:
    """Run the stage with an empty journal."""
    folder = empty(state["folder"])
    generate.generate(stage("generate", state["params"], folder, passages=Path(state["passages"])))
    rows = read_table(folder / "out" / "predictions.parquet").to_pylist()
    facts = {
        name: sum(row[name] for row in rows) for name in ("prompt_tokens", "output_tokens")
    } | {"longest": max(row["output_tokens"] for row in rows)}
    return Done(len(rows), lambda: _outputs(rows), facts)


def _outputs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "prompts": [bonito_input(row["context"], row["task_type"]) for row in rows],
        "texts": [row["prediction"] for row in rows],
        "finished": [row["reason"] != "truncated" for row in rows],
    }


if __name__ == "__main__":
    serve(load, play)
