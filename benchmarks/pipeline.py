"""pipeline: the whole graph on a cut of the incidents, each stage a process of its own, against the
same steps chained from the peers.

A round is one whole run of ours and one of the peers' steps, in turn first. Also printed: where
every second of ours goes.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks import chain, generate
from benchmarks.commands import timed
from benchmarks.harness import PASSED, ROOT, BenchOptions, environment
from benchmarks.rows import ResultRow
from flows.runs.dvc_graph import read_graph
from tasks.core.files import read_json
from tasks.core.overlay import overlay
from tasks.core.params import Params, load_params
from tasks.core.privacy import cache_folder
from tasks.core.yaml_file import read_yaml
from tasks.lm.models import EMBEDDED, base_path

NAMES = ("pipeline",)
TARGETS = dict.fromkeys(chain.CHAINS, 2.0)
#: A run of some three minutes on two cores: a part of the passages, steps and items, everything
#: else as it is by default.
_CUT: dict[str, dict[str, Any]] = {
    "generate": {"max_passages": 32, "samples": 1, "max_tokens": 64},
    "validate": {"min_yield": 0.0},
    "finetune": {
        "max_steps": 8,
        "epochs": 20.0,
        # the steps decide: however few rows are kept, both sides go through them as often as it
        # takes
    },
    "baseline": {"general_rows": 8},
    "evaluate": {"max_items": 20, "templates": 2, "bootstrap": 100},
}
#: For a test: no vLLM, whose start takes longer than the whole test.
_QUICK: dict[str, dict[str, Any]] = {
    "generate": {"engine": "transformers", "max_passages": 3, "max_tokens": 32},
    "finetune": {"max_steps": 4, "batch_rows": 4, "micro_batch_rows": 4},
    "evaluate": {"engine": "transformers", "max_items": 2, "templates": 1},
}
_LINKS = ("data", "datasets", "models", "supervision")
_KINDS = ("start", "import", "load", "work")
#: Stages of ours whose work the peers' chain does too. Its validation is bonito-llm's own
#: post-processing, within its writing.
SHARED = ("generate", "finetune", "baseline", "evaluate")
_NOTE = (
    "whole runs an hour. Ours alone: ingest, Great Expectations with its Data Docs "
    "(theirs: bonito-llm's own post-processing), supervise, register with its "
    "parity check; generate, finetune, baseline and evaluate alone: {shared:.2f} times"
)
Stages = dict[str, dict[str, float]]


def run(options: BenchOptions) -> list[ResultRow]:
    """Print the table of stages, and return the row of each chain."""
    ours: list[Stages] = []
    counts: list[dict[str, int]] = []
    theirs: list[chain.Round] = []
    folder = (options.work / "pipeline").absolute()
    weights = generate.merged_generator()
    try:
        for number in range(1 if options.quick else options.rounds):
            turns = ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours")
            for turn in turns:
                cache = _fresh_cache(folder / f"cache-{turn}", weights)
                if turn == "ours":
                    ours.append(_once(folder / "ours", options, cache))
                    counts.append(chain.counts_of(folder / "ours"))
                else:
                    theirs.append(
                        chain.play(
                            folder / "theirs",
                            folder / "ours",
                            _params(folder),
                            weights,
                            options,
                            cache,
                        )
                    )
                    print(f"benchmarks: {chain.told(theirs[-1])}", file=sys.stderr, flush=True)
    except RuntimeError as error:
        return [_row(name, f"failed: ours: {error}") for name in chain.CHAINS]
    print(table(ours))
    return [compared(name, ours, counts, theirs) for name in chain.CHAINS]


def compared(
    name: str,
    ours: list[Stages],
    counts: list[dict[str, int]],
    theirs: list[chain.Round],
) -> ResultRow:
    """Return the row of a chain: its seconds over ours, paired within each round, all stages
    counted; ``shared_ratio``: the shared stages alone.
    """
    steps = chain.steps_of(name)
    failure = next(
        (found.failures[step] for found in theirs for step in steps if step in found.failures), ""
    )
    if failure:
        return _row(name, f"not run: {failure}")
    own = [
        (count, chain.counts_of_chain(name, found))
        for count, found in zip(counts, theirs, strict=True)
    ]
    gates = (chain.gate(one, other) for one, other in own)
    failed = next((f"failed: {gate}" for gate in gates if gate != PASSED), "")
    row = _row(name, failed or PASSED)
    walls = [sum(stage["wall"] for stage in stages.values()) for stages in ours]
    shared = [sum(stages[stage]["wall"] for stage in SHARED) for stages in ours]
    chained = [sum(found.seconds[step] for step in steps) for found in theirs]
    row.extra = {
        "stages": ours,
        "steps": [{step: round(found.seconds[step], 2) for step in steps} for found in theirs],
        "counts": {"ours": counts[-1], "theirs": own[-1][1]},
    }
    if row.gate == PASSED:
        row.set_ratio([other / mine for mine, other in zip(walls, chained, strict=True)])
        row.end_to_end_ratio = row.ratio
        row.ours, row.theirs = (
            round(3600 / statistics.median(seconds), 2) for seconds in (walls, chained)
        )
        row.extra["shared_ratio"] = round(
            statistics.median(other / mine for mine, other in zip(shared, chained, strict=True)), 3
        )
        row.note = _NOTE.format(shared=row.extra["shared_ratio"])
    return row


def _row(name: str, gate: str) -> ResultRow:
    return ResultRow(bench=NAMES[0], peer=name, gate=gate, unit="runs/h", target=TARGETS[name])


def table(found: list[Stages]) -> str:
    """Return seconds a stage and kind, each the median of the rounds: start of the interpreter and
    its end, imports, model loads, the work itself.
    """
    lines = [f"{'seconds':10}{''.join(f'{kind:>9}' for kind in (*_KINDS, 'wall', 'loads'))}"]
    for stage in [*found[0], "all"]:
        cells = [
            statistics.median(_of(stages, stage, kind) for stages in found)
            for kind in (*_KINDS, "wall", "loads")
        ]
        lines.append(f"{stage:10}{''.join(f'{cell:9.1f}' for cell in cells[:-1])}{cells[-1]:9.0f}")
    return "\n".join(
        [
            *lines,
            (
                "start: interpreter up and down. load: models and tokenizers read, engines "
                "started, without their imports."
            ),
        ]
    )


def _of(stages: Stages, stage: str, kind: str) -> float:
    return sum(one[kind] for one in stages.values()) if stage == "all" else stages[stage][kind]


def _fresh_cache(folder: Path, weights: Path) -> dict[str, str]:
    """Return the cache folder of this run: it holds the embedded model and the generator; every
    other model has to be merged again.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "merged").mkdir(parents=True)
    base_path(EMBEDDED)
    os.symlink(cache_folder() / "embedded", folder / "embedded")
    os.symlink(weights, folder / "merged" / weights.name)
    return {"BONITO_CACHE": str(folder)}


def _params(folder: Path) -> Params:
    params: Params = load_params(folder / "ours" / "params.yaml")
    return params


def _once(folder: Path, options: BenchOptions, cache: dict[str, str]) -> Stages:
    """Run the graph's stages one after the other in an empty folder; return what each took."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _LINKS:
        os.symlink(ROOT / name, folder / name)
    params = overlay(
        overlay(read_yaml(ROOT / "params.yaml"), _CUT), _QUICK if options.quick else {}
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return {
        node.name: _stage(node.name, shlex.split(node.command), folder, options, cache)
        for node in read_graph(ROOT)
    }


def _stage(
    name: str, command: list[str], folder: Path, options: BenchOptions, cache: dict[str, str]
) -> dict[str, float]:
    """Run ``python -m tasks.STAGE ...`` under the clock."""
    if command[:2] != ["python", "-m"]:
        raise RuntimeError(f"{name}: its command is no module of ours: {' '.join(command)}")
    times = folder / f"{name}.json"
    command = [sys.executable, "-m", "benchmarks.contenders.timed_stage", str(times), *command[2:]]
    wall, failure = timed(
        command, folder / f"{name}.log", folder, {**environment(options.threads), **cache}
    )
    if failure:
        raise RuntimeError(f"{name}: {failure}")
    told = read_json(times)
    inside = {kind: told["seconds"].get(kind, 0.0) for kind in _KINDS[1:]}
    return {"start": wall - sum(inside.values()), **inside, "wall": wall, "loads": told["loads"]}
