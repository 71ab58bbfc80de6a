"""The race: contenders in their own processes, on the same threads, with interleaved rounds.

Contenders are measured side by side, so that other load on the machine slows all of them. The order
rotates by one with each round. A waiting contender uses no CPU: its OpenMP threads sleep and it
blocks on a pipe.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.privacy import SILENT
from tasks.lm.models import EMBEDDED

ROOT = Path(__file__).resolve().parents[1]
PASSED = "passed"


@dataclass(frozen=True)
class BenchOptions:
    """How to measure.

    ``quick``: a tiny model and few rows, to test that everything runs; its figures mean nothing.
    """

    rounds: int = 5
    quick: bool = False
    model: str = EMBEDDED
    #: OpenMP threads of every contender.
    threads: int = 2
    #: The peers' environment, logs and outputs of the contenders.
    work: Path = ROOT / ".work" / "bench"
    #: False, in tests: peers that must be installed first are ``not run``.
    install: bool = True
    #: Also what takes an hour: a million rows.
    whole: bool = False


@dataclass(frozen=True)
class Contender:
    """A module that calls :func:`benchmarks.worker.serve`, its configuration and interpreter.

    ``missing`` says why it cannot run (its packages cannot be installed); then it is not started.
    """

    name: str
    module: str
    config: dict[str, Any]
    python: str = sys.executable
    missing: str = ""


@dataclass
class ContenderResult:
    """The measurements of one contender.

    ``load`` counts from the start of its process, with imports; the first round is the warm-up and
    not in ``seconds``.
    """

    name: str
    failure: str = ""
    load: float = 0.0
    warm_up: float = 0.0
    seconds: list[float] = field(default_factory=list)
    units: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    gpu_peak_bytes: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    outputs: Path | None = None

    @property
    def speeds(self) -> list[float]:
        """Units a second, a round."""
        return [units / seconds for units, seconds in zip(self.units, self.seconds, strict=True)]

    @property
    def end_to_end(self) -> float:
        """Seconds from the start to the end of the first measured round: load, warm-up, round."""
        return self.load + self.warm_up + self.seconds[0]

    def read(self) -> Any:
        """Return what the last round wrote for the gate."""
        if self.outputs is None or not self.outputs.is_file():
            raise ValueError(f"{self.name} wrote no outputs")
        return json.loads(self.outputs.read_text(encoding="utf-8"))


def race(
    contenders: Sequence[Contender], options: BenchOptions, folder: Path
) -> dict[str, ContenderResult]:
    """Run the contenders against each other and return their results by name.

    One that fails is out; the others continue.
    """
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = {
        one.name: ContenderResult(one.name, one.missing, outputs=folder / f"{one.name}.json")
        for one in contenders
    }
    with ExitStack() as stack:
        running = []
        for one in contenders:
            if not one.missing:
                worker = stack.enter_context(
                    _ContenderProcess(one, outcomes[one.name], options.threads, folder)
                )
                if worker.load():
                    running.append(worker)
        for worker in running:
            worker.round(warm_up=True)
        for number in range(options.rounds):
            turn = number % max(len(running), 1)
            for worker in running[turn:] + running[:turn]:
                worker.round()
    return outcomes


class WorkerError(Exception):
    """A contender died, hung or raised."""


class _ContenderProcess:
    """A contender's process and its pipes; stderr goes to a log beside its outputs."""

    #: A round or a load that takes longer counts as hanging.
    MOST_SECONDS = 3600.0

    def __init__(
        self, contender: Contender, outcome: ContenderResult, threads: int, folder: Path
    ) -> None:
        self.contender, self.outcome, self.log = (
            contender,
            outcome,
            folder / f"{contender.name}.log",
        )
        self._environment = environment(threads)

    def __enter__(self) -> _ContenderProcess:
        self._started = time.perf_counter()
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [self.contender.python, "-m", self.contender.module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env=self._environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(json.dumps({"do": "close"}) + "\n", timeout=60)
        except (subprocess.TimeoutExpired, BrokenPipeError, ValueError):
            self._process.kill()
            self._process.wait()

    def load(self) -> bool:
        """Load; tell whether it worked."""
        outputs = str(self.outcome.outputs.resolve()) if self.outcome.outputs else ""
        answer = self._ask({**self.contender.config, "do": "load", "outputs": outputs})
        self.outcome.load = time.perf_counter() - self._started
        return answer is not None

    def round(self, warm_up: bool = False) -> None:
        """Run a round, unless the contender has failed before."""
        if self.outcome.failure or (answer := self._ask({"do": "round"})) is None:
            return
        self.outcome.peak_bytes, self.outcome.gpu_peak_bytes = (
            answer["peak_bytes"],
            answer["gpu_peak_bytes"],
        )
        self.outcome.facts = answer["facts"]
        if warm_up:
            self.outcome.warm_up = answer["seconds"]
        else:
            self.outcome.seconds.append(answer["seconds"])
            self.outcome.units.append(answer["units"])

    def _ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        try:
            return self._answer(message)
        except WorkerError as error:
            self.outcome.failure = str(error)
            return None

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        questions, answers = self._process.stdin, self._process.stdout
        assert questions is not None  # noqa: S101 - for the type checker
        assert answers is not None  # noqa: S101
        try:
            questions.write(json.dumps(message) + "\n")
            questions.flush()
        except BrokenPipeError:
            raise WorkerError(self._last_words()) from None
        # One answer for each message: the text buffer is empty when select polls the pipe.
        if not select.select([answers], [], [], self.MOST_SECONDS)[0]:
            raise WorkerError(f"no answer within {self.MOST_SECONDS:.0f} s")
        line = answers.readline()
        if not line:
            raise WorkerError(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        return f"it ended with status {status}: {last_line(self.log) or 'it said nothing'}"


def last_line(log: Path) -> str:
    """Return the last line of a log, at most 200 characters; empty where it has none."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")


def environment(number: int) -> dict[str, str]:
    """Return the environment of measured processes with ``number`` OpenMP threads: silent, offline,
    this checkout on the path.
    """
    counts = {
        name: str(number)
        for name in (
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "RAYON_NUM_THREADS",
        )
    }
    # Settings of libgomp and Intel: waiting threads sleep.
    passive = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    return {
        **os.environ,
        **SILENT,
        **counts,
        **passive,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
