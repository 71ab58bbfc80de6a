"""grow: the run after 1 of 100 documents changed, as a share of the full run's wall time; there is
no peer, the target is a share.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import PASSED, ROOT, BenchOptions
from benchmarks.rows import ResultRow
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.privacy import SILENT

NAMES = ("grow",)
TARGETS = {"share": 0.15}
_DOCUMENTS = 100
_RUN = "grow"


def run(options: BenchOptions) -> list[ResultRow]:
    """Return one row whose ratio is the share: the embedded default over 100 of the shipped
    documents in a clone with caches of its own, then again after one of them got another sentence,
    with ``finetune.start=champion``.

    One round, whatever is asked for: it is two runs of the pipeline. The first run's version is
    made the champion by hand, as what is timed is the way of the second, not who wins. Gate: the
    second run generated at most 3 % of the rows again, and training continued from the champion.
    """
    if options.quick:
        return [_row(options, "not run: it needs the embedded models")]
    folder = options.work / "grow"
    shutil.rmtree(folder, ignore_errors=True)
    checkout, corpus = _clone(folder), _write_corpus(folder / "corpus")
    full = _timed(checkout, f"ingest.corpus={corpus}")
    registered = _read(checkout, "register/registration.json")
    _make_champion(folder, registered["model_name"], registered["version"])
    changed = sorted(corpus.iterdir())[0]
    changed.write_text(
        changed.read_text(encoding="utf-8") + "\nOn 3 May the inspector came again.\n",
        encoding="utf-8",
    )
    again = _timed(checkout, f"ingest.corpus={corpus}", "finetune.start=champion")
    row = _row(options, _gate(checkout))
    row.extra = {"full_seconds": round(full, 1), "again_seconds": round(again, 1)}
    if row.gate == PASSED:
        row.ours, row.theirs = round(again, 1), round(full, 1)
        row.ratio = row.low = row.high = round(again / full, 3)
    return [row]


def _row(options: BenchOptions, gate: str) -> ResultRow:
    target = TARGETS["share"]
    row = ResultRow(
        "grow", "share", None, None, None, gate, options.machine, target, "less", "seconds"
    )
    row.rounds, row.command = 1, "python -m benchmarks --only grow"
    row.note = "the run after 1 of 100 documents changed over the full run"
    return row


def _clone(folder: Path) -> Path:
    """Clone this repository's commit, with the shipped data."""
    folder.mkdir(parents=True)
    checkout = folder / "checkout"
    _call(["git", "clone", "--quiet", str(ROOT), str(checkout)], folder)
    _call([sys.executable, "-m", "dvc", "pull", "--quiet", "data.dvc"], checkout)
    return checkout


def _write_corpus(corpus: Path) -> Path:
    """Copy 100 of the shipped documents, those of the incidents first."""
    corpus.mkdir()
    data = ROOT / "data"
    if not data.is_dir():
        raise PipelineError(f"{data} is missing: make data")
    domains = ("incidents", "contracts", "privacy")
    files = [file for name in domains for file in sorted((data / name / "documents").iterdir())]
    if len(files) < _DOCUMENTS:
        raise PipelineError(f"{data} holds {len(files)} documents, not {_DOCUMENTS}: make data")
    for number, file in enumerate(files[:_DOCUMENTS]):
        shutil.copy(file, corpus / f"{number:03}-{file.name}")
    return corpus


def _timed(checkout: Path, *settings: str) -> float:
    """Return the seconds of a run of the name ``grow``, from the start of its process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "flows.pipeline", "--name", _RUN, "--set", *settings]
    _call(command, checkout)
    return time.perf_counter() - start


def _read(checkout: Path, name: str) -> dict[str, str]:
    return dict(read_json(checkout / ".runs" / _RUN / "artifacts" / name))


def _make_champion(folder: Path, name: str, version: str) -> None:
    code = (
        "import sys; from tasks.tracking.mlflow_store import connect; "
        "connect().set_registered_model_alias(sys.argv[1], 'champion', sys.argv[2])"
    )
    _call([sys.executable, "-c", code, name, version], folder / "checkout")


def _gate(checkout: Path) -> str:
    told = read_json(checkout / ".runs" / _RUN / ".work/generate/reused.json")
    share = told["again"] / max(1, told["again"] + told["reused"])
    if share > 0.03:
        return f"failed: {share:.1%} of the rows were generated again"
    summary = read_json(checkout / ".runs" / _RUN / "artifacts/finetune/summary.json")
    champion = summary.get("champion", {"continues": False, "reason": "there was no champion"})
    return PASSED if champion["continues"] else f"failed: {champion['reason']}"


def _call(command: list[str], folder: Path) -> None:
    own = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(
        command, cwd=folder, env={**kept, **SILENT}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip()[-300:]
        raise PipelineError(f"grow: {' '.join(command[1:4])} failed: {last}")
