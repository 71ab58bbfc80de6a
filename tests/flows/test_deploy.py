"""What ``make ui`` deploys, over a server of its own: what people set on the pages stays."""

from __future__ import annotations

import datetime
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running

from flows import reconcile
from flows.adapt import adapt
from flows.deploy import end_dead, main
from flows.follow import follow
from flows.matrix.flow import matrix
from flows.runs.worktree import Run, hold
from flows.train_bonito import train_bonito
from tests.flows.test_flows import await_no_process_in, start_hanging
from tests.toy import environment, make_toy

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("deploy") / "toy")


def ask(method: str, url: str, **body: Any) -> Any:
    """Return what Prefect's API answers, as its pages ask it."""
    asked = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(asked, timeout=60) as response:
        return json.loads(response.read() or b"null")


def deploy(toy: Path, api: str) -> dict[str, Any]:
    """Deploy as ``make ui`` does; return the deployments by name."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.deploy", "1"],
        cwd=toy,
        env={**environment(toy), "PREFECT_API_URL": api, "PIPELINE_POOLS": "generate=far"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {one["name"]: one for one in ask("POST", f"{api}/deployments/filter")}


def test_a_number_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["several"])
    assert "argument runs: invalid int value: 'several'" in capsys.readouterr().err


def schedules(deployment: dict[str, Any]) -> list[tuple[bool, str, dict[str, Any]]]:
    return sorted(
        (one["active"], one["schedule"]["cron"], one["parameters"])
        for one in deployment["schedules"]
    )


def test_a_second_make_ui_leaves_what_was_set_on_the_pages(toy: Path, api: str) -> None:
    first = deploy(toy, api)
    assert schedules(first["adapt"]) == [(False, "0 3 * * 0", {})]
    assert schedules(first["follow"]) == [(False, "0 * * * *", {})]
    (automation,) = ask("POST", f"{api}/automations/filter")
    assert (automation["name"], automation["enabled"]) == ("corpus changed", False)

    adapt, follow = (f"{api}/deployments/{first[name]['id']}" for name in ("adapt", "follow"))
    (shipped,) = first["adapt"]["schedules"]
    ask("DELETE", f"{adapt}/schedules/{shipped['id']}")
    own = {"schedule": {"cron": "5 5 * * *", "timezone": "UTC"}, "parameters": {"seed": 4}}
    with_slug = json.dumps([{**own, "active": True, "slug": "mine"}]).encode()
    asked = urllib.request.Request(
        f"{adapt}/schedules", with_slug, {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(asked, timeout=60).close()
    (hourly,) = first["follow"]["schedules"]
    ask("PATCH", f"{follow}/schedules/{hourly['id']}", active=True)
    ask("PATCH", follow, parameters={"profile": "warm"})
    ask("PATCH", f"{api}/automations/{automation['id']}", enabled=True)

    (toy / "profiles" / "later.yaml").write_text("generate: {temperature: 0.8}\n")
    second = deploy(toy, api)
    assert {name: one["id"] for name, one in second.items()} == {
        name: one["id"] for name, one in first.items()
    }
    assert schedules(second["adapt"]) == [(True, "5 5 * * *", {"seed": 4})]
    assert schedules(second["follow"]) == [(True, "0 * * * *", {})]
    assert second["follow"]["parameters"] == {"profile": "warm"}
    (kept,) = ask("POST", f"{api}/automations/filter")
    assert (kept["id"], kept["enabled"]) == (automation["id"], True)
    form = second["adapt"]["parameter_openapi_schema"]
    assert "later" in json.dumps(form["properties"]["profile"]), "the form is that of the code"
    assert form["additionalProperties"] is False
    assert [one["far"]["work_pool_name"] for one in (first, second)] == ["far", "far"]
    (step,) = second["far"]["pull_steps"]
    assert list(step.values()) == [{"directory": str(toy)}]


_FLOWS = """
from flows.follow import follow
from flows.matrix.flow import matrix
from flows.train_bonito import train_bonito
matrix(file="none.yaml", return_state=True)
follow(profile="none", return_state=True)
train_bonito(return_state=True)
"""


def test_a_run_names_its_machine_before_it_does_anything(toy: Path, api: str) -> None:
    """Else a start on another machine would take it for a dead one."""
    own = {**environment(toy), "PREFECT_API_URL": api}
    subprocess.run([sys.executable, "-c", _FLOWS], cwd=toy, env=own, check=True)
    runs = ask("POST", f"{api}/flow_runs/filter")
    assert len(runs) == 3
    assert {(run["state"]["type"], *sorted(run["tags"])) for run in runs} == {
        ("FAILED", f"checkout:{toy}", f"host:{socket.gethostname()}")
    }


def test_a_killed_run_of_any_flow_is_ended_by_the_next_make_ui(
    toy: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counted against the pool's limit: nothing that was started on the page ever began."""
    monkeypatch.setattr(reconcile, "CODE", toy)
    monkeypatch.setattr(reconcile, "_GRACE", datetime.timedelta())
    tags = [f"host:{socket.gethostname()}", f"checkout:{toy}"]
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:

        def begin(flow: Any, **values: str) -> UUID:
            return client.create_flow_run(flow, parameters=values, state=Running(), tags=tags).id

        dead = [begin(adapt), begin(matrix, file="a.yaml"), begin(follow), begin(train_bonito)]
        living = begin(follow, profile="warm")
        with hold(Run("follow warm", toy, toy, {})):
            end_dead()
        states = [client.read_flow_run(run).state for run in (*dead, living)]
    assert [state and state.type.value for state in states] == ["CRASHED"] * 4 + ["RUNNING"]


def test_cancel_on_the_page_ends_a_run_of_a_terminal_as_ctrl_c_does(toy: Path, api: str) -> None:
    """It stayed "Cancelling", and ran on: no worker knows its process. A shell that begins a run in
    the background lets it ignore Ctrl-C.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        running = start_hanging(toy, "cancelled", ["--name", "cancelled"], PREFECT_API_URL=api)
    finally:
        signal.signal(signal.SIGINT, before)
    (run,) = ask("POST", f"{api}/flow_runs/filter", flow_runs={"name": {"any_": ["cancelled"]}})
    url = f"{api}/flow_runs/{run['id']}"
    ask("POST", f"{url}/set_state", state={"type": "CANCELLING", "name": "Cancelling"})
    assert running.wait(60) == 130
    assert ask("GET", url)["state"]["type"] == "CANCELLED"
    await_no_process_in(toy / ".runs" / "cancelled")
