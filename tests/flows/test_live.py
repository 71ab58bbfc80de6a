"""The live table: what it says of each stage, from the files of a run, and a run in a terminal."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from flows.runs import dvc_repro
from flows.runs.board import StageLine, begin_board, clear_board, mark, read_stages
from flows.runs.dvc_graph import Node
from flows.runs.limits import RunLimits
from flows.runs.live import Messages, draw, is_terminal
from flows.runs.worktree import Run
from tasks.core.files import write_json
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT
from tests.toy import environment, make_toy

_TRAINING = {
    "stage": "finetune",
    "done": 45,
    "total": 70,
    "unit": "steps",
    "rate": 0.16,
    "seconds_left": 159,
    "loss": 0.3761,
}


def shown(stages: list[StageLine], width: int) -> list[str]:
    """Return the lines of the table, without trailing spaces."""
    console = Console(file=io.StringIO(), width=width)
    console.print(draw(stages, width, "starting"))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
def test_a_running_stage_shows_its_figures_at_any_width(width: int) -> None:
    lines = shown([StageLine("finetune", "running", 371.0, _TRAINING)], width)
    assert len(lines) == 2 and max(map(len, lines)) <= width
    cells = lines[1].replace("━", "").replace("╸", "").replace("╺", "").split()
    expected = "finetune running 45/70 steps 0.16/s 6:11 2:39 loss 0.3761"
    assert cells == expected.split()


def test_what_a_model_wrote_cannot_steer_the_terminal_and_stays_within_two_lines() -> None:
    lines = shown([StageLine("generate", "running", news="[red]Why?\x1b[2J\n" + "word " * 99)], 80)
    assert lines[2].startswith("  [red]Why? [2J word") and lines[-1].endswith("…")
    assert "\x1b" not in "".join(lines) and len(lines) <= 5 and max(map(len, lines)) <= 80


def test_a_stage_goes_from_waiting_to_done(tmp_path: Path) -> None:
    def line() -> StageLine:
        return read_stages(tmp_path, time.time(), {"generate": "starting vLLM"})[1]

    progress = tmp_path / ".work" / "generate" / "progress.json"
    progress.parent.mkdir(parents=True)
    write_json(progress, {**_TRAINING, "stage": "generate"})
    os.utime(progress, (1, 1))
    begin_board(tmp_path, ["ingest", "generate"])
    assert (line().status, line().news) == ("waiting", "")
    mark(tmp_path, "generate", "running")
    assert (line().status, line().progress) == ("running", {}), "a killed run's progress was shown"
    assert line().news == "starting vLLM"
    write_json(progress, _TRAINING)
    write_json(progress.with_name("sample.json"), {"context": "It.", "prediction": "Why? So."})
    assert (line().progress["done"], line().news) == (45, "Why? So.")
    (tmp_path / "artifacts" / "generate").mkdir(parents=True)
    write_json(tmp_path / "artifacts/generate/summary.json", {"rows_in": 462, "rows_kept": 369})
    mark(tmp_path, "generate", "ran", 154.0)
    assert line() == StageLine("generate", "done", 154.0, {}, 462, 369)
    mark(tmp_path, "generate", "failed", 3.0, "seed 13 is bad luck")
    assert (line().status, line().news) == ("FAILED", "seed 13 is bad luck")
    clear_board(tmp_path)
    assert read_stages(tmp_path, time.time(), {}) == []


@pytest.mark.parametrize(
    ("variables", "table"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "xterm", "CI": "true"}, False),
    ],
)
def test_lines_where_a_table_cannot_be_drawn(variables: dict[str, str], table: bool) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert is_terminal(Terminal(), variables) is table
    assert not is_terminal(io.StringIO(), variables)


def test_a_stages_last_line_is_kept_unless_the_table_shows_it() -> None:
    messages = Messages("starting")
    for name, text, stage in (
        ("prefect.task_runs", "starting vLLM", {"task_run_name": "generate"}),
        ("prefect.task_runs", "64/462 rows  1.28/s", {"task_run_name": "generate"}),
        ("prefect.flow_runs", "run 'warm' in /x", {}),
        ("httpx", "GET /health", {}),
    ):
        record: Any = logging.LogRecord(name, logging.INFO, "", 0, text, (), None)
        vars(record).update(stage)
        messages.emit(record)
    assert messages.last == {"generate": "starting vLLM", "": "run 'warm' in /x"}


class TerminalRun:
    """``python -m flows.pipeline`` in a pseudo-terminal of 80 columns."""

    def __init__(self, root: Path, *arguments: str, **more: str) -> None:
        master, slave = pty.openpty()
        own = {**environment(root), "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **more}
        plain = {name: value for name, value in own.items() if name not in ("CI", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "flows.pipeline", *arguments],
            cwd=root,
            env=plain,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._parts: list[str] = []
        self._reader = threading.Thread(target=self._read, args=(master,), daemon=True)
        self._reader.start()

    def _read(self, master: int) -> None:
        try:
            while part := os.read(master, 65536):
                self._parts.append(part.decode(errors="replace"))
        except OSError:  # the last process that had the terminal is gone
            os.close(master)

    def text(self) -> str:
        """Return what was printed, without colours and movements of the cursor."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(self._parts)).replace("\r", "")

    def end(self) -> list[str]:
        """Wait for the end, and return the lines."""
        self.process.wait(240)
        self._reader.join(20)
        return self.text().splitlines()


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory, empty_prefect: Path) -> Path:
    root = make_toy(tmp_path_factory.mktemp("live") / "toy")
    shutil.copytree(empty_prefect, root / ".prefect")
    return root


@pytest.mark.timeout(300)
def test_a_terminal_shows_a_table_then_the_log_and_the_error_last(toy: Path) -> None:
    run = TerminalRun(toy, "--set", "generate.seed=13", "--name", "unlucky")
    lines = run.end()
    assert run.process.returncode == 1
    assert lines[-2:] == [
        "log       .work/logs/unlucky.log",
        "error: generate: seed 13 is bad luck: take another",
    ]
    assert any(re.match(r"generate +running ", line) for line in lines)
    assert not [line for line in lines if "| INFO" in line], "the log ran through the table"
    log = (toy / ".work" / "logs" / "unlucky.log").read_text()
    assert re.search(r"\d\d:\d\d:\d\d\.\d+ \| INFO +\| Task run 'ingest' - 3/3 rows", log)


@pytest.mark.timeout(300)
def test_ctrl_c_leaves_the_cursor_visible_and_one_line(toy: Path) -> None:
    run = TerminalRun(toy, "--name", "stopped", TOY_HANG="generate")
    deadline = time.monotonic() + 200
    while "What? That." not in run.text():
        assert time.monotonic() < deadline, run.text()
        time.sleep(0.2)
    os.kill(run.process.pid, signal.SIGINT)
    lines = run.end()
    assert run.process.returncode == 130
    assert lines[-1] == "interrupted: run the same command again to continue"
    raw = "".join(run._parts)
    assert raw.rfind("\x1b[?25h") > raw.rfind("\x1b[?25l"), "the cursor stayed hidden"
    assert "Traceback" not in run.text()


def test_after_a_failure_no_other_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The baseline does not depend on ingest: it ran for minutes after ingest had failed."""
    from flows import adapt

    monkeypatch.setattr(adapt, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(adapt, "reproduce", lambda *_: pytest.fail("a stage was begun"))
    begin_board(tmp_path, ["ingest", "baseline"])
    mark(tmp_path, "ingest", "failed", 1.0, "no corpus")
    state = adapt.run_stage.fn(tmp_path, "baseline", "", None, threading.Event())
    assert state.data["status"] == "not run" and state.message == "not run: ingest failed"


def test_after_the_run_was_stopped_no_other_stage_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect would wait for its end."""
    from flows import adapt

    monkeypatch.setattr(adapt, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(adapt, "reproduce", lambda *_: pytest.fail("a stage was begun"))
    begin_board(tmp_path, ["ingest"])
    stopped = threading.Event()
    stopped.set()
    state = adapt.run_stage.fn(tmp_path, "ingest", "", None, stopped)
    assert state.data["status"] == "not run" and "the run was stopped" in state.message


def test_ctrl_c_while_the_stages_are_submitted_lets_none_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first may have begun: it ran to its end, and Prefect waited for it."""
    from flows import adapt

    given: list[Any] = []

    def submit(*arguments: Any, **_: Any) -> None:
        given.append(arguments)
        if len(given) == 2:
            raise KeyboardInterrupt

    stage = SimpleNamespace(with_options=lambda **_: SimpleNamespace(submit=submit))
    nodes = [Node(name, "", (), (), (), ()) for name in ("ingest", "baseline")]
    monkeypatch.setattr(adapt, "run_stage", stage)
    monkeypatch.setattr(adapt, "read_graph", lambda _: nodes)
    monkeypatch.setattr(adapt, "list_unchanged", lambda *_: frozenset())
    run = Run("mine", tmp_path, tmp_path, read_yaml(ROOT / "params.yaml"))
    with pytest.raises(KeyboardInterrupt):
        adapt._run_graph(run, logging.getLogger())
    (stopped,) = {one for one in given[0] if isinstance(one, threading.Event)}
    assert stopped.is_set()


def test_a_stage_that_was_about_to_start_when_the_run_was_stopped_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knew its process when the running ones were killed: the run waited for its end."""
    from flows import adapt

    stopped = threading.Event()

    def begin(folder: Path, stage: str, log: Any, watch: Any, _: Any) -> Any:
        stopped.set()
        child = f"import time; open({str(tmp_path / 'begun')!r}, 'w'); time.sleep(600)"
        dvc_repro.run_child([sys.executable, "-c", child], folder, log, {}, watch)

    monkeypatch.setattr(adapt, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(adapt, "reproduce", begin)
    monkeypatch.setattr(dvc_repro, "_POLL_SECONDS", 0.1)
    begin_board(tmp_path, ["ingest"])
    monkeypatch.setattr(adapt, "Watcher", lambda *_: SimpleNamespace(poll=lambda: None))
    started = time.monotonic()
    limits = RunLimits.of(read_yaml(ROOT / "params.yaml"), "make run")
    state = adapt.run_stage.fn(tmp_path, "ingest", "", limits, stopped)
    assert time.monotonic() - started < 60 and not dvc_repro._children
    assert state.data["status"] == "failed" and state.message == dvc_repro.STOPPED
