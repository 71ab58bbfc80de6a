"""memory: the most that the stages from ingest to finetune hold at 10,000, 100,000 and 1,000,000
rows; no language model answers or is trained. Flat is the claim, but for verify, supervise and
finetune, which hold some 200 bytes of each row.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks import made
from benchmarks.harness import PASSED, ROOT, BenchOptions, environment, last_line
from benchmarks.rows import ResultRow
from tasks.core.files import read_json
from tasks.core.overlay import overlay
from tasks.core.parquet import write_table
from tasks.core.rows import QUARANTINE
from tasks.core.setting_paths import NOTHING
from tasks.core.yaml_file import read_yaml
from tasks.lm.models import EMBEDDED, base_path

NAMES = ("memory",)
_TARGET, _TARGET_OF_KEYS = 1.1, 1.5
TARGETS = {
    **dict.fromkeys(("ingest", "generate", "validate"), _TARGET),
    **dict.fromkeys(("verify", "supervise", "finetune"), _TARGET_OF_KEYS),
}
#: finetune tokenises twice the rows of these, however many there are.
_STEPS = 100
_SIZES, _WHOLE, _QUICK = (10_000, 100_000), 1_000_000, (300,)
#: A stage that takes longer over one of these sizes is given up.
_MOST_SECONDS = 3600.0
#: Everything the stages do by default; shards as large as on a GPU, or a million rows would be
#: 30,000 small files.
_PARAMS: dict[str, dict[str, Any]] = {
    "ingest": {"text_column": "text", "workers": 2},
    "generate": {"generator": EMBEDDED, "samples": 1, "shard_rows": 1024},
    "validate": {"min_yield": 0.0},
    "verify": {
        **{"reader": EMBEDDED, "answers": 2, "reviews": str(ROOT / NOTHING)},
        **{"tests": str(ROOT / NOTHING), "keep_per_passage": 1, "shard_rows": 1024},
    },
    "supervise": {"rows": str(ROOT / NOTHING)},
    "finetune": {
        **{"start": str(ROOT / NOTHING), "restart": str(ROOT / NOTHING)},
        **{"max_steps": _STEPS, "batch_rows": 8, "micro_batch_rows": 8},
    },
    "evaluate": {
        "dataset": str(ROOT / "datasets" / "incidents.yaml"),
        "items": str(ROOT / NOTHING),
    },
}
_MODULES = {
    "ingest": "tasks.ingest",
    "generate": "benchmarks.contenders.ruled_generate",
    "validate": "tasks.validate",
    "verify": "benchmarks.contenders.ruled_verify",
    "supervise": "tasks.supervise",
    "finetune": "benchmarks.contenders.ruled_finetune",
}
_INPUTS = {
    "ingest": ("corpus",),
    "generate": ("passages",),
    "validate": ("predictions",),
    "verify": ("instructions", "quarantine", "passages", "predictions"),
    "supervise": ("passages", "instructions"),
    "finetune": ("instructions",),
}
_WRITERS: dict[str, Callable[[Path, int], Any]] = {
    "corpus": made.write_corpus,
    "passages": made.write_passages,
    "predictions": made.write_predictions,
    "instructions": made.write_instructions,
    "quarantine": lambda path, _: write_table(path, QUARANTINE.empty_table()),
}


@dataclass(frozen=True)
class _Measured:
    rows: int
    seconds: float
    mebibytes: float


def run(options: BenchOptions) -> list[ResultRow]:
    """Return one row a stage: its largest peak over its smallest."""
    sizes = _QUICK if options.quick else (*_SIZES, _WHOLE) if options.whole else _SIZES
    base_path(EMBEDDED)  # to convert it takes memory, which is not that of a stage
    return [_measure_stage(stage, sizes, options) for stage in TARGETS]


def _measure_stage(stage: str, sizes: Sequence[int], options: BenchOptions) -> ResultRow:
    """Return a stage's row; where it fails at a size, the row's note has those before."""
    measured = []
    try:
        for size in sizes:
            measured.append(_measure(stage, size, options))
    except RuntimeError as error:
        return _row(stage, measured, f"failed: {error}")
    return _row(stage, measured)


def _row(stage: str, measured: list[_Measured], gate: str = PASSED) -> ResultRow:
    row = ResultRow(
        bench=NAMES[0], peer=stage, gate=gate, unit="MiB", target=TARGETS[stage], better="less"
    )
    row.note = "largest over smallest peak: " + ", ".join(
        f"{one.rows:,} rows {one.mebibytes:.0f} MiB in {one.seconds:.0f} s" for one in measured
    )
    row.extra["peaks_mib"] = {str(one.rows): one.mebibytes for one in measured}
    if gate == PASSED:
        peaks = [one.mebibytes for one in measured]
        row.ours, row.theirs = max(peaks), min(peaks)
        row.set_ratio([max(peaks) / min(peaks)])
    return row


def _measure(stage: str, rows: int, options: BenchOptions) -> _Measured:
    """Run a stage over ``rows`` rows in its own process."""
    folder = options.work / "memory" / f"{stage}-{rows}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "params.yaml").write_text(
        yaml.safe_dump(overlay(read_yaml(ROOT / "params.yaml"), _PARAMS)), encoding="utf-8"
    )
    given = _input(stage, rows, options.work / "memory" / "inputs")
    command = [
        sys.executable,
        "-m",
        "benchmarks.contenders.measured",
        sys.executable,
        "-m",
        _MODULES[stage],
    ]
    command += ["--params", "params.yaml", "--out", "out", *given]
    told = _run(command, folder, rows, options)
    if told["status"]:
        last = last_line(folder / "log") or "it said nothing"
        raise RuntimeError(f"{rows} rows: status {told['status']}: {last}")
    _check(stage, rows, read_json(folder / "out" / "summary.json"))
    shutil.rmtree(folder / "out")
    shutil.rmtree(folder / ".work", ignore_errors=True)
    return _Measured(rows, told["seconds"], round(told["peak_bytes"] / 2**20, 1))


def _run(command: list[str], folder: Path, rows: int, options: BenchOptions) -> dict[str, Any]:
    """Return what benchmarks.contenders.measured says of a command, which dies with its children
    where it takes too long.
    """
    with (
        (folder / "log").open("w", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env=environment(options.threads),
            start_new_session=True,
        ) as process,
    ):
        try:
            told, _ = process.communicate(timeout=_MOST_SECONDS)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                limit = f"{rows} rows: no end within {_MOST_SECONDS:.0f} s"
                raise RuntimeError(limit) from error
            raise
    if process.returncode:
        return {"status": process.returncode}
    return dict(json.loads(told.splitlines()[-1]))


def _check(stage: str, rows: int, summary: dict[str, Any]) -> None:
    """A stage that lost its rows on the way needs little memory: each row went in, and most came
    out.
    """
    most = 16 * _STEPS if stage == "finetune" else rows
    well_formed = rows if stage in ("ingest", "generate", "validate") else rows * 7 // 8
    if summary["rows_in"] < well_formed or summary["rows_kept"] < min(rows, most) / 4:
        raise RuntimeError(
            f"{stage} was given {rows} rows, saw {summary['rows_in']} and kept "
            f"{summary['rows_kept']}"
        )


def _input(stage: str, rows: int, folder: Path) -> list[str]:
    """Return the arguments that name the stage's inputs; what is made already is not made again."""
    arguments = []
    for name in _INPUTS[stage]:
        path = folder / f"{name}-{rows}"
        if not path.exists():
            _WRITERS[name](path, rows)
        arguments += [f"--{name}", str(path.resolve())]
    return arguments
