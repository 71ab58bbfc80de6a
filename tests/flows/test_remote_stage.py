"""Stages on another work pool: real servers, real workers of two pools, over the toy pipeline.

What is read from files is tested by default.
"""

# ruff: noqa: F401, F811 - fixtures of another module
from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest

from flows import remote_flow, remote_stage
from flows.runs.dvc_repro import STOPPED, StageOutcome, StoppedError
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tests.flows.test_flows import ask, await_no_process_in, toy
from tests.toy import environment

_POOLS = "generate=gpu, validate=big"
_STAGES = ("ingest", "generate", "validate")
_LOG = logging.getLogger("test")


def test_a_pool_for_each_stage_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote_stage.VARIABLE, _POOLS)
    assert remote_stage.read_pools(_STAGES) == {"generate": "gpu", "validate": "big"}
    monkeypatch.delenv(remote_stage.VARIABLE)
    assert remote_stage.read_pools(_STAGES) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("generate", "'generate' is not stage=pool"),
        ("generate=", "is not stage=pool"),
        ("genrate=gpu", "no stage 'genrate' .did you mean 'generate'"),
    ],
)
def test_a_wrong_setting_is_one_line(
    monkeypatch: pytest.MonkeyPatch, given: str, message: str
) -> None:
    monkeypatch.setenv(remote_stage.VARIABLE, given)
    with pytest.raises(PipelineError, match=message):
        remote_stage.read_pools(_STAGES)


def test_a_machine_without_the_checkout_says_so(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="must share the checkout's file system"):
        remote_stage.serve_stage(tmp_path / "absent", "generate", "1", _LOG, "", "")
    assert not (tmp_path / "absent").exists()


def test_the_page_of_a_stage_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hf_" + "a1B2" * 8

    def refuse(*_: Any) -> StageOutcome:
        raise PipelineError(f"no model {secret}")

    monkeypatch.setattr(remote_stage, "serve_stage", refuse)
    monkeypatch.setattr(remote_flow, "get_run_logger", lambda: _LOG)
    monkeypatch.setattr(remote_flow, "set_prefect_environment", lambda _: None)
    state = remote_flow.stage.fn(str(tmp_path), "generate", "1")
    assert state.message == "no model ***"


@pytest.mark.parametrize("asked", [None, {"ticket": "2", "beat": 1}, {"ticket": "1", "stop": True}])
def test_what_nobody_asks_for_any_more_is_not_begun(
    tmp_path: Path, asked: dict[str, Any] | None
) -> None:
    question, answer = remote_stage._files(tmp_path, "generate")
    if asked:
        write_json(question, asked)
    with pytest.raises(PipelineError, match=STOPPED):
        remote_stage.serve_stage(tmp_path, "generate", "1", _LOG, "", "")
    assert not answer.exists()


def test_a_request_that_cannot_be_read_for_a_moment_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced every two seconds: a network file system may then fail a read."""
    question, _ = remote_stage._files(tmp_path, "generate")
    write_json(question, {"ticket": "1", "beat": 1})

    def run(folder: Path, stage: str, log: Any, watch: Any, *_: Any) -> StageOutcome:
        question.unlink()
        watch()
        write_json(question, {"ticket": "1", "stop": True})
        with pytest.raises(PipelineError, match=STOPPED):
            watch()
        return StageOutcome(stage, "ran", 1.0)

    monkeypatch.setattr(remote_stage, "reproduce", run)
    outcome = remote_stage.serve_stage(tmp_path, "generate", "1", _LOG, "", "")
    assert outcome.status == "ran"


def test_the_pool_learns_which_run_asks_and_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A registered version's card shows them."""
    environments = []

    def deploy(name: str, parameters: dict[str, str], **_: Any) -> Any:
        assert name == "stage/gpu"
        validated = remote_flow.stage.validate_parameters(parameters)
        validated["folder"] = Path(validated["folder"])
        remote_stage.serve_stage(**validated, log=_LOG)
        return SimpleNamespace(id=UUID(int=1))

    def run(folder: Path, stage: str, *rest: Any) -> StageOutcome:
        environments.append(rest[-1])
        return StageOutcome(stage, "ran", 1.0)

    monkeypatch.setattr(remote_stage, "run_deployment", deploy)
    monkeypatch.setattr(remote_stage, "reproduce", run)
    outcome = remote_stage.request_stage(
        "gpu", tmp_path, "register", _LOG, lambda: None, "run 1", "make run PROFILE=mine"
    )
    assert outcome == StageOutcome("register", "ran", 1.0)
    assert environments == [
        {"PIPELINE_FLOW_RUN": "run 1", "PIPELINE_COMMAND": "make run PROFILE=mine"}
    ]


def test_a_run_that_is_stopped_cancels_its_request_and_tells_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first: the worker sees it although the server does not answer."""
    question, _ = remote_stage._files(tmp_path, "generate")
    ended = []

    def stop() -> None:
        raise StoppedError(STOPPED)

    def end(child: UUID, state: Any) -> None:
        ended.append((child.int, state.type.value, read_json(question)["stop"]))

    monkeypatch.setattr(
        remote_stage, "run_deployment", lambda *_, **__: SimpleNamespace(id=UUID(int=1))
    )
    monkeypatch.setattr(remote_stage, "_end", end)
    with pytest.raises(StoppedError):
        remote_stage.request_stage("gpu", tmp_path, "generate", _LOG, stop, "", "")
    assert ended == [(1, "CANCELLED", True)]


def test_one_side_lives_as_long_as_it_says_something_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_stage, "_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(remote_stage, "_BEAT_SECONDS", 0.0)
    voice, beat = (
        remote_stage._PeerFile(tmp_path / "said.json"),
        remote_stage._Heartbeat(tmp_path / "said.json", "1"),
    )
    for _ in range(4):
        beat()
        voice.read()
        assert not voice.is_silent()
        time.sleep(0.1)
    time.sleep(0.2)
    voice.read()
    assert voice.is_silent()


@pytest.fixture(scope="module")
def workers(toy: Path, api: str) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """A worker in each of the two pools, which :mod:`flows.deploy` made; both sides give up sooner
    than in earnest.
    """
    code = toy / "flows" / "remote_stage.py"
    assert code.read_text().count("_SILENCE_SECONDS = 180.0") == 1
    code.write_text(code.read_text().replace("_SILENCE_SECONDS = 180.0", "_SILENCE_SECONDS = 20.0"))
    own = {
        **environment(toy),
        "PREFECT_API_URL": api,
        "PIPELINE_HOME": str(toy),
        "PREFECT_HOME": str(toy / ".prefect"),
        remote_stage.VARIABLE: _POOLS,
    }
    subprocess.run([sys.executable, "-m", "flows.deploy", "1"], cwd=toy, env=own, check=True)
    own |= {"PREFECT_WORKER_QUERY_SECONDS": "2"}
    running = {}
    for pool in ("gpu", "big"):
        command = [
            sys.executable,
            "-m",
            "prefect",
            "worker",
            "start",
            "--pool",
            pool,
            "--type",
            "process",
            "--limit",
            "1",
        ]
        running[pool] = subprocess.Popen(
            command,
            cwd=toy,
            env={**own, "TOY_HANG": "validate"} if pool == "big" else own,
            start_new_session=True,
        )
    yield running
    for process in running.values():
        process.terminate()
    for process in running.values():
        process.wait(60)


def _pipeline(toy: Path, api: str, *request: str) -> subprocess.Popen[str]:
    own = {**environment(toy), "PREFECT_API_URL": api, remote_stage.VARIABLE: _POOLS}
    return subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline", *request],
        cwd=toy,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _await(path: Path, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert running.poll() is None and time.monotonic() < deadline, running.communicate()
        time.sleep(0.1)


def _hanging(
    toy: Path, api: str, name: str, temperature: str
) -> tuple[Path, subprocess.Popen[str]]:
    """Start a run and wait until its stage hangs in the other pool; return the run's checkout and
    its process.
    """
    own = toy / ".runs" / name
    running = _pipeline(toy, api, "--name", name, "--set", f"generate.temperature={temperature}")
    _await(own / ".work" / "hanging", running)
    return own, running


def _children(api: str) -> list[dict[str, Any]]:
    return ask(
        f"{api}/flow_runs/filter",
        flows={"name": {"any_": [remote_stage.FLOW]}},
        sort="START_TIME_DESC",
    )


def _shown(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(_STAGES)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stages_run_in_their_pools(
    toy: Path, api: str, workers: dict[str, subprocess.Popen[bytes]]
) -> None:
    own, running = _hanging(toy, api, "placed", "0.2")
    (own / ".work" / "go").touch()
    out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert [run["state"]["type"] for run in _children(api)] == ["COMPLETED"] * 2
    assert read_json(own / "artifacts/generate/metrics.json") == {"temperature": 0.2}
    assert _shown(out)["generate"][1:3] != ["not", "run"] and "failed" not in out.lower()
    # What the pools did counts for DVC: the same request finds nothing to do.
    again, err = _pipeline(
        toy, api, "--name", "placed", "--set", "generate.temperature=0.2"
    ).communicate(timeout=240)
    assert [_shown(again)[stage][1] for stage in _STAGES] == ["unchanged"] * 3, again + err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_failure_there_is_the_same_line_as_here(
    toy: Path, api: str, workers: dict[str, subprocess.Popen[bytes]]
) -> None:
    running = _pipeline(toy, api, "--name", "unlucky", "--set", "generate.seed=13")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 1
    assert err.splitlines()[-1] == "error: generate: seed 13 is bad luck: take another"
    assert "not run" in next(line for line in out.splitlines() if line.startswith("validate"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "status", "patience"), [(signal.SIGINT, 130, 20), (signal.SIGKILL, -9, 60)]
)
def test_a_stopped_run_stops_its_stage_there(
    toy: Path, api: str, workers: dict[str, Any], number: int, status: int, patience: int
) -> None:
    own, running = _hanging(toy, api, f"stopped{status}", f"0.4{int(number)}")
    running.send_signal(number)
    assert running.wait(30) == status
    await_no_process_in(own, patience)
    assert workers["big"].poll() is None
    deadline = time.monotonic() + 60
    while _children(api)[0]["state"]["type"] not in ("FAILED", "CANCELLED"):
        assert time.monotonic() < deadline, _children(api)[0]["state"]
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_machine_that_dies_is_told_of(
    toy: Path, api: str, workers: dict[str, subprocess.Popen[bytes]]
) -> None:
    own, running = _hanging(toy, api, "dead", "0.6")
    os.killpg(workers["big"].pid, signal.SIGKILL)
    _, err = running.communicate(timeout=120)
    assert running.returncode == 1
    assert (
        err.splitlines()[-1] == "error: validate: pool big: its worker sent no heartbeat for 20 s"
    )
    await_no_process_in(own, patience=20)
