"""The peers' side of the bench ``pipeline``: what ours does between passages and scores, by the
peers' programs, each step a process of its own.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.commands import timed
from benchmarks.generate import with_bos
from benchmarks.harness import PASSED, BenchOptions, environment
from benchmarks.machine import has_gpu
from benchmarks.peers import interpreter
from tasks.core.files import read_json, write_json
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.core.task_types import TASK_TYPES
from tasks.lm.vllm_settings import vllm_environment, vllm_settings

#: Chain -> its training step. All else is the same in both; the steps before training run once a
#: round for both.
CHAINS = {
    "the peers' steps chained, TRL's training": "train_trl",
    "the peers' steps chained, the authors' training": "train_authors",
}


@dataclass
class Round:
    """What the steps took in seconds and counted; ``failures`` holds why a step did not run."""

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def steps_of(chain: str) -> tuple[str, ...]:
    """Return the steps of a chain in their order."""
    training = CHAINS[chain]
    return ("write", training, "answer_base", f"answer_{training}")


def play(
    folder: Path,
    ours: Path,
    params: Params,
    weights: Path,
    options: BenchOptions,
    cache: dict[str, str],
) -> Round:
    """Run the steps of every chain once in ``folder``, on the passages that ours generated from.

    A step behind a failed one is not run.
    """
    peers, missing = interpreter(options.work, options.install)
    python = sys.executable if missing else str(Path(peers).absolute())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    configs = _configs(folder, ours, params, weights)
    found = Round()
    for name, (step, needs, config) in configs.items():
        broken = next(
            (found.failures[need] for need in needs if need in found.failures),
            missing if name == "train_trl" else "",
        )
        if broken:
            found.failures[name] = broken
            continue
        path = folder / f"{name}.config.json"
        write_json(path, {**config, "counts": str(folder / f"{name}.json")})
        command = [python, "-m", "benchmarks.contenders.chain", step, str(path)]
        seconds, failure = timed(
            command, folder / f"{name}.log", ours, {**environment(options.threads), **cache}
        )
        if failure:
            found.failures[name] = f"{name}: {failure}"
        else:
            found.seconds[name], found.counts[name] = seconds, read_json(folder / f"{name}.json")
    return found


def _configs(
    folder: Path, ours: Path, params: Params, weights: Path
) -> dict[str, tuple[str, tuple[str, ...], dict[str, Any]]]:
    """Return name -> step, the steps it needs, and its configuration."""
    sampling, rows = params.generate, str(folder / "rows.parquet")
    written = read_table(
        ours / "artifacts" / "generate" / "predictions.parquet",
        ["passage_id", "context", "prompt_tokens"],
    ).to_pylist()
    texts = list({row["passage_id"]: row["context"] for row in written}.values())
    write_table(folder / "passages.parquet", pa.table({"text": texts}))
    longest = max(row["prompt_tokens"] for row in written) + sampling.max_tokens
    write: dict[str, Any] = {
        "passages": str(folder / "passages.parquet"),
        "rows": rows,
        "vllm": sampling.engine == "vllm",
        "batch": 16,
        "model": str(with_bos(weights, folder / "weights")),
        "engine": vllm_settings(sampling.precision, longest),
        "environment": vllm_environment(has_gpu()),
        "task_types": list(sampling.task_types),
        "full_task_types": [TASK_TYPES[kind].full_name for kind in sampling.task_types],
        "samples": sampling.samples,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    configs: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
        "write": ("write", (), write),
        "answer_base": ("answer", (), {"params": "params.yaml"}),
    }
    for training in CHAINS.values():
        adapter = str(folder / f"adapter-{training}")
        settings = params.finetune.model_dump(mode="json")
        given = {"settings": settings, "rows": rows, "work": str(folder / training)}
        configs[training] = (training, ("write",), given | {"adapter": adapter})
        answer = {"params": "params.yaml", "adapter": adapter}
        configs[f"answer_{training}"] = ("answer", (training,), answer)
    return configs


def counts_of(ours: Path) -> dict[str, int]:
    """Return what the gate compares, of a run of ours: passages generated from, rows trained on,
    answers of both models; and tokens trained on.
    """
    artifacts = ours / "artifacts"
    trained = read_json(artifacts / "finetune" / "provenance.json")
    generated = read_table(artifacts / "generate" / "predictions.parquet", ["passage_id"])
    answered = read_table(artifacts / "evaluate" / "predictions.parquet", ["model"])
    models = answered["model"].to_pylist()
    return {
        "passages": len(set(generated["passage_id"].to_pylist())),
        "kept": pq.read_metadata(artifacts / "validate" / "instructions.parquet").num_rows,
        "trained": trained["steps"] * trained["settings"]["batch_rows"],
        "tokens": trained["tokens"],
        "base answers": models.count("zero_shot"),
        "adapted answers": models.count("adapted"),
    }


def counts_of_chain(chain: str, found: Round) -> dict[str, int]:
    """Return the same of a chain."""
    write, training, base, adapted = (found.counts[step] for step in steps_of(chain))
    return {
        "passages": write["passages"],
        "kept": write["kept"],
        "trained": training["trained"],
        "tokens": training["tokens"],
        "base answers": base["answers"],
        "adapted answers": adapted["answers"],
    }


def gate(ours: dict[str, int], theirs: dict[str, int]) -> str:
    """Return ``passed`` if both were given as much to do.

    Kept rows and their tokens are sampled, and may differ.
    """
    for name in ("passages", "trained", "base answers", "adapted answers"):
        if ours[name] != theirs[name] or not ours[name]:
            return f"{name}: {ours[name]} of ours, {theirs[name]} of theirs"
    return PASSED


def told(found: Round) -> str:
    """Return the seconds of the steps, for people."""
    return json.dumps(
        {name: round(seconds, 1) for name, seconds in found.seconds.items()} | found.failures
    )
