"""Prefect's API for one run: the user's server, the one that ``make ui`` started, or a temporary
one that ends with the run.

The temporary server is the one Prefect itself would start, started a little earlier (it comes up
while Prefect is imported) and tied to this process: Prefect's own outlives a killed run.
"""

from __future__ import annotations

import atexit
import base64
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import IO

from flows.runs.die_with_parent import CODE, start
from tasks.core.errors import PipelineError
from tasks.core.ports import find_free_port

#: Start-up takes 4 s, the first one 12 s (it makes the database); a loaded machine takes several
#: times that.
_START_SECONDS = 300.0
_ANSWER_SECONDS = 10.0


def set_prefect_environment(main: Path) -> None:
    """Put Prefect's settings into the environment.

    To be called before Prefect is imported; the user's own values win.
    """
    home = main / ".prefect"
    for variable, value in {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_MEMO_STORE_PATH": str(home / "memo_store.toml"),
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_LOGGING_COLORS": "false",
        # Of a server that is gone Prefect would learn only after five ever longer waits for every
        # request: minutes at the end of a run.
        "PREFECT_CLIENT_MAX_RETRIES": "2",
        # How long a new connection to SQLite waits for a lock before "database is locked";
        # Prefect's 60 s hold only once it is set up.
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
    """Point ``PREFECT_API_URL`` at a server, starting one where there is none; return a function
    that waits until it answers. What the server prints goes to ``output``, by default the terminal.

    A server started here is stopped when this process exits, after Prefect (imported later) has
    sent it the last log lines.
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
    """Return the address of the server that ``make ui`` runs for this checkout, empty where none
    answers.
    """
    try:
        url = (main / ".prefect" / "ui.url").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
    return url if answers(f"{url}/health") else ""


def await_answer(url: str, server: subprocess.Popen[str] | None = None) -> None:
    """Return when the API answers; raise :class:`PipelineError` when it does not.

    ``server`` is the process that was started for it here: that one is given minutes, a server that
    should be up already is not.
    """
    deadline = time.monotonic() + (_START_SECONDS if server else _ANSWER_SECONDS)
    while not answers(f"{url}/health"):
        if server and server.poll() is not None:
            raise PipelineError(
                f"Prefect's temporary server ended with status {server.returncode}: the log, or "
                "the lines above, say why"
            )
        if time.monotonic() > deadline and server:
            raise PipelineError(
                f"Prefect's temporary server is not up after {_START_SECONDS:.0f} s: is "
                "the machine overloaded?"
            )
        if time.monotonic() > deadline:
            raise PipelineError(
                f"no Prefect server answers at {url}: start it, or unset PREFECT_API_URL "
                "to run without one"
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
    except (urllib.error.URLError, OSError, ValueError):
        return False


def stop(process: subprocess.Popen[str]) -> None:
    """End a process: asked first, made to after five seconds."""
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start(port: int, output: IO[str] | None = None) -> subprocess.Popen[str]:
    (environment := dict(os.environ)).update(
        PREFECT__SERVER_EPHEMERAL="1", PREFECT__SERVER_FINAL="1"
    )
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += [
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--log-level",
        "error",
        "--lifespan",
        "on",
    ]
    # A session of its own: Ctrl-C ends the run, which still has to tell the server so.
    return start(command, CODE, environment, start_new_session=True, stdout=output, stderr=output)
