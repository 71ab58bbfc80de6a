"""Runs a stage in a folder of its own, outside the graph, and measures it.

The pipeline's artifacts, journals and locks stay as they are: the folder has a lock of its own.
"""

from __future__ import annotations

import contextlib
import copy
import re
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
from tasks.core.process import peak_memory
from tasks.core.setting_paths import find_paths
from tasks.start.launch import ROOT, Child, Early, start

#: A line of a stage's progress meter: ``32/64 rows``; ingest has the passages so far behind it.
_PROGRESS = re.compile(r" (([\d,]+)/([\d,]+) [a-z]+)(?:.* passages (\d+))?")
#: verify asks its reader tests before the rows: ``0/64 rows ... tests 32/98``.
_TESTS = re.compile(r" tests (([\d,]+)/([\d,]+))")
#: A training says so as its first step begins: the time of one step is known then.
_TRAINING = " training on "
#: Seconds between two lines of progress that a user sees, and between two looks at whether a stage
#: has done enough.
_EVERY, _LOOK = 10.0, 0.5
#: Gets the name of a stage and its progress, such as ``32/64 rows``; empty when it starts.
Tell = Callable[[str, str], None]


@dataclass(frozen=True)
class Measured:
    """What a stage took: wall seconds, and the most memory of its own process, in MB."""

    seconds: float
    peak_mb: float
    #: Its progress: seconds since its start, and rows (or steps) done, with those that test a
    #: reader.
    marks: tuple[tuple[float, int], ...] = ()
    #: Rows (or steps) that it had to do, and rows that test a reader beside them.
    total: int = 0
    tests: int = 0
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
    early: Early | None = None,
) -> Measured:
    """Run ``python -m tasks.<stage>`` on ``folder/params.yaml``, with ``folder/<stage>`` as output.

    ``tell`` gets its start and, every ten seconds, its last progress. ``enough`` gets the
    seconds since its first progress, twice a second; where it says yes the stage is killed, and
    there is no output. ``early`` may have its process, with the libraries loaded: the seconds of
    that count. Raises :class:`PipelineError` with the stage's own error line, or the end of its
    trace; ``kept`` takes the place of the sample's folder in it.
    """
    if tell:
        tell(stage, "")
    arguments = ["--params", "params.yaml", "--out", stage]
    for name, path in inputs.items():
        arguments += [f"--{name}", str(path)]
    child = early.take(stage, arguments) if early else None
    child = child or start(stage, folder, arguments)
    process, meter = child.process, _Meter(child.began)
    lines: list[str] = []
    try:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        with _watching(child, stage, meter, tell, enough):
            for line in process.stdout:
                lines.append(line)
                meter.read(line)
        process.wait()
    finally:
        child.end()
    log = folder / f"{stage}.log"
    write_text(log, "".join(lines))
    if process.returncode and not meter.stopped:
        raise PipelineError(_error(log).replace(str(folder / "sample"), kept or "the sample"))
    stopped = bool(process.returncode)
    return Measured(
        meter.marks[-1][0] if stopped else meter.seconds,
        meter.peak_mb,
        tuple(meter.marks),
        meter.total,
        meter.tests,
        stopped,
    )


@contextlib.contextmanager
def _watching(
    child: Child,
    stage: str,
    meter: _Meter,
    tell: Tell | None,
    enough: Callable[[float], bool] | None,
) -> Iterator[None]:
    """Every ten seconds tell the last progress, and kill a stage that has done enough: the time may
    be over while it prints nothing. Its memory is looked at each time.
    """
    ended = threading.Event()
    meter.peak_mb = peak_memory(child.process.pid)

    def watch() -> None:
        told = time.monotonic()
        while not ended.wait(min(_LOOK, _EVERY)):
            meter.peak_mb = max(meter.peak_mb, peak_memory(child.process.pid))
            if tell and time.monotonic() - told >= _EVERY:
                told = time.monotonic()
                tell(stage, meter.said)
            if enough and meter.marks and enough(meter.seconds - meter.marks[0][0]):
                meter.stopped = True
                child.process.kill()
                break

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@dataclass
class _Meter:
    """Reads the progress among a stage's lines."""

    #: When the stage began (monotonic seconds).
    began: float
    #: The last progress, for a user.
    said: str = "nothing yet"
    marks: list[tuple[float, int]] = field(default_factory=list)
    total: int = 0
    tests: int = 0
    #: Whether it was told to stop; it may have ended before.
    stopped: bool = False
    #: The most memory that it had held at the last look.
    peak_mb: float = 0.0

    @property
    def seconds(self) -> float:
        """How long ago the stage began."""
        return time.monotonic() - self.began

    def read(self, line: str) -> None:
        """Take a line."""
        if _TRAINING in line:
            self.marks.append((self.seconds, 0))
        found = _PROGRESS.search(line)
        if not found:
            return
        done, self.total = (int(found[part].replace(",", "")) for part in (2, 3))
        passages = f", {int(found[4]):,} passages so far" if found[4] else ""
        tests = ""
        if tested := _TESTS.search(line):
            asked, self.tests = (int(tested[part].replace(",", "")) for part in (2, 3))
            done += asked
            tests = f", {tested[1]} tests"
        self.marks.append((self.seconds, done))
        self.said = found[1] + passages + tests


def _error(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("error: ")]
    if ours:
        return ours[-1].removeprefix("error: ")
    return f"{lines[-1] if lines else 'the stage printed nothing'} (see {log})"
