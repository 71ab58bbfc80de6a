"""Starts the processes of a trial's stages, and some of them early: a stage loads its libraries
while another one starts its engine, which leaves one core idle.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.core.process import start_guard
from tasks.start.early import READY

ROOT = Path(__file__).resolve().parents[2]
#: Bytes of memory of a machine on which stages wait beside an engine: each holds some 0.5 GB.
_ROOMY = 6 * 2**30


@dataclass(frozen=True)
class Child:
    """A stage's process, the guard that kills it and what it starts, and when it began (monotonic
    seconds): earlier by the seconds that its libraries took, where they were loaded before.
    """

    process: subprocess.Popen[str]
    guard: subprocess.Popen[str]
    began: float

    def end(self) -> None:
        """Kill what is left."""
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()
        self.guard.communicate()  # its input ends: it kills what is left


def start(stage: str, folder: Path, arguments: Sequence[str]) -> Child:
    """Start ``python -m tasks.<stage>`` in ``folder``."""
    return _start(folder, [f"tasks.{stage}", *arguments])


class Early:
    """Stages that load their libraries one after the other, in the background."""

    def __init__(self, stages: Sequence[str], folder: Path) -> None:
        self._loader = ThreadPoolExecutor(max_workers=1)
        self._begun: dict[str, subprocess.Popen[str]] = {}
        #: Stage -> its process when it waits, and the seconds until it did.
        self._loading: dict[str, Future[tuple[Child, float] | None]] = {
            stage: self._loader.submit(self._load, stage, folder) for stage in stages
        }

    def take(self, stage: str, arguments: Sequence[str]) -> Child | None:
        """Return the stage's process, which works from now on; None where it was not started yet,
        is not one of these, or was taken before.
        """
        loading = self._loading.pop(stage, None)
        if loading is None or loading.cancel() or (loaded := loading.result()) is None:
            return None
        child, seconds = loaded
        assert child.process.stdin is not None  # noqa: S101 - for the type checker
        with contextlib.suppress(BrokenPipeError):  # it has died: its lines say why
            child.process.stdin.write(f"{json.dumps(list(arguments))}\n")
            child.process.stdin.close()
        return replace(child, began=time.monotonic() - seconds)

    def close(self) -> None:
        """End those that nobody took, also one that loads."""
        left = {stage: one for stage, one in self._loading.items() if not one.cancel()}
        for stage, loading in left.items():
            if stage in self._begun:
                self._begun[stage].kill()
            if loaded := loading.result():
                loaded[0].end()
        self._loader.shutdown()

    def _load(self, stage: str, folder: Path) -> tuple[Child, float] | None:
        """Return the stage when it waits for its arguments; None where it ended before."""
        try:
            child = _start(folder, ["tasks.start.early", stage], subprocess.PIPE)
        except OSError:  # no memory for it: the stage starts in its turn
            return None
        self._begun[stage] = child.process
        assert child.process.stdout is not None  # noqa: S101 - for the type checker
        if any(line.startswith(READY) for line in child.process.stdout):
            return child, time.monotonic() - child.began
        child.end()
        return None


@contextlib.contextmanager
def load_early(stages: Sequence[str], folder: Path) -> Iterator[Early]:
    """Yield the stages that are loaded early in ``folder``: none where cores or memory are few."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    roomy = (os.cpu_count() or 1) > 1 and memory >= _ROOMY
    early = Early(stages if roomy else (), folder)
    try:
        yield early
    finally:
        early.close()


def _start(folder: Path, module: Sequence[str], stdin: int | None = None) -> Child:
    began = time.monotonic()
    places = [*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    own = {
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONUNBUFFERED": "1",
        # vLLM leaves a file in the folder of temporary files when it is killed. Its sockets stay
        # outside: the path of one may have a hundred characters.
        "TMPDIR": str(scratch.absolute()),
        "VLLM_RPC_BASE_PATH": os.environ.get("VLLM_RPC_BASE_PATH", tempfile.gettempdir()),
    }
    guard = start_guard()  # a killed plan leaves no engine behind
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        cwd=folder,
        process_group=guard.pid,
        env={**os.environ, **own},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return Child(process, guard, began)
