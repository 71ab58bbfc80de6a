"""Serving a registered model: what names one, the server's command line, and (``pytest -m slow``)
the server itself, asked over HTTP.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from argparse import Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks import serve
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.lock import hold_lock
from tasks.core.own_pages import OwnPagesOnly
from tasks.core.parquet import read_table, write_table
from tasks.core.ports import find_free_port
from tasks.core.process import is_alive
from tasks.lm import vllm_settings
from tasks.lm.prompts import Prompter
from tasks.lm.tokenizers import load_tokenizer
from tasks.release import export, push
from tasks.tracking.fetch_model import parse_model_uri
from tasks.tracking.kept_answers import KeptAnswer, KeptAnswers
from tests.conftest import ROOT, make_sentencepiece_model
from tests.registered import evaluate_tiny, register_names, register_tiny, write_judged


@pytest.mark.parametrize(
    ("uri", "parts"),
    [("models:/a-b.c@champion", ("a-b.c", "champion", "")), ("models:/x/12", ("x", "", "12"))],
)
def test_names_of_registered_models(uri: str, parts: tuple[str, str, str]) -> None:
    assert parse_model_uri(uri) == parts


@pytest.mark.parametrize(
    "uri", ["a-b", "models:/x", "models:/x/latest", "runs:/1/adapter", "models:/x@"]
)
def test_other_names_are_refused(uri: str) -> None:
    with pytest.raises(
        PipelineError, match="names no registered model: write models:/NAME@champion"
    ):
        parse_model_uri(uri)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> str:
    return register_names(tmp_path_factory.mktemp("names"), empty_store)


_MODELS = "the models there are contracts, incidents-qa"
_VERSIONS = "it has versions 2, 1 and aliases champion (2): write MODEL=models:/incidents-qa/2"


_WRONG: list[tuple[str, list[str]]] = [
    (
        "models:/nosuch/1",
        ["no model is called 'nosuch'; ", _MODELS, ": write MODEL=models:/NAME@champion"],
    ),
    (
        "models:/incident-qa@champion",
        ["no model is called 'incident-qa' (did you mean 'incidents-qa'?); ", _MODELS],
    ),
    ("models:/incidents-qa/3", ["incidents-qa has no version '3'; ", _VERSIONS]),
    (
        "models:/incidents-qa@champoin",
        ["no alias 'champoin' (did you mean 'champion'?); ", _VERSIONS],
    ),
    (
        "models:/contracts@nosuch",
        ["contracts has no alias 'nosuch'; it has versions 1 and no aliases: write MODEL="],
    ),
    ("models:/incidents-qa", ["names no registered model: write models:/NAME", _MODELS]),
    (
        "models:/incidents-qa/2",
        ["of models:/incidents-qa/2 cannot be fetched from sqlite:", "registers it again"],
    ),
]


@pytest.mark.parametrize(
    ("command", "uri", "words"),
    [*(("serve", *wrong) for wrong in _WRONG), ("export", *_WRONG[0]), ("push", *_WRONG[0])],
)
def test_a_wrong_name_version_or_alias_is_one_line_with_those_there_are(
    command: str,
    uri: str,
    words: list[str],
    names: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", names)
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    given = {"serve": ["--port", str(find_free_port())], "export": ["--out", str(tmp_path / "out")]}
    run = {"serve": serve.main, "export": export.main, "push": push.main}[command]
    assert run(["--model", uri, *given.get(command, ["--repo", "own/mine"])]) == 2
    said = capsys.readouterr().err.splitlines()
    errors = [line for line in said if line.startswith(f"error: {command}: ")]
    assert said[-1:] == errors and not (tmp_path / "out").exists()
    for part in words:
        assert part in errors[0]


def test_a_model_nobody_registered_is_one_line(
    tmp_path: Path,
    empty_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    assert serve.main(["--model", "models:/nobody@champion"]) == 2
    said = capsys.readouterr().err
    assert "error: serve: models:/nobody@champion is not in sqlite:" in said
    assert "no model is registered there: make run registers one, " in said


def test_the_scored_checkpoint_is_served_and_no_adapter_beside_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_settings.torch.cuda, "mem_get_info", lambda *_: (80 << 30, 80 << 30))
    monkeypatch.setattr(vllm_settings.torch.cuda, "get_device_capability", lambda: (9, 0))
    for gpu in (False, True):
        monkeypatch.setattr(vllm_settings.torch.cuda, "is_available", lambda gpu=gpu: gpu)
        command, _ = vllm_settings.serve_command(
            tmp_path, "m", "127.0.0.1", 8000, 512, "float32", gpu_memory_utilization=0.5
        )
        options = dict(pairwise(command))
        assert options["--model"] == str(tmp_path) and options["--served-model-name"] == "m"
        assert options["--load-format"] == "safetensors"
        assert options["--config-format"] == options["--tokenizer-mode"] == "hf"
        assert options.get("--gpu-memory-utilization") == ("0.5" if gpu else None)
        assert ("--enforce-eager" in command) == (not gpu)
        assert not {"--enable-lora", "--lora-modules", "--trust-remote-code"} & set(command)


def test_a_taken_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert serve.main(["--model", "models:/nobody@champion", "--port", str(port)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert (
        len(said) == 1
        and said[0].startswith(f"error: serve: cannot listen on 127.0.0.1:{port} (")
        and f"SERVE_PORT={port + 1}" in said[0]
    )


#: Stands in for vLLM: answers /health, completes a prompt with its tokens, and starts a process
#: that ignores TERM.
_SERVER = """
import http.server, json, subprocess, sys
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
print("started", subprocess.Popen([sys.executable, "-c", child]).pid, flush=True)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["model"] == "m" and asked["temperature"] == 0
        self.send_response(200 if len(asked["prompt"]) < asked["max_tokens"] else 400)
        self.end_headers()
        text = " " + " ".join(map(str, asked["prompt"]))
        self.wfile.write(json.dumps({"choices": [{"text": text}]}).encode())
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
_RUN = """
import sys
from tasks import serve
from tasks.core import card
from tasks.core.log_lines import set_up_logging
from tasks.core.stage import one_line_errors
from tasks.tracking.kept_answers import KeptAnswers
set_up_logging("serve")
port, code, *served = sys.argv[1:]
card._wait_for("0")
with one_line_errors("serve"):
    command, address = [sys.executable, "-c", code, port], f"http://127.0.0.1:{port}"
    for kept in served:  # one server after the other
        known = KeptAnswers.model_validate_json(kept) if kept else None
        assert serve.run(serve.Server(command, {}, address, "curl it", "m", known)) == 0
    sys.exit(0)
sys.exit(2)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_it_says_when_it_is_ready_and_ends_with_all_that_it_started(
    number: signal.Signals,
) -> None:
    server, said = _started("")
    assert any("ready: http://127.0.0.1:" in line for line in said), said
    child = next(line.split()[1] for line in said if line.startswith("started"))
    assert is_alive(child)
    server.send_signal(number)
    assert server.wait(30) == (0 if number != signal.SIGKILL else -number)
    deadline = time.monotonic() + 20
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)


@pytest.mark.parametrize("text", ["0", "1.5", "half", "nan"])
def test_a_share_that_is_none_is_one_line(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve.main(["--model", "models:/m/1", "--gpu-memory", text]) == 2
    assert f"error: serve: GPU_MEMORY={text} must be a share" in capsys.readouterr().err


def test_a_run_beside_a_ready_server_does_not_wait_for_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path))
    server, _ = _started("")
    with hold_lock(tmp_path / "cards" / "0.lock", "work on GPU 0", patience=0.0):
        assert server.poll() is None
    server.terminate()
    assert server.wait(30) == 0


def _started(*kept: str, host: str = "127.0.0.1") -> tuple[subprocess.Popen[str], list[str]]:
    """Return a server that is ready, and the lines until then; its process has one for each of
    ``kept``, the next when one is stopped.
    """
    code, served = (text.replace("127.0.0.1", host) for text in (_RUN, _SERVER))
    server = subprocess.Popen(
        [sys.executable, "-c", code, str(find_free_port()), served, *kept],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return server, _until_ready(server)


def _until_ready(server: subprocess.Popen[str]) -> list[str]:
    assert server.stdout is not None
    said: list[str] = []
    for line in server.stdout:
        said.append(line)
        if "try it: curl it" in line:
            break
    return said


#: Floor and answers that are kept with a version, and the line that tells how many the server gave.
_KEPT: list[tuple[float, list[str] | None, str]] = [
    (0.5, ["1 2", "3", "other"], "answers as scored: 2 of 3\n"),
    (
        0.9,
        ["1 2", "3", "other"],
        "answers as scored: 2 of 3 (register.parity_floor was 0.9): the F1 in MLflow",
    ),
    (0.0, ["x", "y", "z"], "answers as scored: 0 of 3 (register.parity_floor was 0)"),
    (0.5, None, "answers not checked: none that fit are kept with this version"),
    (0.5, ["1 2", "3", "refused"], "answers not checked: "),
]


def _keep(floor: float, answers: list[str] | None) -> str:
    if not answers:
        return ""
    prompts = [[1, 2], [3], [4] * (9 if answers[-1] == "refused" else 3)]
    kept = tuple(
        KeptAnswer(prompt=tuple(prompt), answer=answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    )
    return KeptAnswers(floor=floor, max_tokens=5, answers=kept).model_dump_json()


@pytest.fixture(scope="module")
def said_until_ready() -> list[list[str]]:
    """What is said for each of ``_KEPT`` until its server is ready: by one process, whose libraries
    take two seconds.
    """
    server, first = _started(*(_keep(floor, answers) for floor, answers, _ in _KEPT))
    said = [first]
    for _ in _KEPT[1:]:
        server.terminate()
        said.append(_until_ready(server))
    server.terminate()
    assert server.wait(30) == 0
    return said


@pytest.mark.parametrize("number", range(len(_KEPT)))
def test_before_it_is_ready_it_is_asked_what_was_scored(
    said_until_ready: list[list[str]], number: int
) -> None:
    said, line = said_until_ready[number], _KEPT[number][2]
    told = [one for one in said if "answers" in one and "ready" not in one]
    assert len(told) == 1 and line in told[0], said
    assert "ready: " in said[said.index(told[0]) + 1]


def test_a_proxy_of_the_environment_is_not_asked_for_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor told what was scored. Only the usual names of loopback are exceptions of a proxy."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    server, said = _started(_keep(0.5, ["1 2", "3", "other"]), host="127.0.0.2")
    server.terminate()
    assert server.wait(30) == 0
    assert any("answers as scored: 2 of 3" in line for line in said), said


def test_answers_that_the_server_has_no_room_for_are_not_asked() -> None:
    known = tuple(KeptAnswer(prompt=(1,) * size, answer="a") for size in (2, 6))
    kept = KeptAnswers(floor=0.5, max_tokens=4, answers=known)
    assert kept.fitting(6).answers == known[:1] and kept.fitting(10) == kept


def test_a_server_that_ends_by_itself_is_one_line() -> None:
    command = [sys.executable, "-c", _RUN, "1", "import sys; sys.exit('no memory')", ""]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: serve: the server ended by itself with status 1; its message" in done.stderr


@pytest.mark.parametrize("form", ["bonito", "chat"])
def test_the_question_is_the_prompt_of_training_to_the_token(tiny_model: Path, form: str) -> None:
    prompter = Prompter(load_tokenizer(str(tiny_model)), form)
    body = serve.question("m", prompter, "Why did the pump fail?")
    ids = prompter.tokenizer.encode(body["prompt"], add_special_tokens=False)
    assert ids == prompter.prompt("Why did the pump fail?")
    assert body["add_special_tokens"] is False and body["model"] == "m"


def test_a_label_is_one_of_the_choices_without_the_models_own_preference(tiny_model: Path) -> None:
    prompter = Prompter(load_tokenizer(str(tiny_model)), "bonito")
    yes, no = (prompter.response(choice)[0] for choice in ("Yes", "No"))
    asked = serve.among(prompter, ("Yes", "No"), {"Yes": 0.8, "No": 0.2})
    assert asked["max_tokens"] == 1 and asked["allowed_token_ids"] == sorted((yes, no))
    assert asked["logit_bias"] == {str(yes): 0.2231, str(no): 1.6094}
    assert serve.among(prompter, ("Yes", "No"), {})["logit_bias"] == {}
    assert serve.among(prompter, (), {}) == {}
    assert serve.among(prompter, ("Yes sir", "Yes madam"), {}) == {}, "they begin alike"


def test_the_question_is_token_ids_where_text_would_give_other_tokens(tmp_path: Path) -> None:
    folder = make_sentencepiece_model(tmp_path / "mistral", "mistral")
    tokenizer, asked = load_tokenizer(str(folder)), "Why did the pump fail?"
    prompter = Prompter(tokenizer, "bonito")
    wanted = prompter.prompt(asked)
    text = tokenizer.decode(wanted)
    assert tokenizer.encode(text, add_special_tokens=False) != wanted, "nothing to protect"
    assert serve.question("m", prompter, asked)["prompt"] == wanted


def test_the_example_fits_and_so_does_the_length_that_is_asked_for(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM refuses to start for more tokens than the model has positions for (1,024), and answers a
    longer request with an error.
    """
    prompter = Prompter(load_tokenizer(str(tiny_model)), "bonito")
    told = {
        "prompt": "bonito",
        "prompt_example": prompter.text("INSTRUCTION"),
        "precision": "float32",
    }
    asked = ["why " * 1020, "Why did the pump fail?", "Who?"]
    rows = [
        {"template": "t", "prompt": prompter.text(one), "choices": list[str]()} for one in asked
    ]
    answers = tmp_path / "predictions.parquet"
    write_table(answers, pa.Table.from_pylist(rows))
    monkeypatch.setattr(serve, "fetch_model", lambda *_: ("m", "1", tmp_path, told))
    monkeypatch.setattr(serve, "fetch_kept_answers", lambda *_: None)
    monkeypatch.setattr(serve, "scored_folder", lambda *_: tiny_model)
    monkeypatch.setattr(
        serve, "fetch_artifact", lambda *given: answers if "predictions" in given[2] else None
    )
    server = serve.prepare("models:/m/1", "127.0.0.1", find_free_port(), 2048)
    assert dict(pairwise(server.command))["--max-model-len"] == "1024"
    body = json.loads(shlex.split(server.example)[-1])
    assert body["prompt"] == serve.question("m", prompter, asked[1])["prompt"]
    assert len(prompter.prompt(asked[0])) + body["max_tokens"] > 1024, "nothing to pass over"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["incidents", "privacy"])
def test_over_http_it_answers_as_it_was_scored(
    finetuned: Any, kind: str, workplace: Path, instructions: Path
) -> None:
    """The whole way: trained, scored by vLLM, checked for parity, registered, then served by
    ``python -m tasks.serve`` and asked the same.
    """
    told = _registered(finetuned, instructions, kind)
    uri, port = f"models:/{told['model_name']}@{told['alias']}", find_free_port()
    with (workplace / "server.log").open("w") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tasks.serve",
                "--model",
                uri,
                "--port",
                str(port),
                "--max-length",
                "512",
            ],
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        deadline = time.monotonic() + 600
        while "ready: " not in (workplace / "server.log").read_text():
            assert server.poll() is None and time.monotonic() < deadline, (
                workplace / "server.log"
            ).read_text()[-2000:]
            time.sleep(0.5)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60) as response:
            assert [model["id"] for model in json.load(response)["data"]] == [told["model_name"]]
        for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            page = urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers=foreign)
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(page, timeout=60)
        kept = [
            row
            for row in read_table(Path("artifacts/evaluate/predictions.parquet")).to_pylist()
            if row["model"] == "adapted"
        ]
        assert len(kept) == 12
        weights = next((workplace / "cache/merged").glob("*"))
        prompter = Prompter(load_tokenizer(str(weights)), "chat")
        answered = [
            _ask(port, serve.question(told["model_name"], prompter, row["prompt"], 25))
            for row in kept
        ]
    finally:
        server.terminate()
        assert server.wait(60) is not None
    assert "answers as scored: 6 of 6" in (workplace / "server.log").read_text()
    if kind == "incidents":  # of labels the prediction is a choice, not the text
        assert answered == [row["prediction"] for row in kept]


def _registered(finetuned: Any, instructions: Path, kind: str) -> dict[str, Any]:
    write_judged(instructions)
    params = finetuned(kind)
    params.write_text(params.read_text().replace("engine: transformers", "engine: vllm"))
    assert evaluate_tiny(params) == 0 and register_tiny(params, instructions) == 0
    told: dict[str, Any] = read_json(Path("artifacts/register/registration.json"))
    return told


def _ask(port: int, body: dict[str, Any]) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["choices"][0]["text"]).strip()


def test_vllm_puts_our_middleware_before_its_api() -> None:
    """By vLLM's own registration, with its defaults: without ours every origin may ask."""
    from fastapi import FastAPI
    from starlette.testclient import TestClient
    from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware

    named = f"{OwnPagesOnly.__module__}.{OwnPagesOnly.__name__}"
    every = {f"allowed_{what}": ["*"] for what in ("origins", "methods", "headers")}
    off = {"allow_credentials": False, "api_key": None, "enable_request_id_headers": False}
    app = FastAPI()
    app.get("/v1/models")(lambda: "models")
    init_entrypoints_middleware(Namespace(**every, **off, middleware=[named]), app, ())
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    assert client.get("/v1/models").status_code == 200
    for foreign in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert client.get("/v1/models", headers=foreign).status_code == 403
