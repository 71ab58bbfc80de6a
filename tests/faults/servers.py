"""MLflow's server killed, absent, or told by nobody that a run has ended."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from flows.server import answers, free_port
from tests.faults.world import World, fork, log_of, run, start, wait


class Server:
    """MLflow's own server over a trial's store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--port", str(self.port)]
        command += ["--workers", "1", "--serve-artifacts", "--artifacts-destination", str(self.folder / "stored")]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 90
        while not answers(f"{self.uri}/health"):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise AssertionError("the MLflow server does not come up")
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def mlflow_killed(world: World, chance: Random) -> str:
    """Killed while finetune trains: the adapter is as undisturbed, at most 60 s late; registering later logs every step."""
    folder = world.trial("finetune")
    server = Server(folder)
    server.start()
    began = time.monotonic()
    pid = start(folder, "finetune", {"MLFLOW_TRACKING_URI": server.uri})
    progress, wanted = folder / ".work/finetune/progress.json", chance.randrange(1, 10)
    while not progress.exists() or f'"done": {wanted}' not in progress.read_text():
        if time.monotonic() - began > 60 or (progress.exists() and wanted < 3):
            break
        time.sleep(0.01)
    server.kill()
    killed = time.monotonic()
    status = wait(pid)
    late = time.monotonic() - killed
    fault = f"status {status}: {log_of(folder)[-300:]}" if status else world.is_as_undisturbed(folder, "finetune")
    if not fault and late > 60 + world.seconds["finetune"]:
        fault = f"{late:.0f} s late"
    return fault or _replayed(world, folder)


def _replayed(world: World, folder: Path) -> str:
    for name in ("evaluate", "validate"):
        shutil.copytree(world.reference / "artifacts" / name, folder / "artifacts" / name, dirs_exist_ok=True)
    server = Server(folder)
    server.start()
    try:
        status = run(folder, "register", {"MLFLOW_TRACKING_URI": server.uri})
    finally:
        server.kill()
    fault = f"register ends with {status}: {log_of(folder)[-300:]}" if status else _curve_fault(folder)
    if not fault:
        shutil.rmtree(folder)
    return fault


def _curve_fault(folder: Path) -> str:
    def look() -> int:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        runs = client.search_runs([client.get_experiment_by_name("bonito").experiment_id])
        steps = sorted(point.step for point in client.get_metric_history(runs[0].info.run_id, "train_loss"))
        (folder / "curve").write_text("" if len(runs) == 1 and steps == list(range(1, 13)) else f"{len(runs)} runs, steps {steps}")
        return 0

    return (folder / "curve").read_text() if wait(fork(folder, look, {})) == 0 else "the ledger cannot be read"


def mlflow_absent(world: World, chance: Random) -> str:
    """Nobody listens: register says so in one line within 60 s and, when the store is there, does its work."""
    folder = world.trial("register")
    began = time.monotonic()
    status = run(folder, "register", {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"})
    took, said = time.monotonic() - began, log_of(folder).strip().splitlines()
    if status != 2 or not said or "does not answer" not in said[-1] or took > 60:
        return f"status {status} after {took:.0f} s: {said[-1:]}"
    status = run(folder, "register", {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"})
    fault = f"status {status}: {log_of(folder)[-300:]}" if status else world.is_as_undisturbed(folder, "register")
    if not fault:
        shutil.rmtree(folder)
    return fault


def left_running(world: World, chance: Random) -> str:
    """A training of other settings was killed: the next start ends its run, and its own run is another."""
    folder = world.trial("finetune")
    pid = start(folder, "finetune")
    while not (folder / ".work/finetune/progress.json").exists():
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    wait(pid)
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("learning_rate: 0.001", f"learning_rate: {chance.uniform(0.002, 0.01):.6f}"))
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
