"""MLflow's server killed, absent, or told by nobody that a run has ended."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from random import Random

from flows import server as prefect_server
from flows.server import answers
from tasks.core.privacy import SILENT
from tasks.core.process import set_death_signal
from tests.faults.ports import find_port
from tests.faults.settings import is_unhurried, mlflow_waits, set_parameter
from tests.faults.world import INPUTS, World, fork, log_of, run, start, wait
from tests.toy import environment, make_toy


class Server:
    """MLflow's own server over a trial's store.

    In a fork of the harness, which has MLflow imported, and as ``mlflow server`` makes it but for
    its parent: that one imports all of it once more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = find_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        from mlflow.server import constants

        given = {
            constants.BACKEND_STORE_URI_ENV_VAR: f"sqlite:///{self.folder / 'mlflow.db'}",
            constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: str(self.folder / "stored"),
            # As make ui starts it: its job workers are eight processes more.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        self.pid = fork(self.folder, self._serve, given)
        deadline = time.monotonic() + 90
        while not answers(f"{self.uri}/health"):
            if time.monotonic() > deadline or os.waitpid(self.pid, os.WNOHANG)[0]:
                raise AssertionError(f"the MLflow server does not come up: {log_of(self.folder)}")
            time.sleep(0.1)

    def _serve(self) -> int:
        import uvicorn

        set_death_signal()
        uvicorn.run("mlflow.server.fastapi_app:app", port=self.port, log_level="critical")
        return 0

    def kill(self) -> None:
        """Kill it."""
        os.killpg(self.pid, signal.SIGKILL)
        wait(self.pid)


def mlflow_killed(world: World, chance: Random) -> str:
    """Killed while finetune trains: the adapter is as undisturbed, at most 60 s late; registering
    later logs every step.
    """
    folder = world.trial("finetune")
    server = Server(folder)
    server.start()
    began = time.monotonic()
    progress, wanted = folder / ".work/finetune/progress.json", chance.randrange(1, 10)
    around = {"MLFLOW_TRACKING_URI": server.uri, **mlflow_waits(chance)}
    pid = start(folder, "finetune", around)
    while not progress.exists() or f'"done": {wanted}' not in progress.read_text():
        if time.monotonic() - began > 60 or (progress.exists() and wanted < 3):
            break
        time.sleep(0.01)
    server.kill()
    killed = time.monotonic()
    status = wait(pid)
    late = time.monotonic() - killed
    fault = (
        f"status {status}: {log_of(folder)[-300:]}"
        if status
        else world.is_as_undisturbed(folder, "finetune")
    )
    if not fault and late > 60 + world.seconds["finetune"]:
        fault = f"{late:.0f} s late"
    return fault or _replayed(world, folder)


def _replayed(world: World, folder: Path) -> str:
    for path in INPUTS["register"].values():
        name = path.split("/")[1]
        if name != "finetune":
            shutil.copytree(
                world.reference / "artifacts" / name,
                folder / "artifacts" / name,
                dirs_exist_ok=True,
            )
    server = Server(folder)
    server.start()
    try:
        status = run(folder, "register", {"MLFLOW_TRACKING_URI": server.uri})
    finally:
        server.kill()
    fault = (
        f"register ends with {status}: {log_of(folder)[-300:]}" if status else _curve_fault(folder)
    )
    if not fault:
        shutil.rmtree(folder)
    return fault


def _curve_fault(folder: Path) -> str:
    def look() -> int:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("bonito").experiment_id])
        steps = sorted(
            point.step for point in client.get_metric_history(runs[0].info.run_id, "train_loss")
        )
        (folder / "curve").write_text(
            ""
            if len(runs) == 1 and steps == list(range(1, 13))
            else f"{len(runs)} runs, steps {steps}"
        )
        return 0

    return (
        (folder / "curve").read_text()
        if wait(fork(folder, look, {})) == 0
        else "the ledger cannot be read"
    )


class Victim:
    """A toy repository and its Prefect server, which every trial kills: the server that is started
    after it is the next trial's.
    """

    def __init__(self, world: World) -> None:
        self.root = make_toy(world.folder / "toy")
        self.port = find_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.around = {
            **environment(self.root),
            "PREFECT_HOME": str(self.root / ".prefect"),
            "PREFECT_API_URL": self.url,
        }
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start a server unless there is one."""
        if self.server is None:
            self.server = _prefect(self.root, self.port, self.around)

    def kill(self) -> None:
        """Kill it."""
        if self.server:
            _end(self.server)
            self.server = None


def prefect_killed(world: World, chance: Random) -> str:
    """Prefect's server killed while a stage works: status 0 at most 60 s later, and the next start
    tells a new server how it went.

    Most times Prefect's client asks once, not three times with 2 and 4 s between.
    """
    victim = world.shared("victim", lambda: Victim(world), Victim.kill)
    root, name = victim.root, f"killed-{chance.randrange(1 << 40)}"
    stage = chance.choice(("ingest", "generate", "validate"))
    hurried = {} if is_unhurried(chance) else {"PREFECT_CLIENT_MAX_RETRIES": "0"}
    command = [sys.executable, "-m", "flows.pipeline", "--name", name]
    command += new_work(chance)
    victim.start()
    with (world.folder / "prefect.log").open("w") as log:
        given = {**victim.around, **hurried, "TOY_HANG": stage}
        running = subprocess.Popen(command, cwd=root, env=given, stdout=log, stderr=log)
    mark = root / ".runs" / name / ".work" / "hanging"
    deadline = time.monotonic() + 300
    while not mark.exists() and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.1)
    victim.kill()
    if not mark.exists():
        running.kill()
        running.wait()
        return (
            f"the run does not get to {stage}: {(world.folder / 'prefect.log').read_text()[-400:]}"
        )
    (mark.parent / "go").touch()
    began = time.monotonic()
    status = running.wait(400)
    took, stages = time.monotonic() - began, _seconds_after(root / ".runs" / name, stage)
    victim.start()
    again = subprocess.run(
        command, cwd=root, env=victim.around, capture_output=True, text=True, check=False
    )
    states = read_states(victim.url, name)
    late = took - stages
    if (
        status or late > 60 + 15
    ):  # 15 s: what is left of the stage itself, and Python coming to its end
        return (
            f"status {status}, {late:.0f} s late ({took:.0f} s in all): "
            f"{(world.folder / 'prefect.log').read_text()[-400:]}"
        )
    return (
        ""
        if again.returncode == 0 and states == ["COMPLETED", "COMPLETED"]
        else f"again {again.returncode}, {states}: {again.stderr[-300:]}"
    )


def new_work(chance: Random) -> list[str]:
    """Return settings of a run with which DVC's cache has the output of no stage: one that is put
    back from there does not work, and no fault meets it.
    """
    near, heat = chance.uniform(0.5, 1.0), chance.random()
    return ["--set", f"ingest.near_duplicates={near:.8f}", f"generate.temperature={heat:.8f}"]


def _seconds_after(checkout: Path, stage: str) -> float:
    """Return what the stages behind ``stage`` took in the last run, by its own account."""
    last = next(checkout.joinpath(".work").glob("*.json"), None)
    stages = json.loads(last.read_text())["stages"] if last else []
    return (
        sum(
            entry["seconds"]
            for entry in stages[[entry["stage"] for entry in stages].index(stage) + 1 :]
        )
        if stages
        else 0.0
    )


def _prefect(root: Path, port: int, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "uvicorn",
        "--factory",
        "prefect.server.api.server:create_app",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    given = {
        **SILENT,
        **environment,
        "PREFECT__SERVER_EPHEMERAL": "1",
        "PREFECT__SERVER_FINAL": "1",
    }  # nothing of ours is imported in it
    process = subprocess.Popen(
        [*command, "--lifespan", "on"],
        cwd=root,
        env=given,
        start_new_session=True,
        preexec_fn=set_death_signal,  # noqa: PLW1509 - nothing but a system call
    )
    prefect_server.await_answer(f"http://127.0.0.1:{port}/api", process)  # type: ignore[arg-type]
    return process


def lend_prefect(world: World) -> str:
    """Return the address of a Prefect server for faults that are not about its start or end: one
    for all their trials, started at the first call.
    """

    def begin() -> tuple[str, subprocess.Popen[bytes]]:
        home, port = world.folder / "prefect", find_port()
        home.mkdir()
        around = {**environment(home), "PREFECT_HOME": str(home)}
        return f"http://127.0.0.1:{port}/api", _prefect(home, port, around)

    return str(world.shared("prefect", begin, lambda made: _end(made[1]))[0])


def _end(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def read_states(url: str, name: str) -> list[str]:
    """Return the states of all runs of one name, in alphabetical order."""
    question = json.dumps({"flow_runs": {"name": {"any_": [name]}}}).encode()
    request = urllib.request.Request(
        f"{url}/flow_runs/filter", question, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return sorted(run["state"]["type"] for run in json.load(response))


def mlflow_absent(world: World, chance: Random) -> str:
    """Nobody listens: register says so in one line within 60 s and, when the store is there, does
    its work.
    """
    folder = world.trial("register")
    began = time.monotonic()
    nowhere = f"http://127.0.0.1:{find_port()}"
    status = run(folder, "register", {"MLFLOW_TRACKING_URI": nowhere, **mlflow_waits(chance)})
    took, said = time.monotonic() - began, log_of(folder).strip().splitlines()
    if status != 2 or not said or "does not answer" not in said[-1] or took > 60:
        return f"status {status} after {took:.0f} s: {said[-1:]}"
    status = run(folder, "register", {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"})
    fault = (
        f"status {status}: {log_of(folder)[-300:]}"
        if status
        else world.is_as_undisturbed(folder, "register")
    )
    if not fault:
        shutil.rmtree(folder)
    return fault


def left_running(world: World, chance: Random) -> str:
    """A training of other settings was killed: the next start ends its run, and its own run is
    another.
    """
    folder = world.trial("finetune")
    pid = start(folder, "finetune")
    while not (folder / ".work/finetune/progress.json").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    set_parameter(folder, "finetune.learning_rate", round(chance.uniform(0.002, 0.01), 6))
    if status := run(folder, "finetune"):
        return f"status {status}: {log_of(folder)[-300:]}"

    def look() -> int:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("bonito").experiment_id])
        (folder / "states").write_text(" ".join(sorted(run.info.status for run in runs)))
        return 0

    wait(fork(folder, look, {}))
    states = (folder / "states").read_text()
    if states == "FINISHED KILLED":
        shutil.rmtree(folder)
        return ""
    return f"the runs are {states}"
