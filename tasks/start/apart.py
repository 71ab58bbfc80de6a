"""Runs a stage in a folder of its own, outside the graph, and measures it.

The pipeline's artifacts, journals and locks stay as they are: the folder has a lock of its own.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.core.lock import hold_lock
from tasks.core.process import start_guard
from tasks.core.setting_paths import find_paths

ROOT = Path(__file__).resolve().parents[2]
#: A line of a stage's progress meter: ``32/64 rows``.
_PROGRESS = re.compile(r" ([\d,]+)/([\d,]+) [a-z]+")


@dataclass(frozen=True)
class Measured:
    """What a stage took: wall seconds, and the most memory of one of its processes, in MB."""

    seconds: float
    peak_mb: float
    #: Its progress: seconds since its start, and rows (or steps) done.
    marks: tuple[tuple[float, int], ...] = ()
    #: Rows (or steps) that it had to do.
    total: int = 0


@contextlib.contextmanager
def hold_folder(folder: Path, command: str) -> Iterator[None]:
    """Hold ``folder`` for ``command``, also while it is emptied: the lock is the file beside it.

    Where another process holds it, :class:`~tasks.core.lock.LockedError` names that at once.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder.with_name(f"{folder.name}.lock"), command, patience=0.0):
        yield


def write_params(values: Mapping[str, Any], folder: Path) -> Path:
    """Write ``params.yaml`` into ``folder``, with the checkout's paths absolute; return it."""
    params = copy.deepcopy(dict(values))
    for section, key in find_paths(params):
        value = section[key]
        if not Path(value).is_absolute() and (ROOT / value).exists():
            section[key] = str(ROOT / value)
    path = folder / "params.yaml"
    write_text(path, yaml.safe_dump(params, sort_keys=False, allow_unicode=True))
    return path


def run_apart(stage: str, folder: Path, inputs: Mapping[str, Path], kept: str = "") -> Measured:
    """Run ``python -m tasks.<stage>`` on ``folder/params.yaml``, with ``folder/<stage>`` as output.

    Raises :class:`PipelineError` with the stage's own error line, or the end of its trace. ``kept``
    takes the place of the sample's folder in it.
    """
    command = [sys.executable, "-m", f"tasks.{stage}", "--params", "params.yaml", "--out", stage]
    for name, path in inputs.items():
        command += [f"--{name}", str(path)]
    places = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    started = time.monotonic()
    lines: list[tuple[float, str]] = []
    guard = start_guard()  # a killed plan leaves no engine behind
    child = subprocess.Popen(
        command,
        cwd=folder,
        process_group=guard.pid,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    try:
        assert child.stdout is not None  # noqa: S101 - for the type checker
        lines += ((time.monotonic() - started, line) for line in child.stdout)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if child.returncode is None:
            child.kill()
            child.wait()
        guard.communicate()  # its input ends: it kills what is left
    log = folder / f"{stage}.log"
    write_text(log, "".join(line for _, line in lines))
    if child.returncode:
        raise PipelineError(_error(log).replace(str(folder / "sample"), kept or "the sample"))
    steps = [(second, found) for second, line in lines if (found := _PROGRESS.search(line))]
    return Measured(
        time.monotonic() - started,
        # Kilobytes on Linux, bytes on macOS.
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
        tuple((second, int(found[1].replace(",", ""))) for second, found in steps),
        int(steps[-1][1][2].replace(",", "")) if steps else 0,
    )


def _error(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    if ours:
        return ours[-1].removeprefix("error: ")
    return f"{lines[-1] if lines else 'the stage printed nothing'} (see {log})"
