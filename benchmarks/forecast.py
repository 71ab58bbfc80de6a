"""forecast: in how many of 20 cuts of the shipped corpora the 80 % intervals of make plan hold what
the run then gives; there is no peer, the target is a number of cuts.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml

from benchmarks.commands import clone
from benchmarks.harness import PASSED, ROOT, BenchOptions, environment
from benchmarks.inputs import DOMAINS, data_folder, model_folder
from benchmarks.rows import ResultRow
from flows.runs.dvc_graph import read_graph
from flows.runs.dvc_repro import StageOutcome, reproduce
from flows.runs.forecast import Compared, compare
from flows.runs.last_run import read_last, write_outcomes
from flows.runs.worktree import fingerprint_results
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.overlay import overlay
from tasks.core.params import Params, parse_params
from tasks.core.stage import WORK
from tasks.core.yaml_file import read_yaml
from tasks.start.plan import plan, to_json

NAMES = ("forecast",)
#: Cuts whose interval holds, of twenty: 80 %.
TARGETS = dict.fromkeys(("kept_rows", "minutes", "peak_memory_mb", "disk_mb"), 16.0)
_CUTS = 20


def run(options: BenchOptions) -> list[ResultRow]:
    """Return a row for each figure, whose ratio is the number of cuts: a cut is some documents of a
    domain with its own seeds, samples and passage length, and labelled items of the domain.

    The generator answers by rule and the models are random and tiny, so that twenty plans and runs
    take minutes each; with ``--size whole`` they are the embedded ones, for hours. A run is each
    stage by ``dvc repro``, as the flow runs it, without Prefect. Gate: each cut gave each figure.
    """
    folder = (options.work / "forecast").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    cuts = 1 if options.quick else _CUTS
    tried = []
    for number in range(cuts):
        checkout = clone(folder / f"cut-{number}")
        (checkout / "dvc.lock").unlink()  # a run has its own outputs
        settings = _cut(number, folder / f"corpus-{number}")
        if not options.whole:
            settings = overlay(settings, _tiny(options))
        with patch.dict(os.environ, _environment(folder / f"cache-{number}", options), clear=True):
            tried.append(_try(checkout, overlay(read_yaml(ROOT / "params.yaml"), settings)))
        told = "; ".join(one.describe() for one in tried[-1])
        print(f"benchmarks: cut {number + 1}: {told}", file=sys.stderr, flush=True)
    return count(tried)


def count(tried: Sequence[Sequence[Compared]]) -> list[ResultRow]:
    """Return the rows: of each figure how many intervals hold, and what was forecast and came."""
    held = Counter(one.key for compared in tried for one in compared if one.holds)
    rows = []
    for key, target in TARGETS.items():
        came = [one for compared in tried for one in compared if one.key == key]
        gate = PASSED if len(came) == len(tried) else f"failed: {len(came)} of {len(tried)} cuts"
        row = ResultRow(bench=NAMES[0], peer=key, gate=gate, unit="cuts", target=target)
        row.note = f"cuts of {len(tried)} in the place of a ratio"
        row.extra = {"cuts": [one.row() for one in came]}
        if gate == PASSED:
            row.ours = float(held[key])
            row.set_ratio([row.ours])
        row.rounds = len(tried)
        rows.append(row)
    return rows


def _cut(number: int, corpus: Path) -> dict[str, Any]:
    """Write the documents of a cut into ``corpus``; return its settings."""
    chance = random.Random(number)
    domain = DOMAINS[number % len(DOMAINS)]
    data = data_folder(domain)
    files = sorted((data / "documents").iterdir())
    shutil.rmtree(corpus, ignore_errors=True)
    corpus.mkdir(parents=True)
    for file in chance.sample(files, chance.randint(len(files) // 4, len(files))):
        shutil.copy(file, corpus)
    return {
        "ingest": {"corpus": str(corpus), "passage_tokens": chance.choice([90, 120, 160])},
        "generate": {"samples": chance.randint(1, 4), "task_types": ["exqa"], "seed": number},
        "verify": {"reviews": str(ROOT / "supervision/none")},
        "evaluate": {
            "dataset": str(ROOT / f"datasets/{domain}.yaml"),
            "items": str(data / "evaluation.jsonl"),
            "seed": number,
        },
    }


def _tiny(options: BenchOptions) -> dict[str, Any]:
    model, nothing = model_folder(replace(options, quick=True)), str(ROOT / "supervision/none")
    return {
        "generate": {"generator": model},
        "validate": {"min_yield": 0.0},  # the rule asks all samples of a passage the same
        "verify": {"reader": model, "engine": "transformers", "answers": 2, "max_tokens": 8},
        "finetune": {"model": model, "start": nothing, "restart": nothing},
        "evaluate": {"engine": "transformers", "max_items": 40, "templates": 2},
        "register": {"experiment": "forecast", "parity_items": 0},
    }


def _environment(cache: Path, options: BenchOptions) -> dict[str, str]:
    """Return the environment of plan and run: a cache of their own, and the generator that answers
    by rule.
    """
    own = ("MLFLOW_TRACKING_URI", "PIPELINE_POOLS")
    known = {name: text for name, text in environment(options.threads).items() if name not in own}
    path = [str(ROOT)] if options.whole else [str(ROOT / "tests/fake_engine"), str(ROOT)]
    return {**known, "BONITO_CACHE": str(cache), "PYTHONPATH": os.pathsep.join(path)}


def _try(checkout: Path, values: dict[str, Any]) -> list[Compared]:
    """Plan and run with these parameters in ``checkout``; return what was forecast and came."""
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (checkout / "params.yaml").write_text(text, encoding="utf-8")
    params: Params = parse_params(values, "params.yaml")
    settings, before = fingerprint_results(values), Path.cwd()
    os.chdir(checkout)  # the paths of the parameters are from there
    try:
        began = time.monotonic()
        found = plan(params, values, checkout / WORK / "plan", lambda *_: None, began=began)
        told = to_json(found, "default", "default", time.monotonic() - began)
        write_json(checkout / "artifacts/plan/plan.json", told | {"settings": settings})
    finally:
        os.chdir(before)
    shutil.rmtree(checkout / WORK)
    started, outcomes = time.time(), list[StageOutcome]()
    for node in read_graph(checkout):
        outcomes.append(reproduce(checkout, node.name, lambda _: None, lambda: None))
        if outcomes[-1].status != "ran":
            raise PipelineError(f"forecast: {node.name}: {outcomes[-1].error or 'did not run'}")
    write_outcomes(checkout, "default", outcomes, settings=settings, began=started)
    last = read_last(checkout)
    return compare(checkout, checkout, last) if last else []
