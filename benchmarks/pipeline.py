"""pipeline: the whole graph on a cut of the incidents, each stage a process of its own, and where every second of it goes."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import PASSED, ROOT, Options, Row, environment
from flows.graph import read_graph
from tasks.files import read_json
from tasks.params import overlay, read_yaml

NAMES = ("pipeline",)
PEER = "the peers' steps chained"
TARGETS = {PEER: 2.0}
#: A run of some two minutes on two cores: a few passages, steps and items, everything else as it is by default.
_CUT: dict[str, dict[str, Any]] = {
    "generate": {"max_passages": 24, "samples": 1, "max_tokens": 64},
    "validate": {"min_yield": 0.0},
    "finetune": {"max_steps": 4, "batch_rows": 4, "micro_batch_rows": 4},
    "baseline": {"general_rows": 8},
    "evaluate": {"max_items": 10, "templates": 1, "bootstrap": 100},
}
#: For a test: no vLLM, whose start takes longer than the whole test.
_QUICK: dict[str, dict[str, Any]] = {
    "generate": {"engine": "transformers", "max_passages": 3, "max_tokens": 32},
    "evaluate": {"engine": "transformers", "max_items": 2},
}
_LINKS = ("data", "datasets", "models", "supervision")
_KINDS = ("start", "import", "load", "work")


def run(options: Options) -> list[Row]:
    """Print the table of stages, and return the row of the whole."""
    rounds = 1 if options.quick else options.rounds
    found: list[dict[str, dict[str, float]]] = []
    row = Row(NAMES[0], PEER, None, None, None, PASSED, options.machine, TARGETS[PEER], "more", "seconds")
    row.command = f"python -m benchmarks --only {NAMES[0]} --rounds {options.rounds}"
    try:
        for _ in range(rounds):
            found.append(_once(options))
    except RuntimeError as error:
        row.gate = f"failed: ours: {error}"
        return [row]
    print(table(found))
    row.ours = round(statistics.median(sum(one["wall"] for one in stages.values()) for stages in found), 1)
    row.rounds, row.extra["stages"] = rounds, found
    row.gate = "not run: the authors' fine-tuning and evaluation are not chained yet: see the benches finetune and evaluate"
    return [row]


def table(found: list[dict[str, dict[str, float]]]) -> str:
    """Return seconds a stage and kind, each the median of the rounds: start of the interpreter and its end, imports, model loads, the work itself."""
    lines = [f"{'seconds':10}{''.join(f'{kind:>9}' for kind in (*_KINDS, 'wall', 'loads'))}"]
    for stage in [*found[0], "all"]:
        cells = [statistics.median(_of(stages, stage, kind) for stages in found) for kind in (*_KINDS, "wall", "loads")]
        lines.append(f"{stage:10}{''.join(f'{cell:9.1f}' for cell in cells[:-1])}{cells[-1]:9.0f}")
    return "\n".join([*lines, "start: interpreter up and down. load: models and tokenizers read, engines started, without their imports."])


def _of(stages: dict[str, dict[str, float]], stage: str, kind: str) -> float:
    return sum(one[kind] for one in stages.values()) if stage == "all" else stages[stage][kind]


def _once(options: Options) -> dict[str, dict[str, float]]:
    """Run the graph's stages one after the other in an empty folder; return what each took."""
    folder = options.work / "pipeline"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in _LINKS:
        os.symlink(ROOT / name, folder / name)
    params = overlay(overlay(read_yaml(ROOT / "params.yaml"), _CUT), _QUICK if options.quick else {})
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    return {node.name: _stage(node.name, shlex.split(node.command), folder, options) for node in read_graph(ROOT)}


def _stage(name: str, command: list[str], folder: Path, options: Options) -> dict[str, float]:
    """Run ``python -m tasks.STAGE ...`` under the clock."""
    if command[:2] != ["python", "-m"]:
        raise RuntimeError(f"{name}: its command is no module of ours: {' '.join(command)}")
    times = folder / f"{name}.json"
    timed = [sys.executable, "-m", "benchmarks.contenders.timed_stage", str(times.resolve()), *command[2:]]
    start = time.perf_counter()
    with (folder / f"{name}.log").open("w", encoding="utf-8") as log:
        done = subprocess.run(timed, stdout=log, stderr=log, cwd=folder, env=environment(options.threads), check=False)
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{name}: {(folder / f'{name}.log').read_text(encoding='utf-8').strip().splitlines()[-1][:200]}")
    told = read_json(times)
    inside = {kind: told["seconds"].get(kind, 0.0) for kind in _KINDS[1:]}
    return {"start": wall - sum(inside.values()), **inside, "wall": wall, "loads": told["loads"]}
