"""``make export`` and ``make push`` on a registered version of the tiny model, and ``make ask``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import constants
from starlette.testclient import TestClient

from flows.review import ask
from flows.review.place import Place
from flows.review.server import make_app
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.log_lines import set_up_logging
from tasks.core.page import Page
from tasks.core.parquet import write_table
from tasks.release import export, push
from tests.conftest import ROOT, passage_table
from tests.release.test_prompt_files import ask_in_other_programs

_TOKEN = "hf_" + "t" * 20


@pytest.fixture
def uri(registered: Any) -> str:
    told = registered("incidents")
    return f"models:/{told['model_name']}@{told['alias']}"


@pytest.mark.timeout(900)
def test_a_registered_model_is_exported_pushed_and_asked(
    uri: str,
    workplace: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _tells_broken_answers_first(uri, workplace, monkeypatch, capsys)
    _exports(uri, workplace, capsys)
    _pushes(uri, monkeypatch, capsys)
    _asks(uri, workplace, capsys)


def _tells_broken_answers_first(
    uri: str,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before it merges and writes a model, which takes minutes."""

    def broken(*_: Any) -> None:
        raise PipelineError("parity.json of model-incidents version 1 cannot be read")

    with monkeypatch.context() as patched:
        patched.setattr(export, "fetch_kept_answers", broken)
        assert export.main(["--model", uri, "--out", str(workplace / "late")]) == 2
    steps = capsys.readouterr().err
    assert "parity.json of model-incidents version 1 cannot be read" in steps
    assert "copying the merged checkpoint" not in steps and not (workplace / "late").exists()


def _exports(uri: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = workplace / "exported"
    assert export.main(["--model", uri, "--out", str(out)]) == 0
    said, steps = capsys.readouterr()
    assert "likeliest tokens are the same" in said
    told = [line.split(None, 2)[2] for line in steps.splitlines()]
    steps_that_take_time = (
        "opening the MLflow store sqlite:",
        "fetching models:/model-incidents/1 from sqlite:",
        "copying the merged checkpoint to ",
        "writing model-incidents-1-f16.gguf",
        "reading model-incidents-1-f16.gguf back, to compare its logits with the model's",
    )
    for step in steps_that_take_time:
        assert any(line.startswith(step) for line in told), told
    names = {file.name for file in out.iterdir()}
    assert {"README.md", "model.safetensors", "tokenizer.json", "config.json"} <= names
    assert "model-incidents-1-f16.gguf" in names and "made_from.json" not in names
    assert f"ollama create model-incidents -f {out}/Modelfile" in said
    ask_in_other_programs(out, read_json(Path("artifacts/finetune/provenance.json")))
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert export.main(["--model", uri, "--out", str(out)]) == 2
    assert "is not an empty folder" in capsys.readouterr().err
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before
    assert export.main(["--model", uri]) == 2
    assert "no folder: make export" in capsys.readouterr().err


class _Hub:
    """Takes what is sent, as the hub does: a repository, a commit with small files in it."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.sent = b""
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hub.tokens.add(self.headers.get("Authorization", ""))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                hub.asked.append((self.command, self.path))
                own = f"http://{self.headers['Host']}"
                if self.path.endswith("/preupload/main"):
                    files = [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(body)["files"]
                    ]
                    self.answer({"files": files})
                elif "/commit/" in self.path:
                    hub.sent = body
                    self.answer(
                        {"commitUrl": f"{own}/own/mine/commit/{'a' * 40}", "commitOid": "a" * 40}
                    )
                else:
                    self.answer({"url": f"{own}/own/mine", "id": "own/mine"})

            def do_GET(self) -> None:
                hub.asked.append((self.command, self.path))
                self.answer({"id": "own/mine", "sha": "b" * 40, "siblings": []})

            def answer(self, value: Any) -> None:
                content = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Hub]:
    own = _Hub()
    threading.Thread(target=own.server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{own.server.server_port}")
    yield own
    own.server.shutdown()
    own.server.server_close()


def _pushes(uri: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    asked = ["--model", uri, "--repo", "own/mine"]
    assert push.main(asked) == 0
    said = capsys.readouterr().out
    assert said.count("\nfile      ") == len(push.SENT) and "# model-incidents, version 1" in said
    assert "nothing was sent" in said
    assert push.main(["--model", uri, "--repo", "mine"]) == 2
    assert "write REPO=owner/name" in capsys.readouterr().err
    assert push.main([*asked, "--yes", "1"]) == 2
    assert "HF_TOKEN is not set" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert push.main([*asked, "--yes", "1"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_a_tilde_in_out_is_the_users_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells other than bash leave it to the program, which made a folder ``~`` in the checkout."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert export._need_empty("~/model") == tmp_path / "model"


def test_the_hub_gets_three_files_and_no_place_of_this_machine(
    tmp_path: Path, hub: _Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    adapter, folder = tmp_path / "adapter", tmp_path / "staged"
    for made in (adapter, folder):
        made.mkdir()
    (adapter / "README.md").write_text("# m\n\n## Made by\n")
    config = {"base_model_name_or_path": str(tmp_path), "revision": None}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (adapter / "passages.parquet").write_bytes(b"private")
    push.stage_files(adapter, {"base": "own/base", "revision": "c" * 40}, folder)
    told = read_json(folder / "adapter_config.json")
    assert told == {"base_model_name_or_path": "own/base", "revision": "c" * 40}
    push._send(folder, "own/mine", "m version 1")
    lines = [json.loads(line) for line in hub.sent.splitlines()]
    sent = [line["value"]["path"] for line in lines if line["key"] == "file"]
    assert sorted(sent) == sorted(push.SENT)
    assert str(tmp_path).encode() not in hub.sent and hub.tokens == {f"Bearer {_TOKEN}"}
    (adapter / "README.md").write_text("# of peft's own\n")
    with pytest.raises(PipelineError, match="registered without a card"):
        push.stage_files(adapter, {"base": "own/base", "revision": "main"}, folder)


def _asks(uri: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both models answer from the best passage, through the page and in the terminal."""
    main = workplace / "main"
    (main / "profiles").mkdir(parents=True)
    (main / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    own = {"evaluate": {"dataset": str(ROOT / "datasets/incidents.yaml"), "max_new_tokens": 4}}
    (main / "profiles/mine.yaml").write_text(yaml.safe_dump(own))
    artifacts = main / ".runs/mine/artifacts"
    (artifacts / "ingest").mkdir(parents=True)
    write_table(artifacts / "ingest/passages.parquet", passage_table(9))
    place = Place(main, "mine")
    with pytest.raises(PipelineError, match="registration.json is missing: make run PROFILE=mine"):
        ask.open_desk(place)
    (artifacts / "register").mkdir()
    (artifacts / "register/registration.json").write_text('{"verdict": "no model was made"}')
    with pytest.raises(PipelineError, match="registered no model .no model was made.: name one"):
        ask.open_desk(place)
    capsys.readouterr()
    set_up_logging("ask")
    desk = ask.open_desk(place, uri)
    assert "putting the passages into an index" in capsys.readouterr().err
    client = TestClient(
        make_app(desk, Page("Ask", script=ask.SCRIPT)), base_url="http://127.0.0.1:4302"
    )
    assert client.get("/state").json()["model"] == uri
    assert client.get("/scripts/ask.js").status_code == 200
    found = client.post("/save", json={"question": "Why did P-7 fail at 7 minutes?"}).json()
    assert found["model"] == "models:/model-incidents/1" and len(found["answers"]) == 3
    best = found["answers"][0]
    assert "P-7 " in best["text"] and best["document"] == "report-1.md"
    assert isinstance(best["adapted"], str) and isinstance(best["zero_shot"], str)
    refused = client.post("/save", json={"question": "zebra?"})
    assert refused.status_code == 409 and "no passage shares a word" in refused.json()["error"]
    assert client.post("/save", json={}).json()["error"].startswith("the question is empty")
    assert client.get("/state", headers={"Host": "evil.example"}).status_code == 403
    steps = capsys.readouterr().err
    for model in ("adapted", "zero-shot"):
        assert f"asking the model ({model}) about 3 passages" in steps
    assert "fetching models:/model-incidents/1 from sqlite:" in steps
    ask.show(found)
    said = capsys.readouterr().out
    assert "place     report-1.md, characters 0-30" in said and said.count("zero-shot ") == 3


def test_an_empty_question_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QUESTION", "  ")
    assert ask.main([]) == 2
    assert capsys.readouterr().err == "error: ask: the question is empty: make ask QUESTION='...'\n"
