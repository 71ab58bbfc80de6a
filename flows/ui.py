"""``make ui``: Prefect's server with a worker and deployments, and MLflow's server, on loopback.

All end together. Where ``MLFLOW_TRACKING_URI`` names a server of MLflow, that one is shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.runs import CODE
from flows.runs.mlflow_urls import ask_experiment, runs_page
from flows.server import answers, find_ui_server, server_module, set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.ports import need_free_port, read_port
from tasks.core.process import process_mark, start_guard
from tasks.core.secrets import bare_address
from tasks.core.stage import one_line_errors
from tasks.tracking.mlflow_store import create_private_store

HOST = "127.0.0.1"
_PATIENCE_SECONDS = 180.0
_PASSWORD_CHARACTERS = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Start everything, print the addresses, and wait for Ctrl-C or SIGTERM.

    Returns 0 after those, 2 if a server ended by itself or none was started.
    """
    parser = argparse.ArgumentParser(
        prog="python -m flows.ui",
        description="Prefect and MLflow in the browser.",
        allow_abbrev=False,
    )
    parser.add_argument("--prefect-port", default="4200")
    parser.add_argument("--mlflow-port", default="5000")
    parser.add_argument(
        "--runs",
        default="1",
        help="concurrent runs; each has its own checkout and uses the whole CPU or GPU",
    )
    parser.add_argument(
        "--team",
        action="store_true",
        help="refuse to start without passwords (behind a proxy: docs/machines.md)",
    )
    arguments = parser.parse_args(argv)
    stop = threading.Event()
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, lambda _number, _frame: stop.set())
    with one_line_errors("ui"):
        if not re.fullmatch("[1-9][0-9]{0,2}", arguments.runs):
            raise PipelineError(
                f"RUNS={arguments.runs} is no number of runs at once: give one from 1 to 999"
            )
        if arguments.team:
            need_passwords(os.environ)
            if not find_mlflow(os.environ) and importlib.util.find_spec("flask_wtf") is None:
                raise PipelineError(
                    "MLflow's passwords need the package Flask-WTF: .venv/bin/pip install flask-wtf"
                )
        arguments.prefect_port = read_port(arguments.prefect_port, "PREFECT_PORT")
        arguments.mlflow_port = read_port(arguments.mlflow_port, "MLFLOW_PORT")
        need_free_port(HOST, arguments.prefect_port, "PREFECT_PORT")
        if not find_mlflow(os.environ):
            need_free_port(HOST, arguments.mlflow_port, "MLFLOW_PORT")
        with Servers(CODE) as servers:
            return _serve(servers, arguments, stop)
    return 2


def need_passwords(environment: Mapping[str, str]) -> None:
    """Raise :class:`PipelineError` unless each server that starts here has a password of at least
    twelve characters that is not MLflow's published one.
    """
    user, _, password = environment.get("PREFECT_SERVER_API_AUTH_STRING", "").partition(":")
    variable = "PREFECT_SERVER_API_AUTH_STRING=user:password"
    _need_password("Prefect", variable, password if user else "")
    if find_mlflow(environment):
        return
    variable = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    _need_password("MLflow", variable, environment.get("MLFLOW_TRACKING_PASSWORD", ""))
    if not environment.get("MLFLOW_TRACKING_USERNAME"):
        raise PipelineError(
            "MLflow for a team needs a user: set MLFLOW_TRACKING_USERNAME in the environment"
        )


def _need_password(what: str, variable: str, password: str) -> None:
    if len(password) < _PASSWORD_CHARACTERS or password.startswith("password"):
        raise PipelineError(
            f"{what} for a team needs a password of at least {_PASSWORD_CHARACTERS} characters: "
            f"set {variable} in the environment"
        )


def find_mlflow(environment: Mapping[str, str]) -> str:
    """Return the address of the user's own MLflow server, without a password that it may hold;
    empty where one is to be started here.
    """
    address = environment.get("MLFLOW_TRACKING_URI", "")
    return bare_address(address) if address.lower().startswith(("http://", "https://")) else ""


def _serve(servers: Servers, arguments: argparse.Namespace, stop: threading.Event) -> int:
    prefect = f"http://{HOST}:{arguments.prefect_port}"
    own = find_mlflow(os.environ)
    mlflow = own or f"http://{HOST}:{arguments.mlflow_port}"
    _set_environment(prefect, mlflow)
    if other := find_ui_server(CODE):
        raise PipelineError(
            f"make ui runs in this checkout already, with Prefect at {other}: end it first, two "
            "servers would share one database"
        )
    if arguments.team and not own:
        _set_mlflow_passwords()
    quiet = ["--log-level", "warning"]
    servers.start("Prefect", [*server_module(HOST, arguments.prefect_port), *quiet])
    if not own:
        servers.start("MLflow", _mlflow_command(arguments.mlflow_port, arguments.team))
    servers.wait_for(f"{prefect}/api/health", stop)
    if not stop.is_set():
        servers.run("deployments", ["flows.deploy", arguments.runs])
        worker = ["prefect", "worker", "start", "--pool", "pipeline", "--type", "process"]
        servers.start("worker", [*worker, "--name", "here", "--limit", arguments.runs])
    if not own:
        servers.wait_for(f"{mlflow}/health", stop)
    experiment = "" if stop.is_set() else ask_experiment(CODE)
    address = CODE / ".prefect" / "ui.url"
    # make run finds this server by it.
    address.write_text(f"{prefect}/api {process_mark()}\n", encoding="utf-8")
    try:
        if not stop.is_set():
            print(f"\nPrefect   {prefect}   runs, progress, and the form to start one: Deployments")
            print(
                f"MLflow    {runs_page(mlflow, experiment) if experiment else mlflow}   "
                "runs compared, registered models"
            )
            print(f"Ctrl-C ends {'Prefect' if own else 'both'}.", flush=True)
        while not stop.wait(0.5):
            servers.check()
    finally:
        address.unlink(missing_ok=True)
    print("stopping ...", flush=True)
    return 0


def _set_environment(prefect: str, mlflow: str) -> None:
    """Set what both servers and the worker read; what people behind a proxy are shown is the
    user's. Only Prefect's own pages may send it requests.
    """
    os.environ["PREFECT_API_URL"] = f"{prefect}/api"
    os.environ.setdefault("PIPELINE_MLFLOW_PAGE", mlflow)
    os.environ["PIPELINE_HOME"] = str(CODE)
    set_prefect_environment(CODE)
    create_private_store()
    os.environ.setdefault("PREFECT_SERVER_CSRF_PROTECTION_ENABLED", "true")
    os.environ.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", prefect)
    # The worker polls often: people wait for a run to start.
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", "3")
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")


def _mlflow_command(port: int, team: bool) -> list[str]:
    store, usual_hosts = os.environ["MLFLOW_TRACKING_URI"], f"{HOST}:{port},localhost:{port}"
    hosts = os.environ.get("PIPELINE_MLFLOW_HOSTS", usual_hosts)
    command = ["mlflow", "server", "--backend-store-uri", store, "--host", HOST]
    command += ["--port", str(port), "--workers", "1", "--allowed-hosts", hosts]
    return [*command, "--app-name", "basic-auth"] if team else command


def _set_mlflow_passwords() -> None:
    """Set the administrator of MLflow's basic authentication through the environment: a password
    in a file would outlive the server.
    """
    file = CODE / ".prefect" / "mlflow-auth.ini"
    settings = {
        "default_permission": "READ",
        "database_uri": f"sqlite:///{CODE / '.prefect' / 'mlflow-auth.db'}",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "grant_default_workspace_access": "false",
    }
    file.write_text(
        "[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()),
        encoding="utf-8",
    )
    os.environ["MLFLOW_AUTH_CONFIG_PATH"] = str(file)
    os.environ["MLFLOW_AUTH_ADMIN_USERNAME"] = os.environ["MLFLOW_TRACKING_USERNAME"]
    os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = os.environ["MLFLOW_TRACKING_PASSWORD"]
    os.environ.setdefault("MLFLOW_FLASK_SERVER_SECRET_KEY", secrets.token_hex(32))


class Servers:
    """Processes of one process group, whose leader kills the group when this process ends."""

    def __init__(self, folder: Path) -> None:
        """Everything runs in ``folder``."""
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Servers:
        """Start the leader."""
        self.leader = start_guard()
        return self

    def start(self, name: str, module: list[str]) -> None:
        """Start ``python -m MODULE ...`` in the group."""
        self.running[name] = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=self.folder,
            process_group=self.leader.pid,
            stdin=subprocess.DEVNULL,
        )

    def run(self, name: str, module: list[str]) -> None:
        """Run ``python -m MODULE ...`` to its end, in the group."""
        command = [sys.executable, "-m", *module]
        done = subprocess.run(
            command,
            cwd=self.folder,
            process_group=self.leader.pid,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise PipelineError(f"{name} ended with status {done.returncode}; its message is above")

    def wait_for(self, address: str, stop: threading.Event) -> None:
        """Return when ``address`` answers or ``stop`` is set.

        Raises :class:`PipelineError` when a server has ended, or after three minutes.
        """
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not stop.is_set() and not answers(address):
            self.check()
            if time.monotonic() > deadline:
                raise PipelineError(f"{address} does not answer after {_PATIENCE_SECONDS:.0f} s")
            stop.wait(0.3)

    def check(self) -> None:
        """Raise :class:`PipelineError` if a process has ended: the others are useless then."""
        for name, process in self.running.items():
            if process.poll() is not None:
                raise PipelineError(
                    f"{name} ended by itself with status {process.returncode}; its message is above"
                )

    def __exit__(self, *_: object) -> None:
        """Terminate the group, wait ten seconds, then kill what is left of it."""
        os.killpg(self.leader.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self.running.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0))
            except subprocess.TimeoutExpired:
                continue
        self.leader.communicate()  # its input ends: it kills what is left


if __name__ == "__main__":
    sys.exit(main())
