"""Whole runs of the flow, started as people start them: cancelled in the page, killed, given a
damaged cache. A toy graph, the real doors.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.ports import find_port
from tests.faults.servers import lend_prefect, new_work, read_states
from tests.faults.world import World, contents, none_left
from tests.toy import environment, make_toy, pipeline

_STAGES = ("ingest", "generate", "validate")


class Pages:
    """``make ui`` over a toy repository: Prefect's server, a worker, the deployments; no server of
    MLflow, which the toy's stages do not use.

    Every stage ``generate`` of its worker waits for ``.work/go``.
    """

    def __init__(self, folder: Path) -> None:
        self.root = make_toy(folder / "toy-pages")
        self.api = f"http://127.0.0.1:{(port := find_port())}/api"
        command = [
            sys.executable,
            "-m",
            "flows.ui",
            "--prefect-port",
            str(port),
            "--runs",
            "1",
        ]
        around = {
            **environment(self.root),
            "TOY_HANG": "generate",
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{find_port()}",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
        }
        self.process = subprocess.Popen(
            command,
            cwd=self.root,
            env=around,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        if not any(line.startswith("Ctrl-C") for line in self.process.stdout):
            raise AssertionError("make ui does not come up")
        self.deployment = self.get("/deployments/name/adapt/adapt")["id"]

    @classmethod
    def of(cls, world: World) -> Pages:
        """Return those of the world, started at the first call."""
        return world.shared("pages", lambda: cls(world.folder), cls.close)

    def close(self) -> None:
        """End all of it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def get(self, path: str) -> Any:
        """GET from Prefect's API."""
        return _ask(f"{self.api}{path}")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """POST to it as its page does, with a token against forged requests."""
        token = self.get("/csrf-token?client=faults")["token"]
        headers = {
            "Content-Type": "application/json",
            "Prefect-Csrf-Token": token,
            "Prefect-Csrf-Client": "faults",
        }
        request = urllib.request.Request(f"{self.api}{path}", json.dumps(body).encode(), headers)
        return _ask(request)

    def submit(self, **parameters: Any) -> str:
        """Start a run from the form; return its id."""
        return str(
            self.post(
                f"/deployments/{self.deployment}/create_flow_run", {"parameters": parameters}
            )["id"]
        )

    def state(self, run: str) -> str:
        """Return a run's state."""
        return str(self.get(f"/flow_runs/{run}")["state"]["type"])

    def tasks(self, run: str) -> dict[str, str]:
        """Return the state names of a run's stages."""
        found = self.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
        return {task["name"]: task["state"]["name"] for task in found}


def _ask(request: str | urllib.request.Request, patience: float = 120.0) -> Any:
    """Return the answer. A server whose database is busy says 503: clients ask again."""
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def cancelled(world: World, chance: Random) -> str:
    """Cancelled in the page while a stage works: it stops, nothing of it is left, and the same
    request continues after what was done.
    """
    pages, name = Pages.of(world), f"cancelled-{chance.randrange(1 << 40):x}"
    asked = {"profile": "warm", "seed": chance.randrange(20, 1 << 30), "name": name}
    folder = pages.root / ".runs" / name
    first = pages.submit(**asked)
    if not _await((folder / ".work/hanging").exists, 120):
        return f"the run does not get to generate: {pages.state(first)}"
    pages.post(f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}, "force": False})
    if not _await(lambda: pages.state(first) == "CANCELLED", 90):
        return f"after 90 s the run is {pages.state(first)}"
    if not none_left(folder):
        return "a process of the cancelled run is left"
    if (folder / "artifacts/generate").exists() or not (folder / "artifacts/ingest").exists():
        return "what was done is gone, or what was not done is there"
    (folder / ".work/go").touch()
    second = pages.submit(**asked)
    if (
        not _await(lambda: pages.state(second) in ("COMPLETED", "FAILED", "CRASHED"), 120)
        or pages.state(second) != "COMPLETED"
    ):
        return f"the same request ends {pages.state(second)}"
    states = pages.tasks(second)
    return (
        ""
        if states == {"ingest": "Unchanged", "generate": "Completed", "validate": "Completed"}
        else f"the same request: {states}"
    )


def left_running(world: World, chance: Random) -> str:
    """A second run of a name is refused while the first works. The first one's process killed:
    Prefect says RUNNING until the next start, which ends that run and continues.
    """
    root, api = _toy(world), lend_prefect(world)
    name, stage = f"left-{chance.randrange(1 << 40):x}", chance.choice(_STAGES)
    around = {**environment(root), "TOY_HANG": stage, "PREFECT_API_URL": api}
    request = ["--name", name, *new_work(chance)]
    running = subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline", *request],
        cwd=root,
        env=around,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    reached = _await((root / ".runs" / name / ".work/hanging").exists, 300)
    second = pipeline(root, *request, PREFECT_API_URL=api)
    running.kill()
    running.wait()
    if not reached or not none_left(root / ".runs" / name):
        return "an orphan is left" if reached else f"the run does not get to {stage}"
    if second.returncode != 2 or f"held by process {running.pid}" not in second.stderr:
        return f"the second run ends with {second.returncode}: {second.stderr[-300:]}"
    before = read_states(api, name)
    if "RUNNING" not in before:
        return f"after the kill: {before}"
    again = pipeline(root, *request, PREFECT_API_URL=api)
    ended = sorted([*before, "COMPLETED"])
    ended[ended.index("RUNNING")] = "CRASHED"
    if again.returncode or read_states(api, name) != sorted(ended):
        return f"again {again.returncode}, {read_states(api, name)}: {again.stderr[-300:]}"
    done = [line.split()[:2] for line in again.stdout.splitlines() if "unchanged" in line]
    return "" if len(done) == _STAGES.index(stage) else f"killed in {stage}, then unchanged: {done}"


def damaged_cache(world: World, chance: Random) -> str:
    """One bit of one object of DVC's cache flipped, the outputs gone: the run says which file and
    how to repair, and after that is as before.
    """
    root, api = _toy(world), lend_prefect(world)
    run = world.shared("run with a cache", dict, lambda _: None)
    if not run or contents(run["outputs"]) != run["outcome"]:  # the first trial, or one that broke
        name = f"cache-{chance.randrange(1 << 40):x}"
        run["request"] = ["--name", name, *new_work(chance)]
        first = pipeline(root, *run["request"], PREFECT_API_URL=api)
        if first.returncode:
            return f"the undisturbed run ends with {first.returncode}: {first.stderr[-300:]}"
        run["outputs"] = root / ".runs" / name / "artifacts"
        run["outcome"] = contents(run["outputs"])
    outputs, before = run["outputs"], run["outcome"]
    victim = outputs / chance.choice(sorted(before))
    md5 = hashlib.md5(victim.read_bytes()).hexdigest()
    cached = root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    data = bytearray(cached.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    os.chmod(cached, 0o644)
    cached.write_bytes(data)
    os.chmod(cached, 0o444)
    subprocess.run(["rm", "-r", str(outputs)], check=True)
    second = pipeline(root, *run["request"], PREFECT_API_URL=api)
    stage = victim.relative_to(outputs).parts[0]
    if (
        second.returncode == 0
        or f"artifacts/{stage}/" not in second.stderr
        or "make repair" not in second.stderr
    ):
        return f"{victim.relative_to(outputs)}: status {second.returncode}: {second.stderr[-300:]}"
    repaired = subprocess.run(
        [sys.executable, "-m", "flows.runs.repair"],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    if f"damaged, removed: {cached}" not in repaired.stdout:
        return f"make repair: {repaired.stdout[-200:]} {repaired.stderr[-200:]}"
    subprocess.run(["rm", "-r", str(outputs / stage)], check=True)  # as the message says
    third = pipeline(root, *run["request"], PREFECT_API_URL=api)
    return (
        ""
        if third.returncode == 0 and contents(outputs) == before
        else f"after the repair: status {third.returncode}: {third.stderr[-300:]}"
    )


def _toy(world: World) -> Path:
    """Return a toy repository for the runs of all trials."""
    return world.shared("toy", lambda: make_toy(world.folder / "toy-runs"), lambda _: None)


def _await(holds: Callable[[], bool], seconds: float) -> bool:
    """Return whether it comes true in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
