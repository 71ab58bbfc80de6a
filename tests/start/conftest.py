"""A checkout for ``make start``, and texts for a corpus."""

from __future__ import annotations

import contextlib
import importlib
import io
import time
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from scripts import start
from tasks.core.errors import PipelineError
from tasks.start import apart, survey, trial
from tasks.start.apart import Measured, Tell
from tests.conftest import ROOT

ENGLISH = (
    "Pump {n} at the northern works was stopped on day {n} because its bearing ran hot. The crew "
    "replaced the bearing within {n} hours, and the works manager wrote a report about the event "
    "for the owner of the plant, who asked for a second inspection in the following week."
)
GERMAN = (
    "Die Pumpe {n} im nördlichen Werk wurde am Tag {n} angehalten, weil ihr Lager heiß lief. Die "
    "Mannschaft ersetzte das Lager innerhalb von {n} Stunden, und der Leiter schrieb darüber einen "
    "Bericht für den Eigentümer der Anlage, der eine zweite Prüfung in der nächsten Woche verlangte."
)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with parameters, one shipped profile and an English corpus, and nothing asked."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "datasets").mkdir()
    # The result does not depend on the number of workers, and each takes a second to start.
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("ingest:\n", "ingest:\n  workers: 1\n", 1))
    (tmp_path / "profiles/big.yaml").write_text("ingest: {passage_tokens: 300}\n")
    write_texts(tmp_path / "docs here", ENGLISH, 6)
    monkeypatch.setattr(start, "ROOT", tmp_path)
    for name in ("EVALUATION", "MODEL", "SET", "TASK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write_texts(folder: Path, text: str, count: int) -> None:
    """Write ``count`` files of a text; each has its number in place of ``{n}``."""
    folder.mkdir(exist_ok=True)
    for number in range(1, count + 1):
        (folder / f"{text[:3]}{number}.txt").write_text(text.replace("{n}", str(number)))


def begin(monkeypatch: pytest.MonkeyPatch, **asked: Any) -> int:
    """Run ``make start`` with values of the environment."""
    for name, value in asked.items():
        monkeypatch.setenv(name, str(value))
    return start.main()


@pytest.fixture
def ingest_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """``make start`` reads its sample in this process: to start another, as it does in the other
    tests of test_look.py, takes a second and more.
    """
    monkeypatch.setattr(survey, "run_apart", _run_here)


@pytest.fixture
def stages_here(ingest_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """``make plan`` runs all its stages in this process, which has their libraries."""
    monkeypatch.setattr(trial, "run_apart", _run_here)


class _Lines(io.StringIO):
    """What a stage prints, and its progress."""

    def __init__(self) -> None:
        super().__init__()
        self.meter = apart._Meter(time.monotonic())

    def write(self, text: str) -> int:
        self.meter.read(text)
        return super().write(text)


def _run_here(
    stage: str,
    folder: Path,
    inputs: Mapping[str, Path],
    kept: str = "",
    tell: Tell | None = None,
) -> Measured:
    """Do what :func:`tasks.start.apart.run_apart` does, but for the process and its memory."""
    if tell:
        tell(stage, "")
    module, said = importlib.import_module(f"tasks.{stage}.stage"), _Lines()
    arguments = [word for name, path in inputs.items() for word in (f"--{name}", str(path))]
    with contextlib.chdir(folder), redirect_stdout(said), redirect_stderr(said):
        status = module.main(["--params", "params.yaml", "--out", stage, *arguments])
    log = folder / f"{stage}.log"
    log.write_text(said.getvalue())
    if status:
        raise PipelineError(apart._error(log).replace(str(folder / "sample"), kept))
    meter = said.meter
    return Measured(meter.seconds, 200.0, tuple(meter.marks), meter.total)
