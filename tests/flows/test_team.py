"""``make ui TEAM=1`` really started over a toy repository, and asked with and without its
passwords.
"""

from __future__ import annotations

import base64
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tasks.core.ports import find_free_port
from tests.toy import environment, make_toy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

_PREFECT, _MLFLOW = "correct-horse-of-prefect", "correct-horse-of-mlflow"


class Team(NamedTuple):
    """The running servers."""

    root: Path
    prefect: str
    mlflow: str
    log: Path


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    root, log = (
        make_toy(tmp_path_factory.mktemp("team") / "toy"),
        tmp_path_factory.mktemp("log") / "ui.log",
    )
    prefect, mlflow = find_free_port(), find_free_port()
    secrets = {
        "PREFECT_SERVER_API_AUTH_STRING": f"me:{_PREFECT}",
        "MLFLOW_TRACKING_USERNAME": "me",
        "MLFLOW_TRACKING_PASSWORD": _MLFLOW,
    }
    command = [
        sys.executable,
        "-m",
        "flows.ui",
        "--team",
        "--prefect-port",
        str(prefect),
        "--mlflow-port",
        str(mlflow),
    ]
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command,
            cwd=root,
            env={**environment(root), **secrets},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdout is not None
    try:
        said = ""
        while not said.startswith("Ctrl-C"):
            said = process.stdout.readline()
            assert said, (
                f"make ui TEAM=1 does not come up: {log.read_text(encoding='utf-8')[-2000:]}"
            )
        yield Team(root, f"http://127.0.0.1:{prefect}", f"http://127.0.0.1:{mlflow}", log)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def ask(
    address: str, user: str = "", body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str]]:
    """Return status and headers (names in lower case) of one request."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if user:
        given["Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    request = urllib.request.Request(address, body, {"Content-Type": "application/json", **given})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, {
                name.lower(): value for name, value in response.headers.items()
            }
    except urllib.error.HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}


def test_prefect_answers_only_with_the_password(team: Team) -> None:
    address = f"{team.prefect}/api/admin/version"
    assert ask(address)[0] == ask(address, "admin:pass")[0] == 401
    assert ask(address, f"me:{_PREFECT}")[0] == 200


def test_mlflow_answers_only_with_the_password(team: Team) -> None:
    address = f"{team.mlflow}/api/2.0/mlflow/experiments/search?max_results=5"
    assert (
        ask(address)[0]
        == ask(address, "admin:password1234")[0]
        == ask(address, "admin:password")[0]
        == 401
    )
    assert ask(address, f"me:{_MLFLOW}")[0] == 200


def test_foreign_pages_are_refused(team: Team) -> None:
    address, user = f"{team.prefect}/api/flow_runs/filter", f"me:{_PREFECT}"
    assert ask(address, user, b"{}")[0] == 403, (
        "a request that changes something needs a token against forged requests"
    )
    for origin, allowed in ((team.prefect, True), ("http://evil.example", False)):
        status, headers = ask(f"{team.prefect}/api/admin/version", user, Origin=origin)
        given = headers.get("access-control-allow-origin")
        assert (given == origin) is allowed and given != "*"
        assert status == (200 if allowed else 403)
    assert ask(f"{team.prefect}/api/admin/version", user, Host="evil.example")[0] == 403
    experiments = f"{team.mlflow}/api/2.0/mlflow/experiments/create"
    assert ask(experiments, f"me:{_MLFLOW}", b"{}", Origin="http://evil.example")[0] == 403
    assert (
        ask(
            f"{team.mlflow}/api/2.0/mlflow/experiments/search?max_results=5",
            f"me:{_MLFLOW}",
            Host="evil.example",
        )[0]
        == 403
    )


def test_passwords_are_in_no_file_log_or_command_line(team: Team) -> None:
    secrets = [_PREFECT.encode(), _MLFLOW.encode()]
    files = [path for path in team.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "mlflow-auth.ini" for path in files)
    commands = list(Path("/proc").glob("[0-9]*/cmdline"))
    for path in [*files, team.log, *commands]:
        try:
            text = path.read_bytes()
        except OSError:  # a process or a journal of SQLite that is gone by now
            continue
        assert not any(secret in text for secret in secrets), path


def test_both_listen_on_the_loopback_interface_only(team: Team) -> None:
    ports = {f"{int(address.rsplit(':', 1)[1]):04X}" for address in (team.prefect, team.mlflow)}
    rows = [
        line.split()
        for kind in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    listening = [row[1].split(":") for row in rows if row[3] == "0A"]
    assert sorted(f"{host}:{port}" for host, port in listening if port in ports) == sorted(
        f"0100007F:{port}" for port in ports
    )


def test_a_missing_password_is_one_line(team: Team) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.ui", "--team"],
        cwd=team.root,
        env=environment(team.root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert (
        done.stderr.startswith("error: ui: Prefect for a team needs a password")
        and done.stderr.count("\n") == 1
    )
