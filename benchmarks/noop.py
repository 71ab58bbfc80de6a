"""noop: ``dvc repro`` where nothing has changed, in seconds; there is no peer, the target is a
time.
"""

from __future__ import annotations

import resource
import shutil
import sys
import time
from pathlib import Path

import yaml

from benchmarks.commands import call
from benchmarks.harness import PASSED, ROOT, BenchOptions
from benchmarks.inputs import data_folder
from benchmarks.rows import ResultRow

NAMES = ("noop",)
TARGETS = {"seconds": 3.0}


def run(options: BenchOptions) -> list[ResultRow]:
    """Return one row whose ratio is seconds: the real graph in a copy of the repository, each
    stage's work a file that says its name.

    The graph, its dependencies (code, data and models, which DVC looks at) and its parameters are
    this repository's; the stages' commands are not run, as what is timed is finding out that
    nothing is to be done. Gate: DVC ran nothing, and it runs a stage when its input changes.
    """
    folder = options.work / "noop"
    shutil.rmtree(folder, ignore_errors=True)
    _copy(folder)
    _dvc(folder, "repro")  # everything is done once
    _timed(folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = [_timed(folder) for _ in range(options.rounds)]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # On a machine that is busy with other things this is what the time would be without them.
    busy = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / len(seconds)
    row = ResultRow(
        bench=NAMES[0],
        peer="seconds",
        gate=_gate(folder),
        unit="seconds",
        target=TARGETS["seconds"],
        better="less",
        note=f"seconds in the place of a ratio; {busy:.2f} s of processor time each",
        extra={"cpu_seconds": round(busy, 2)},
    )
    if row.gate == PASSED:
        row.set_ratio(seconds)
        row.ours = row.ratio
    return [row]


def _copy(folder: Path) -> None:
    """Copy what the graph names, and put a stand-in for the commands of its stages."""
    data_folder()
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("tasks", "data", "datasets", "models", "reviews", "supervision"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for name, stage in graph["stages"].items():
        stage["cmd"] = f"{sys.executable} write.py {name}"
    named = {Path(dep) for stage in graph["stages"].values() for dep in stage["deps"]}
    files = sorted({path.name for path in named if path.parts[0] == "artifacts" and path.suffix})
    (folder / "dvc.yaml").write_text(yaml.safe_dump(graph), encoding="utf-8")
    (folder / "write.py").write_text(_WRITE.format(files=files), encoding="utf-8")
    _dvc(folder, "init", "--no-scm", "--quiet")


#: Makes every file that a later stage or a metric reads by name.
_WRITE = """
import sys
from pathlib import Path
out = Path("artifacts") / sys.argv[1]
out.mkdir(parents=True, exist_ok=True)
for name in (*{files}, "loss.csv", "f1.csv"):
    (out / name).write_text(sys.argv[1])
(out / "metrics.json").write_text("{{}}")
"""


def _timed(folder: Path) -> float:
    start = time.perf_counter()
    _dvc(folder, "repro")
    return time.perf_counter() - start


def _gate(folder: Path) -> str:
    said = _dvc(folder, "repro")
    if "up to date" not in said:
        return "failed: there was something to do"
    with (folder / "params.yaml").open("a", encoding="utf-8") as params:
        params.write("# a comment changes nothing\n")
    if "up to date" not in _dvc(folder, "repro"):
        return "failed: a comment in params.yaml ran a stage"
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["register"]["experiment"] = "another"
    (folder / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return (
        PASSED
        if "Running stage 'register'" in _dvc(folder, "repro")
        else "failed: a changed parameter ran nothing"
    )


def _dvc(folder: Path, *arguments: str) -> str:
    return call([sys.executable, "-m", "dvc", *arguments], folder)
