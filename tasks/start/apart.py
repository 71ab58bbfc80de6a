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
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.core.lock import hold_lock
from tasks.core.process import start_guard
from tasks.core.setting_paths import find_paths

ROOT = Path(__file__).resolve().parents[2]
#: A line of a stage's progress meter: ``32/64 rows``; ingest has the passages so far behind it.
_PROGRESS = re.compile(r" (([\d,]+)/([\d,]+) [a-z]+)(?:.* passages (\d+))?")
#: verify asks its reader tests before the rows: ``0/64 rows ... tests 32/98``.
_TESTS = re.compile(r" tests ([\d,]+/[\d,]+)")
#: Seconds between two lines of progress that a user sees.
_EVERY = 10.0
#: Gets the name of a stage and its progress, such as ``32/64 rows``; empty when it starts.
Tell = Callable[[str, str], None]


@dataclass(frozen=True)
class Measured:
    """What a stage took: wall seconds, and the most memory of one of its processes, in MB."""

    seconds: float
    peak_mb: float
    #: Its progress: seconds since its start, and rows (or steps) done.
    marks: tuple[tuple[float, int], ...] = ()
    #: Rows (or steps) that it had to do.
    total: int = 0
    #: Whether it was stopped before its end; the seconds are then those to its last mark.
    stopped: bool = False


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


def run_apart(
    stage: str,
    folder: Path,
    inputs: Mapping[str, Path],
    kept: str = "",
    tell: Tell | None = None,
    enough: Callable[[float], bool] | None = None,
) -> Measured:
    """Run ``python -m tasks.<stage>`` on ``folder/params.yaml``, with ``folder/<stage>`` as output.

    ``tell`` gets its start and, every ten seconds, its last progress. ``enough`` gets the
    seconds since its first progress, as often and at each line that it prints; where it says yes
    the stage is killed, and there is no output. Raises :class:`PipelineError` with the stage's own
    error line, or the end of its trace; ``kept`` takes the place of the sample's folder in it.
    """
    if tell:
        tell(stage, "")
    command = [sys.executable, "-m", f"tasks.{stage}", "--params", "params.yaml", "--out", stage]
    for name, path in inputs.items():
        command += [f"--{name}", str(path)]
    places = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    lines: list[str] = []
    meter = _Meter(enough)
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
        with _watching(child, stage, meter, tell):
            for line in child.stdout:
                lines.append(line)
                if meter.read(line):
                    child.kill()
                    break
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if child.returncode is None:
            child.kill()
            child.wait()
        guard.communicate()  # its input ends: it kills what is left
    log = folder / f"{stage}.log"
    write_text(log, "".join(lines))
    if child.returncode and not meter.stopped:
        raise PipelineError(_error(log).replace(str(folder / "sample"), kept or "the sample"))
    return Measured(
        meter.marks[-1][0] if meter.stopped else meter.seconds,
        # Kilobytes on Linux, bytes on macOS.
        usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10),
        tuple(meter.marks),
        meter.total,
        meter.stopped,
    )


@contextlib.contextmanager
def _watching(
    child: subprocess.Popen[str], stage: str, meter: _Meter, tell: Tell | None
) -> Iterator[None]:
    """Every ten seconds tell the last progress, and kill a stage that has done enough: it prints
    nothing for long while an engine loads its weights, or writes the rows of a shard.
    """
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(_EVERY):
            if tell:
                tell(stage, meter.said)
            if meter.is_enough():
                child.kill()

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass
class _Meter:
    """Reads the progress among a stage's lines."""

    enough: Callable[[float], bool] | None
    started: float = field(default_factory=time.monotonic)
    #: The last progress, for a user.
    said: str = "nothing yet"
    marks: list[tuple[float, int]] = field(default_factory=list)
    total: int = 0
    stopped: bool = False

    @property
    def seconds(self) -> float:
        """How long ago the stage was started."""
        return time.monotonic() - self.started

    def read(self, line: str) -> bool:
        """Take a line; tell whether to stop."""
        if found := _PROGRESS.search(line):
            done, self.total = (int(found[part].replace(",", "")) for part in (2, 3))
            self.marks.append((self.seconds, done))
            passages = f", {int(found[4]):,} passages so far" if found[4] else ""
            tests = f", {tested[1]} tests" if (tested := _TESTS.search(line)) else ""
            self.said = found[1] + passages + tests
        return self.is_enough()

    def is_enough(self) -> bool:
        """Tell whether to stop; once said it holds."""
        if self.enough and self.marks and not self.stopped:
            self.stopped = self.enough(self.seconds - self.marks[0][0])
        return self.stopped


def _error(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    if ours:
        return ours[-1].removeprefix("error: ")
    return f"{lines[-1] if lines else 'the stage printed nothing'} (see {log})"
