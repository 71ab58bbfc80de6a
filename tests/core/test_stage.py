"""What every stage shares: one-line errors, the lock, staged output, and death with the parent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flows.progress import describe
from tasks.core import progress
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.lock import hold_lock
from tasks.core.process import _REAPERS, is_alive, process_mark
from tasks.core.progress import REUSED, Progress
from tasks.core.stage import Stage, is_disk_full, run_stage
from tests.conftest import ROOT


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any) -> Any:
    monkeypatch.chdir(tmp_path)
    make_params()
    (tmp_path / "rows.txt").write_text("x")

    def call(work: Any, *more: str) -> int:
        return run_stage(
            "validate",
            work,
            ("rows",),
            ["--rows", "rows.txt", "--out", "artifacts/validate", *more],
        )

    return call


def test_a_stage_writes_its_folder_and_summary(run: Any, tmp_path: Path) -> None:
    assert run(lambda stage: stage.summary(3, 1, {"too_short": 2, "never": 0})) == 0
    summary = json.loads((tmp_path / "artifacts/validate/summary.json").read_text())
    assert summary == {
        "stage": "validate",
        "rows_in": 3,
        "rows_kept": 1,
        "dropped": {"too_short": 2},
    }


def test_rows_that_do_not_add_up_are_a_bug(run: Any) -> None:
    with pytest.raises(AssertionError, match="rows were lost"):
        run(lambda stage: stage.summary(3, 1))


def test_a_user_error_is_one_line_and_nothing_is_written(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(stage: Stage) -> None:
        (stage.out / "half").write_text("x")
        raise PipelineError("the corpus\nis empty")

    assert run(work) == 2
    assert (
        capsys.readouterr().err.strip().splitlines()[-1] == "error: validate: the corpus is empty"
    )
    assert not (tmp_path / "artifacts/validate").exists()


def test_no_space_is_one_line(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def work(stage: Stage) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "artifacts")

    assert run(work) == 2
    assert "no space left on the device (artifacts): free some" in capsys.readouterr().err


def test_a_disk_that_fails_under_sqlite_is_one_line(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make soak` met it: a full disk has no room for what SQLite maps into memory."""

    def work(stage: Stage) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    assert run(work) == 2
    assert "no space left on the device, or it fails (" in capsys.readouterr().err


def test_the_note_on_memory_is_written_under_the_lock_and_may_fail(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run of the stage, which waits for the lock, sweeps what is half written: it swept
    the note of the run before, which then failed though its output was in its place.
    """
    held: list[bool] = []

    def write(path: Path, value: Any) -> None:
        try:
            with hold_lock(path.with_name("lock"), "x", patience=0.0):
                held.append(False)
        except PipelineError:
            held.append(True)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tasks.core.stage.write_json", write)
    assert run(lambda stage: None) == 0
    assert held == [True] and (tmp_path / "artifacts/validate").is_dir()


def test_bugs_keep_their_trace(run: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda stage: 1 / 0)


def test_a_missing_input_and_a_misspelt_parameter_are_named(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rows.txt").unlink()
    assert run(lambda stage: None) == 2
    assert "--rows rows.txt does not exist" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(
        (tmp_path / "params.yaml").read_text().replace("min_yield", "min_yeild")
    )
    assert run(lambda stage: None) == 2
    assert "unknown key 'validate.min_yeild' (did you mean 'min_yield'?)" in capsys.readouterr().err


def test_the_second_of_two_names_the_holder_within_five_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        hold_lock(tmp_path / "lock", "generate"),
        pytest.raises(PipelineError, match=f'already being run here by .*"pid": {os.getpid()}'),
    ):
        with hold_lock(tmp_path / "lock", "generate", patience=0.3):
            pass
    assert time.monotonic() - started < 5


def test_the_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    code = (
        "import os,pathlib\nfrom tasks.core.lock import hold_lock\nwith "
        f"hold_lock(pathlib.Path({str(tmp_path / 'lock')!r}), 'x'): os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    with hold_lock(tmp_path / "lock", "x", patience=0.3):
        pass


@pytest.mark.parametrize("shell", [True, False])
def test_a_stage_dies_with_what_started_it(tmp_path: Path, shell: bool) -> None:
    """DVC > (shell >) stage: killing DVC must take the stage along, or the orphan overwrites the
    rerun's output.
    """
    stage = (
        f"{sys.executable} -c 'import os,time; from tasks.core.process import "
        "die_with_parent; die_with_parent(); print(os.getpid(), flush=True); time.sleep(60)'"
    )
    # `; true` keeps the shell between the two: alone, it would replace itself by the command.
    command = (
        repr(f"{stage}; true")
        if shell
        else repr(["python", "-c", stage.split(" -c ")[1].strip("'")]).replace(
            "'python'", repr(sys.executable), 1
        )
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({command}, shell={shell})"],
        cwd=ROOT,
        env={**os.environ, "DVC_ROOT": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    pid = parent.stdout.readline().strip()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_a_full_disk_is_told_in_whatever_words_it_comes() -> None:
    for error in (
        OSError(errno.ENOSPC, "x"),
        sqlite3.OperationalError("database or disk is full"),
        # PyTorch's two ways: `make soak` met both.
        RuntimeError(
            "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing "
            "file data/0: file write failed"
        ),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 118080 vs 117972"),
    ):
        assert is_disk_full(error)
    with pytest.raises(ValueError, match="could not save") as caught:
        try:
            raise OSError(errno.EDQUOT, "over quota")
        except OSError as error:
            raise ValueError("could not save") from error
    assert is_disk_full(caught.value)
    assert not is_disk_full(ValueError("no such column")) and not is_disk_full(
        OSError(errno.EACCES, "denied")
    )


def test_a_damaged_input_is_refused_by_name(
    run: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda stage: (stage.out / "x.txt").write_text("right")) == 0
    (tmp_path / "artifacts/validate/x.txt").write_text("wrong")
    arguments = ["--rows", "artifacts/validate", "--out", "artifacts/next"]
    assert run_stage("next", lambda stage: None, ("rows",), arguments) == 2
    assert "artifacts/validate/x.txt is damaged" in capsys.readouterr().err


def test_a_process_is_known_by_its_start_not_its_number_alone() -> None:
    mark = process_mark()
    assert is_alive(mark) and is_alive(mark.partition(":")[0])
    assert not is_alive(f"{os.getpid()}:1"), "the number was given to another process since"
    assert not is_alive("") and not is_alive("x:1")


def test_a_stage_whose_dvc_died_before_it_could_ask_dies(tmp_path: Path) -> None:
    """Its parent is by then whoever takes in orphans."""
    code = (
        "import os, sys, time; pid = os.fork(); sys.exit(0) if pid else time.sleep(0.5); "
        "os.execv(sys.executable, [sys.executable, '-m', 'tasks.nothing'])"
    )
    log = (tmp_path / "log").open("w")
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DVC_ROOT": str(ROOT)},
        stderr=log,
        check=True,
    )
    time.sleep(2)
    if Path(f"/proc/{_adopter()}/comm").read_text().strip() not in _REAPERS and _adopter() != 1:
        pytest.skip("an unknown process takes in orphans here")
    assert "No module named" not in (tmp_path / "log").read_text(), (
        "it went on to look for its module"
    )


def _adopter() -> int:
    """Return who takes in orphans here."""
    code = (
        "import os, sys, time\npid = os.fork()\nif pid: "
        "sys.exit(0)\ntime.sleep(0.3)\nprint(os.getppid(), flush=True)"
    )
    return int(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
    )


@dataclass
class _Clock:
    """The clock of the meters: a busy machine would change the rates."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_a_meter_tells_no_rate_in_its_first_second(tmp_path: Path, clock: _Clock) -> None:
    meter = Progress(tmp_path / "progress.json", "generate", 400, "rows", started=clock.now)
    meter.advance(200)
    first = read_json(meter.path)
    assert (first["done"], first["rate"], first["seconds_left"]) == (200, 0.0, 0)
    assert describe(first) == "200/400 rows"
    clock.now += 10
    meter.advance(100)
    told = read_json(meter.path)
    assert told["rate"] == 30 and "rows/s" in describe(told)


def test_a_first_row_that_waited_for_a_start_foretells_nothing(
    tmp_path: Path, clock: _Clock
) -> None:
    """Ten minutes were announced after the first file of a corpus that took ten seconds."""
    meter = Progress(tmp_path / "progress.json", "ingest", 95, "files", started=clock.now)
    clock.now += 7
    meter.advance(1)
    assert describe(read_json(meter.path)) == "1/95 files"
    meter.advance(13)
    assert read_json(meter.path)["rate"] == 2


def test_rows_of_a_group_that_is_not_finished_are_shown_and_not_counted(
    tmp_path: Path, clock: _Clock
) -> None:
    meter = Progress(tmp_path / "progress.json", "generate", 400, "rows", started=clock.now)
    meter.advance(100)
    clock.now += 10
    meter.foresee(60)
    told = read_json(meter.path)
    assert told["done"] == 160 and told["rate"] == 16
    meter.foresee(30)
    assert read_json(meter.path) == told, "once a second"
    assert meter.done == 100
    meter.advance(100)
    assert read_json(meter.path)["done"] == meter.done == 200
    clock.now += 2
    meter.foresee(200)
    assert read_json(meter.path)["done"] == 200, "the last row is shown only when it is counted"


def test_what_is_counted_beside_the_rows_has_its_name_and_takes_time(
    tmp_path: Path, clock: _Clock
) -> None:
    path = tmp_path / "progress.json"
    meter = Progress(path, "verify", 100, "rows", "tests", 50, started=clock.now)
    clock.now += 10
    meter.advance(0, 20)
    told = read_json(meter.path)
    assert (told["done"], told["total"], told["tests"]) == (0, 100, "20/50")
    assert told["rate"] == 2 and told["seconds_left"] == 65
    assert describe(told) == "0/100 rows · 2.00 rows/s · 65 s left · tests 20/50"
    meter.skip(100, 30)
    meter.advance(0)
    assert read_json(tmp_path / REUSED) == {"reused": 100, "again": 0, "unit": "rows"}


def test_what_was_reused_is_told_over_all_meters_of_a_stage(tmp_path: Path) -> None:
    path, told = tmp_path / "progress.json", tmp_path / REUSED
    first = Progress(path, "verify", 10, "rows")
    first.skip(7)
    assert read_json(told) == {"reused": 7, "again": 0, "unit": "rows"}
    first.advance(3)
    second = Progress(path, "verify", 4, "rows")
    second.skip(4)
    assert read_json(told) == {"reused": 11, "again": 3, "unit": "rows"}


def test_a_lock_that_is_let_go_in_time_is_taken_and_names_the_new_holder(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("x" * 1000)
    held = contextlib.ExitStack()
    held.enter_context(hold_lock(lock, "first"))
    threading.Timer(0.3, held.close).start()
    with hold_lock(lock, "second", patience=20):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


def test_what_a_killed_stage_left_half_written_is_swept(run: Any, tmp_path: Path) -> None:
    partial = tmp_path / ".work/validate/journal/.rows.parquet.123.partial"
    partial.parent.mkdir(parents=True)
    partial.write_text("half")
    assert run(lambda stage: stage.summary(0, 0)) == 0
    assert not partial.exists()


def test_a_stage_that_is_running_is_refused_by_name(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.core.stage.hold_lock", partial(hold_lock, patience=0.0))
    (tmp_path / ".work/validate").mkdir(parents=True)
    with hold_lock(tmp_path / ".work/validate/lock", "another"):
        assert run(lambda stage: stage.summary(0, 0)) == 2
    assert f'by {{"pid": {os.getpid()}' in capsys.readouterr().err


def test_a_process_that_has_ended_is_dead_before_anybody_asks_for_its_status() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 20
    while is_alive(process_mark(ended.pid)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(process_mark(ended.pid))
    ended.wait()


def test_what_is_guarded_ends_with_its_starter() -> None:
    code = (
        "import os, subprocess, time; from tasks.core.process import start_guard; "
        "guard = start_guard(); child = subprocess.Popen(['sleep', '300'], process_group=guard.pid)"
        "; print(child.pid, flush=True); time.sleep(300)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = parent.stdout.readline().strip()
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(pid)
