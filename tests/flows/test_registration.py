"""A registration whose run or version the MLflow store does not have is done again."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.runs.dvc_repro import reproduce
from flows.runs.registration import find_lost
from tests.conftest import make_once
from tests.toy import dvc, environment

_GRAPH = """
stages:
  register:
    cmd: python register.py
    deps: [register.py]
    outs: [artifacts/register]
"""
_STAGE = """
import json, time
from pathlib import Path
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
run = client.create_run("0").info.run_id
if not client.search_registered_models():
    client.create_registered_model("m")
version = client.create_model_version("m", "file:///nowhere", run).version
out = Path("artifacts/register")
out.mkdir(parents=True)
told = {"run_id": run, "model_name": "m", "version": str(version)}
(out / "registration.json").write_text(json.dumps(told))
"""


@pytest.fixture
def registered(
    tmp_path_factory: pytest.TempPathFactory,
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A checkout whose only stage has registered version 1 of ``m`` in a store of its own."""

    def make(folder: Path) -> None:
        silent = {"DVC_NO_ANALYTICS": "1"}  # no .dvc/config switches it off here
        dvc(folder, "init", "--no-scm", "--quiet", **silent)
        (folder / "dvc.yaml").write_text(_GRAPH)
        (folder / "register.py").write_text(_STAGE)
        shutil.copy(empty_store, folder / "mlflow.db")
        dvc(folder, "repro", "--quiet", **silent)

    folder = tmp_path / "checkout"
    shutil.copytree(make_once(tmp_path_factory, "registered", make), folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder


def _told(folder: Path) -> dict[str, str]:
    path = folder / "artifacts" / "register" / "registration.json"
    found: dict[str, str] = json.loads(path.read_text())
    return found


def _client(folder: Path) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")


def _nothing(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize("lost", ["unchanged", "restored"])
def test_register_runs_again_where_the_store_was_emptied(
    registered: Path, empty_store: Path, lost: str
) -> None:
    lines: list[str] = []

    def run() -> str:
        known = environment(registered)
        return reproduce(registered, "register", lines.append, lambda: None, known).status

    before = _told(registered)
    if lost == "unchanged":
        assert run() == "unchanged", "the store has it"
    else:
        shutil.rmtree(registered / "artifacts")
    shutil.copy(empty_store, registered / "mlflow.db")
    assert run() == "ran"
    told = _told(registered)
    assert told["run_id"] != before["run_id"] and find_lost(registered, _nothing) == ""
    assert [line for line in lines if "again" in line] == [
        f"register runs again: run {before['run_id']} is not in the MLflow store "
        f"sqlite:///{registered / 'mlflow.db'}"
    ]


def test_what_a_store_of_ones_own_can_lack(registered: Path) -> None:
    client, told = _client(registered), _told(registered)
    store = f" is not in the MLflow store sqlite:///{registered / 'mlflow.db'}"
    assert find_lost(registered, _nothing) == ""
    client.delete_model_version("m", "1")
    assert find_lost(registered, _nothing) == f"m version 1{store}"
    client.delete_run(told["run_id"])
    assert find_lost(registered, _nothing) == f"run {told['run_id']}{store}"
    (registered / "mlflow.db").write_bytes(b"")
    assert find_lost(registered, _nothing) == f"run {told['run_id']}{store}"
    (registered / "mlflow.db").unlink()
    assert find_lost(registered, _nothing) == f"run {told['run_id']}{store}"
    assert not (registered / "mlflow.db").exists(), "to look makes no store"
    (registered / "mlflow.db").write_bytes(b"no database" * 1000)
    warnings: list[str] = []
    assert find_lost(registered, warnings.append) == ""
    assert len(warnings) == 1 and "does not answer (file is not a database)" in warnings[0]
    shutil.rmtree(registered / "artifacts")
    assert find_lost(registered, _nothing) == "", "nothing is registered"


class _Server(BaseHTTPRequestHandler):
    """MLflow's server, as far as it is asked: it knows what ``known`` says."""

    known: dict[str, tuple[int, Any]]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        status, body = self.known[self.path.rpartition("mlflow/")[2].partition("?")[0]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Server]]:
    """A server whose address is the MLflow store's, with a user's name and password in it."""
    run = {"run": {"info": {"lifecycle_stage": "active"}}}
    _Server.known = {"runs/get": (200, run), "model-versions/get": (200, {})}
    _Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        port = listening.server_address[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:pass@127.0.0.1:{port}/")
        yield _Server
        listening.shutdown()


def test_a_server_is_asked_for_run_and_version(
    tmp_path: Path, server: type[_Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "artifacts" / "register"
    folder.mkdir(parents=True)
    told = {"run_id": "abc", "model_name": "a b", "version": "2"}
    (folder / "registration.json").write_text(json.dumps(told))
    assert find_lost(tmp_path, _nothing) == ""
    basic = "Basic bWU6cGFzcw=="
    assert server.asked == [
        ("/api/2.0/mlflow/runs/get?run_id=abc", basic),
        ("/api/2.0/mlflow/model-versions/get?name=a+b&version=2", basic),
    ]
    gone = (404, {"error_code": "RESOURCE_DOES_NOT_EXIST"})
    server.known["model-versions/get"] = gone
    assert find_lost(tmp_path, _nothing).startswith("a b version 2 is not in the MLflow store http")
    server.known["runs/get"] = (200, {"run": {"info": {"lifecycle_stage": "deleted"}}})
    assert find_lost(tmp_path, _nothing).startswith("run abc is not in the MLflow store http")
    server.known["runs/get"] = gone
    lost = find_lost(tmp_path, _nothing)
    assert lost.startswith("run abc is not in the MLflow store http") and "pass" not in lost
    for answer in ((401, {}), (404, {"detail": "another server"}), (404, "?"), (200, [])):
        warnings: list[str] = []
        server.known["runs/get"] = answer
        assert find_lost(tmp_path, warnings.append) == ""
        assert len(warnings) == 1 and "pass" not in warnings[0], answer
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://team/mlflow")
    assert find_lost(tmp_path, _nothing) == "", "nothing is known of it"
