"""Prefect's API for one run: the user's server, that of ``make ui``, or a temporary one.

The temporary server is the one that Prefect itself would start. Here it starts while Prefect is
still being imported, and dies with this process: Prefect's own outlives a killed run.
"""

from __future__ import annotations

import atexit
import base64
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO

from flows.runs import CODE
from flows.runs.die_with_parent import start
from tasks.core.errors import PipelineError
from tasks.core.ports import find_free_port
from tasks.core.process import is_alive

#: Start-up takes 4 s, the first one 12 s (it creates the database), and several times that on a
#: loaded machine.
_START_SECONDS = 300.0
_ANSWER_SECONDS = 10.0


def set_prefect_environment(main: Path) -> None:
    """Put Prefect's settings into the environment; the user's values win.

    Call it before Prefect is imported.
    """
    home = main / ".prefect"
    home.mkdir(mode=0o700, exist_ok=True)  # its database holds every run's parameters
    for variable, value in {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_LOGGING_COLORS": "false",
        # With Prefect's default of five retries, each request to a stopped server takes minutes.
        "PREFECT_CLIENT_MAX_RETRIES": "2",
        # Seconds that a new SQLite connection waits for a lock before "database is locked".
        # Prefect's own 60 s apply only after the set-up.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }.items():
        os.environ.setdefault(variable, value)
    if auth := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        os.environ.setdefault("PREFECT_API_AUTH_STRING", auth)
    # MLflow's store is the main checkout's, whichever worktree a stage runs in.
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{main / 'mlflow.db'}")


def open_api(main: Path, output: IO[str] | None = None) -> Callable[[], None]:
    """Point ``PREFECT_API_URL`` at a server; return a function that waits until it answers.

    Where there is no server one is started; it prints to ``output``, by default the terminal. It
    stops when this process exits, after Prefect (imported later) has sent the last log lines.
    """
    set_prefect_environment(main)
    url = os.environ.get("PREFECT_API_URL") or find_ui_server(main)
    server = None
    if not url:
        url = f"http://127.0.0.1:{(port := find_free_port())}/api"
        server = _start(port, output)
        atexit.register(stop, server)
    os.environ["PREFECT_API_URL"] = url
    return lambda: await_answer(url, server)


def find_ui_server(main: Path) -> str:
    """Return the address of this checkout's ``make ui`` server; empty where none answers.

    The file names the process too: once that was killed, another checkout's server may have its
    port.
    """
    try:
        text = (main / ".prefect" / "ui.url").read_text(encoding="utf-8")
    except OSError:
        return ""
    url, _, mark = text.strip().partition(" ")
    return url if is_alive(mark) and answers(f"{url}/health") else ""


def await_answer(url: str, server: subprocess.Popen[str] | None = None) -> None:
    """Return when the API answers; raise :class:`PipelineError` when it does not.

    A ``server`` that was just started gets minutes; one that should be up already gets seconds.
    """
    deadline = time.monotonic() + (_START_SECONDS if server else _ANSWER_SECONDS)
    while not answers(f"{url.rstrip('/')}/health"):
        if server and server.poll() is not None:
            raise PipelineError(
                f"Prefect's temporary server ended with status {server.returncode}: the reason is "
                "in the log or in the lines above"
            )
        if time.monotonic() > deadline and server:
            raise PipelineError(
                f"Prefect's temporary server is not up after {_START_SECONDS:.0f} s: is the "
                "machine overloaded?"
            )
        if time.monotonic() > deadline:
            raise PipelineError(
                f"no Prefect server answers at {url}: start it, or unset PREFECT_API_URL to run "
                "without one"
            )
        time.sleep(0.1)


def answers(address: str) -> bool:
    """Return whether an HTTP GET of ``address`` gives status 200."""
    try:
        request = urllib.request.Request(address)  # noqa: S310 - our own http addresses
        if (auth := os.environ.get("PREFECT_API_AUTH_STRING")) and "/api/" in address:
            request.add_header("Authorization", f"Basic {base64.b64encode(auth.encode()).decode()}")
        with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
            return bool(response.status == 200)
    except (OSError, HTTPException, ValueError):  # URLError is an OSError
        return False


def server_module(host: str, port: int) -> list[str]:
    """Return what follows ``python -m`` to start Prefect's server, on ``host``."""
    command = ["uvicorn", "--factory", "flows.prefect_app:create_app", "--lifespan", "on"]
    return [*command, "--app-dir", str(CODE), "--host", host, "--port", str(port)]


def stop(process: subprocess.Popen[str]) -> None:
    """Terminate a process; kill it after five seconds."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(port: int, output: IO[str] | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, "PREFECT__SERVER_EPHEMERAL": "1"}
    command = [sys.executable, "-m", *server_module("127.0.0.1", port), "--log-level", "error"]
    # In its own session: Ctrl-C must reach the run alone, which then reports its end to the server.
    return start(command, CODE, environment, start_new_session=True, stdout=output, stderr=output)
