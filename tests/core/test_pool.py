"""Jobs in limited processes: each bad one fails alone, results keep their order, nothing outlives
its parent.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tasks.core import clock, pool
from tasks.core.process import is_alive
from tests.conftest import ROOT

LIMITS = pool.Limits(math.inf, 256)
#: Starts a job that never ends and prints its process's number.
_PARENT = """
import math
from tasks.core.pool import Limits, Pool
from tests.core.test_pool import open_worker
with Pool(open_worker, ("w",), 1, Limits(math.inf, 256)) as pool:
    for result in pool.run([("first", "pid"), ("second", "hang")]):
        print(result.value, flush=True)
"""


def open_worker(name: str) -> Callable[[Any], Iterator[Any]]:
    """Return what does the jobs of these tests in a worker; it counts its own."""
    done = 0

    def do(job: Any) -> Iterator[Any]:
        nonlocal done
        done += 1
        if job == "hang":
            time.sleep(600)
        elif job == "spin":
            while True:
                pass
        elif job == "crash":
            os.abort()
        elif job == "exit":
            os.closerange(3, max(_files()) + 1)  # its pipe too, a moment before it ends
            time.sleep(0.3)
            os._exit(3)
        elif job in ("half", "garbage"):
            _write_to_parent(struct.pack("!i", 8) + (b"half" if job == "half" else b"not JSON"))
            time.sleep(600)
        elif job == "nap":
            time.sleep(0.5)
            os.abort()
        elif job in ("drip", "flood"):
            for number in itertools.count():
                time.sleep(0.1 if job == "drip" else 0.0)
                yield number
        elif job == "greedy":
            yield len("x" * (1 << 30))
        elif job == "raise":
            yield "before"
            yield "lost"
            raise ValueError("no such page")
        elif job == "pid":
            yield os.getpid()
        elif job == "count":
            yield done
        elif isinstance(job, float):
            time.sleep(job)
            yield job
        else:
            yield from (f"{name} {part}" for part in job)

    return do


def _files() -> list[int]:
    """Return the open files but the standard ones; a process that has run many tests has many."""
    return [number for number in map(int, os.listdir("/proc/self/fd")) if number > 2]


def _write_to_parent(data: bytes) -> None:
    """Do as a stranger's file might that has taken over its worker."""
    for number in _files():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                os.write(number, data)


def ends(*jobs: Any, workers: int = 1, limits: pool.Limits = LIMITS) -> list[pool.ResultPart]:
    with pool.Pool(open_worker, ("w",), workers, limits) as crew:
        return [result for _, result in crew.map(jobs)]


def test_parts_come_one_by_one_and_the_last_ends_the_job() -> None:
    with pool.Pool(open_worker, ("w",), 2, LIMITS) as crew:
        results = list(crew.run([("one", "abc"), ("none", ""), ("two", "d")]))
    assert [(r.value, r.done) for r in results if r.key == "one"] == [
        ("w a", False),
        ("w b", False),
        ("w c", True),
    ]
    assert [(r.value, r.done) for r in results if r.key == "none"] == [(None, True)]
    assert [(r.value, r.done) for r in results if r.key == "two"] == [("w d", True)]


@pytest.mark.parametrize(
    ("job", "failure", "detail"),
    [
        ("crash", "crashed", "SIGABRT"),
        ("exit", "crashed", "status 3"),
        ("greedy", "memory", "more than 256 MiB"),
        ("garbage", "crashed", "SIGKILL"),
        ("raise", "error", "ValueError: no such page"),
    ],
)
def test_a_bad_job_fails_alone(job: str, failure: str, detail: str) -> None:
    first, bad, last = ends("a", job, "b")
    assert (bad.failure, bad.detail, bad.value) == (failure, detail, None)
    assert [(r.value, r.failure) for r in (first, last)] == [("w a", ""), ("w b", "")]


@pytest.mark.parametrize("job", ["hang", "spin", "half"])
def test_a_job_that_takes_too_long_fails_alone(monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    monkeypatch.setattr(clock, "_RESTARTS", 1)
    first, bad, last = ends("a", job, "b", limits=pool.Limits(0.5, 256))
    assert (bad.failure, bad.detail) == ("timeout", "more than 0.5 s")
    assert [first.value, last.value] == ["w a", "w b"]


@pytest.mark.parametrize("job", ["drip", "flood"])
def test_a_job_whose_parts_take_too_long_together_fails_alone(
    monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    monkeypatch.setattr(clock, "_RESTARTS", 1)
    first, bad, last = ends("a", job, "b", limits=pool.Limits(60.0, 256, 0.5))
    assert (bad.failure, bad.detail) == ("total", "more than 0.5 s in all")
    assert [first.value, last.value] == ["w a", "w b"]


def test_a_job_that_is_given_again_has_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each time it ends its process after half a second; the start of a process is not counted."""
    monkeypatch.setattr(clock, "_RESTARTS", 0)
    failures: list[str] = []

    def again() -> Iterator[tuple[str, str]]:
        while failures[-1:] != ["total"] and len(failures) < 9:
            yield "key", "nap"

    with pool.Pool(open_worker, ("w",), 1, pool.Limits(60.0, 256, 1.2)) as crew:
        for result in crew.run(again()):
            failures.append(result.failure)
        assert failures[-1] == "total" and {*failures[:-1]} <= {"crashed"} and len(failures) <= 3
        ((_, result),) = crew.map(["a"])
    assert result.value == "w a"


def test_a_worker_keeps_its_state_until_it_has_done_many_jobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "_JOBS_A_WORKER", 2)
    assert [result.value for result in ends(*["count"] * 5)] == [1, 2, 1, 2, 1]


def test_results_keep_the_jobs_order_and_few_jobs_are_taken_ahead() -> None:
    taken: list[float] = []

    def jobs() -> Iterator[float]:
        for number in range(12):
            taken.append(number)
            yield 0.0 if number else 2.0  # the first is the slowest

    with pool.Pool(open_worker, ("w",), 2, LIMITS) as crew:
        pairs = crew.map(jobs())
        job, result = next(pairs)
        assert (job, result.value) == (2.0, 2.0) and len(taken) <= 7
        assert [result.value for _, result in pairs] == [0.0] * 11


def test_a_run_that_is_left_leaves_no_job_behind() -> None:
    with pool.Pool(open_worker, ("w",), 2, LIMITS) as crew:
        runs = crew.run([("quick", "a"), ("slow", 60.0), ("more", "b")])
        assert next(runs).value == "w a"
        runs.close()  # type: ignore[attr-defined]
        assert [result.value for _, result in crew.map(["c", "d"])] == ["w c", "w d"]


def test_an_idle_worker_that_is_killed_costs_one_job_at_most() -> None:
    with pool.Pool(open_worker, ("w",), 1, LIMITS) as crew:
        ((_, result),) = crew.map(["pid"])
        os.kill(result.value, 9)
        lost, after = (result for _, result in crew.map(["a", "b"]))
    assert lost.failure == "crashed" and lost.detail == "SIGKILL"
    assert after.value == "w b"


@pytest.mark.timeout(90)
def test_a_large_job_for_a_worker_that_does_not_read_it_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is more than a pipe holds: the parent waited for ever, for this file and for the rest."""
    monkeypatch.setattr(clock, "_RESTARTS", 1)
    with pool.Pool(open_worker, ("w",), 1, pool.Limits(0.5, 256)) as crew:
        ((_, result),) = crew.map(["pid"])
        os.kill(result.value, signal.SIGSTOP)
        lost, after = (result for _, result in crew.map([["x" * (1 << 21)], "a"]))
    assert (lost.failure, lost.detail) == ("timeout", "more than 0.5 s")
    assert after.value == "w a"


def test_a_large_job_arrives_whole() -> None:
    size = 1 << 22
    (result,) = ends(["x" * size])
    assert result.value == f"w {'x' * size}"


@pytest.mark.timeout(60)
def test_a_worker_that_dies_as_it_starts_costs_one_job() -> None:
    """Its setup is more than a pipe holds: the parent waited for ever."""

    def kill_first() -> None:
        while not (children := _spawned()):
            time.sleep(0.005)
        children[0].kill()

    threading.Thread(target=kill_first, daemon=True).start()
    with pool.Pool(open_worker, ("x" * (1 << 20),), 1, LIMITS) as crew:
        lost, after = (result for _, result in crew.map(["a", "count"]))
    assert (lost.failure, lost.detail) == ("crashed", "SIGKILL")
    assert after.value == 1


def _spawned() -> list[psutil.Process]:
    """Return the processes of this one's pools."""
    children = psutil.Process().children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_workers_die_with_their_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", _PARENT], cwd=ROOT, stdout=-1, text=True) as run:
        assert run.stdout
        worker = run.stdout.readline().strip()
        assert is_alive(worker)
        run.kill()
    limit = time.monotonic() + 20
    while is_alive(worker) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not is_alive(worker)


def test_a_limit_that_the_user_has_set_stays() -> None:
    """Only root may raise it: each process ended as it started, and each file was a reject."""
    code = (
        "from resource import RLIMIT_AS, getrlimit, setrlimit; setrlimit(RLIMIT_AS, (1 << 40,) * 2)\n"
        "from tasks.core.pool_process import _limit_memory; _limit_memory(1 << 21)\n"
        "print(getrlimit(RLIMIT_AS) == (1 << 40,) * 2)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
