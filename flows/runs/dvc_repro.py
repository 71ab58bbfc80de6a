"""Run one stage with ``dvc repro --single-item`` as a child process; report its outcome."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from flows.runs.die_with_parent import start
from flows.runs.registration import REGISTER, find_lost
from flows.runs.unsettled import INGEST, explain_unsettled
from tasks.core.errors import PipelineError
from tasks.core.log_lines import BARE
from tasks.core.store import verify

Status = Literal["ran", "unchanged", "restored", "failed", "stopped", "not run"]

#: DVC's messages when it skips a stage. ``restored``: an earlier run, here or in another worktree,
#: did the same work.
_SKIPS: dict[str, Status] = {
    "didn't change, skipping": "unchanged",
    "is cached - skipping run": "restored",
}
_DVC_ERROR = re.compile(r"^ERROR: (.*)")
_EXIT = re.compile(r"failed to run: .*, exited with (-?\d+)$")
#: Advice for people who type ``dvc repro`` themselves; and a file of verdicts is empty until there
#: is one, which is no reason to warn.
_ADVICE = re.compile(
    r"\s*(To track the changes with git|git add |To enable auto staging|dvc config "
    r"core.autostage|Use `dvc push`|\w+ing lock file |WARNING: '.*' is empty\.$)"
)
_POLL_SECONDS = 1.0
STOPPED = "stopped: run the same command again to continue"
_children: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True)
class StageOutcome:
    """How a stage ended. ``error`` is the line that matters, empty unless it failed or a limit of
    the run stopped it.
    """

    stage: str
    status: Status
    seconds: float
    error: str = ""


def reproduce(
    checkout: Path,
    stage: str,
    log: Callable[[str], None],
    watch: Callable[[], None],
    environment: dict[str, str] | None = None,
) -> StageOutcome:
    """Run ``stage`` in ``checkout``; each printed line goes to ``log``, ``watch`` is called every
    second.

    Where DVC has register's output and MLflow lost what it names, register runs all the same; so
    does ingest where files that it could not read may be read now.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
    outcome = _reproduce(command, checkout, stage, log, watch, environment or {})
    reason = ""
    if outcome.status in _SKIPS.values():
        reason = _find_reason(stage, checkout, log)
    if not reason:
        return outcome
    log(f"{stage} runs again: {reason}")
    return _reproduce([*command, "--force"], checkout, stage, log, watch, environment or {})


def _find_reason(stage: str, checkout: Path, log: Callable[[str], None]) -> str:
    """Return why a stage runs that DVC has nothing to do for; empty where there is no reason."""
    if stage == REGISTER:
        return find_lost(checkout, lambda line: log(f"warning: {line}"))
    return explain_unsettled(checkout) if stage == INGEST else ""


def _reproduce(
    command: list[str],
    checkout: Path,
    stage: str,
    log: Callable[[str], None],
    watch: Callable[[], None],
    environment: dict[str, str],
) -> StageOutcome:
    started = time.monotonic()
    lines, code = run_child(command, checkout, log, environment, watch)
    seconds = time.monotonic() - started
    if code:
        return StageOutcome(
            stage, "failed", seconds, line_that_matters(lines, code).removeprefix(f"{stage}: ")
        )
    status = _status(stage, lines)
    if status == "restored" and (damage := _damage(checkout / "artifacts" / stage)):
        return StageOutcome(stage, "failed", seconds, damage)
    return StageOutcome(stage, status, seconds)


def _damage(output: Path) -> str:
    """Return the fault of an output from DVC's cache, or "": DVC does not check it."""
    try:
        verify(output)
    except PipelineError as error:
        return str(error)
    return ""


def run_child(
    command: list[str],
    folder: Path,
    log: Callable[[str], None],
    environment: dict[str, str],
    watch: Callable[[], None] = lambda: None,
) -> tuple[list[str], int]:
    """Run ``command`` in ``folder`` as a child that dies with this thread; log its lines and return
    them with its exit status.
    """
    lines: list[str] = []
    child = start(
        command,
        folder,
        stage_environment(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    )
    _children.add(child)
    try:
        assert child.stdout is not None  # noqa: S101 - for the type checker
        for line in _lines(child.stdout, watch):
            lines.append(line)
            if not _ADVICE.match(line):
                log(line)
        code = child.wait()
        watch()  # shows the end
    finally:
        child.kill()
        child.wait()
        _children.discard(child)
    return lines, code


class StoppedError(Exception):
    """The run was stopped before this stage began."""


def unless_stopped(stopped: threading.Event, watch: Callable[[], None]) -> Callable[[], None]:
    """Return ``watch``, which raises :class:`StoppedError` once the run is ``stopped``.

    :func:`stop_children` ends the stage that is there. One that a thread was about to start when
    the run was stopped would otherwise begin, and the run wait for its end.
    """

    def watch_both() -> None:
        if stopped.is_set():
            raise StoppedError(STOPPED)
        watch()

    return watch_both


def stop_children() -> None:
    """Kill the running stage from another thread; :func:`reproduce` then returns at once.

    Finished work is kept.
    """
    for child in list(_children):
        child.kill()


def stage_environment(more: dict[str, str]) -> dict[str, str]:
    """Return this environment with the flow's interpreter first on PATH, as ``dvc.yaml`` runs
    ``python``.
    """
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        **more,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
        BARE: "1",  # Prefect stamps every line with the time and the stage
    }


def line_that_matters(lines: list[str], code: int) -> str:
    """Return the stage's ``error:`` line; else the end of its trace, or DVC's error if none ran."""
    ours = [line for line in lines if line.startswith("error: ")]
    if ours:
        return ours[-1].removeprefix("error: ")
    if code < 0:
        return STOPPED
    for position, line in enumerate(lines):
        refusal = _DVC_ERROR.match(line)
        if refusal is None:
            continue
        exited = _EXIT.search(line)
        if exited is None:
            return refusal[1]
        if int(exited[1]) < 0 or int(exited[1]) > 128:
            number = abs(int(exited[1])) % 128
            # So the kernel ends a process where the machine has no memory left.
            why = " (often: too little memory)" if number == signal.SIGKILL else ""
            return f"killed by signal {number}{why}, {STOPPED}"
        return lines[position - 1] if position else refusal[1]
    return lines[-1] if lines else f"dvc repro exited with {code} and printed nothing"


def _status(stage: str, lines: list[str]) -> Status:
    for line in lines:
        for words, status in _SKIPS.items():
            if f"'{stage}' {words}" in line:
                return status
    return "ran"


def _lines(stream: IO[str], watch: Callable[[], None]) -> Iterator[str]:
    """Yield the non-empty lines of ``stream`` as they arrive, calling ``watch`` every second."""
    arrived: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(stream, arrived), daemon=True, name="stage-output").start()
    watched = 0.0
    while True:
        if time.monotonic() - watched >= _POLL_SECONDS:
            watch()
            watched = time.monotonic()
        try:
            line = arrived.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if line is None:
            return
        if line.strip():
            yield line.rstrip()


def _read(stream: IO[str], arrived: queue.Queue[str | None]) -> None:
    for line in stream:
        arrived.put(line)
    arrived.put(None)
