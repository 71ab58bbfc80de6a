"""A chat model as the generator: prompt files, parsing with a reason for every failure, a local
model and an address.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import PipelineError
from tasks.core.parquet import read_table, write_table
from tasks.generate import shards
from tasks.generate import stage as generate
from tasks.generate.prompted import read_prompts
from tasks.lm.address import KEY_OF, AddressEngine
from tasks.lm.engine import Completion, Sampling
from tasks.validate import stage as validate
from tests.conftest import ROOT, passage_table

_PROMPTS = ROOT / "supervision/prompts"
_TYPES = sorted(path.stem for path in _PROMPTS.glob("*.yaml"))


def test_every_shipped_prompt_is_sound_and_parses_what_it_asks_for() -> None:
    assert {"exqa", "ynqa", "nli"} <= set(_TYPES)
    form = read_prompts(_PROMPTS, _TYPES)
    for name in _TYPES:
        marks = form.prompts[name].marks
        task = form.parse(
            "\n".join(f"{mark.capitalize()}: some {mark} {{it}}" for mark in marks), True, name
        )
        assert (
            not task.reason
            and "{{context}}" in task.instruction
            and task.response == f"some {marks[-1]} {{it}}"
        )
        assert "A passage." in form.prompt(
            None, "A passage.", name
        ) and "{{context}}" not in form.prompt(None, "A passage.", name)


@pytest.mark.parametrize("kind", ["nli", "ynqa", "topic_class"])
def test_custom_labels_reach_the_request_the_instruction_and_what_is_kept(
    tmp_path: Path, monkeypatch: Any, make_params: Any, tiny_model: Path, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = ["allowed", "forbidden", "not said"]

    answers = itertools.cycle(["Allowed", "forbidden.", "yes"])

    class Engine:
        def generate(self, prompts: Any, *_: Any) -> list[Completion]:
            lead = {
                "nli": "Claim: The pump was mended.\nAnswer:",
                "ynqa": "Question: Was the pump mended?\nAnswer:",
                "topic_class": "Topic:",
            }[kind]
            return [Completion(f"{lead} {next(answers)}", 9, True) for _ in prompts]

    monkeypatch.setattr(shards, "open_engine", lambda *_, **__: Engine())
    write_table(Path("passages.parquet"), passage_table(9))
    path = make_params(
        supervise={"source": "prompted", "prompts": str(_PROMPTS)},
        generate={
            "generator": str(tiny_model),
            "samples": 1,
            "task_types": [kind],
            "shard_rows": 3,
        },
        validate={"labels": labels, "min_yield": 0.1},
    )
    assert (
        generate.main(
            ["--params", str(path), "--passages", "passages.parquet", "--out", "generated"]
        )
        == 0
    )
    assert (
        validate.main(
            [
                "--params",
                str(path),
                "--predictions",
                "generated/predictions.parquet",
                "--out",
                "validated",
            ]
        )
        == 0
    )
    rows = read_table(Path("validated/instructions.parquet")).to_pylist()
    assert {row["response"].strip(".").lower() for row in rows} == {"allowed", "forbidden"} and len(
        rows
    ) == 6
    assert all("allowed, forbidden or not said" in row["instruction"] for row in rows)
    bad = read_table(Path("validated/quarantine.parquet")).to_pylist()
    assert len(bad) == 3 and all("label_in_family" in row["reasons"] for row in bad)


@pytest.mark.parametrize(
    ("text", "finished", "reason"),
    [
        ("Sure!\n**Question:** Why?\n**Answer:** its seal\n\nI hope that helps.", True, ""),
        ("Question：Why?\nAnswer：its seal", True, ""),
        ("Why did it fail?", True, "no_question"),
        ("Question: Why", False, "truncated"),
        ("Question: Why?\nAnswer: its", False, "truncated"),
        ("Question: Why?\nAnswer:", True, "empty_answer"),
        ("Answer: its seal\nQuestion: Why?", True, "parts_out_of_order"),
    ],
)
def test_every_unusable_answer_has_a_reason(text: str, finished: bool, reason: str) -> None:
    task = read_prompts(_PROMPTS, ["exqa"]).parse(text, finished, "exqa")
    assert task.reason == reason
    if not reason:
        assert task.instruction == "{{context}}\n\nQuestion: Why?" and task.response == "its seal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "prompt texts for .*write one for exqa"),
        (
            "request: hello\nmarks: [a, b]\ninstruction: '{{context}}'\nresponse: '{b}'",
            "must both hold {{context}}",
        ),
        (
            (
                "request: '{{context}}'\nmarks: [a, b]\ninstruction: '{{context}} "
                "{c}'\nresponse: '{b}'"
            ),
            "{c} is not one of its marks",
        ),
        (
            "request: '{{context}} {{labels}}?'\nmarks: [a]\ninstruction: '{{context}}'\n"
            "response: '{a}'",
            "there are no labels for {{labels}}: give it some, or set validate.labels",
        ),
        (
            "request: '{{context}}'\nmark: [a, b]\ninstruction: '{{context}}'\nresponse: '{b}'",
            "did you mean 'marks'",
        ),
    ],
)
def test_bad_prompt_files_are_one_line(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "exqa.yaml").write_text(text)
    with pytest.raises(PipelineError, match=message):
        read_prompts(tmp_path, ["exqa"])


class _Server(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))  # type: ignore[attr-defined]
        if body["model"] == "busy" and len(self.server.seen) < 3:  # type: ignore[attr-defined]
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if body["model"] == "moved":
            self.send_response(302)
            self.send_header("Location", "http://example.invalid/")
            self.end_headers()
            return
        answer = {
            "choices": [
                {
                    "message": {
                        "content": f"Question: Why ({body['seed']})?\nAnswer: its seal broke"
                    },
                    "finish_reason": "stop",
                }
            ]
        }
        usage = [9] if body["model"] == "listed" else {"completion_tokens": 9}
        data = json.dumps({} if body["model"] == "broken" else {**answer, "usage": usage}).encode()
        self.send_response(404 if body["model"] == "absent" else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as own:
        own.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=own.serve_forever, daemon=True).start()
        yield own
        own.shutdown()


def test_an_address_writes_the_same_rows(
    tmp_path: Path, monkeypatch: Any, make_params: Any, server: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    write_table(Path("passages.parquet"), passage_table(3))
    address = f"http://127.0.0.1:{server.server_port}/v1"
    path = make_params(
        supervise={"source": "prompted", "prompts": str(_PROMPTS)},
        generate={
            "generator": "a chat model",
            "address": address,
            "samples": 2,
            "shard_rows": 4,
            "temperature": 0.7,
        },
    )
    assert (
        generate.main(["--params", str(path), "--passages", "passages.parquet", "--out", "out"])
        == 0
    )
    rows = read_table(Path("out/predictions.parquet")).to_pylist()
    assert len(rows) == 6 and all(
        row["parsed"] and row["response"] == "its seal broke" for row in rows
    )
    assert [row["instruction"] for row in rows] == [
        f"{{{{context}}}}\n\nQuestion: Why ({row['seed']})?" for row in rows
    ], "an answer went to another row"
    assert rows[0]["revision"] == f"a chat model@{address}" and rows[0]["output_tokens"] == 9
    asked_at, body = server.seen[0]
    assert (
        asked_at == "/v1/chat/completions"
        and body["temperature"] == 0.7
        and "because its seal broke" in body["messages"][0]["content"]
    )


def test_a_local_model_is_asked_by_its_chat_template(
    tmp_path: Path, monkeypatch: Any, make_params: Any, tiny_model: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[list[int]] = []

    class Engine:
        def generate(self, prompts: Any, *_: Any) -> list[Completion]:
            seen.extend(prompts)
            return [Completion("Question: Why?\nAnswer: its seal broke", 9, True)] * len(prompts)

    monkeypatch.setattr(shards, "open_engine", lambda *_, **__: Engine())
    write_table(Path("passages.parquet"), passage_table(2))
    path = make_params(
        supervise={"source": "prompted", "prompts": str(_PROMPTS)},
        generate={"generator": str(tiny_model), "samples": 1},
    )
    assert (
        generate.main(["--params", str(path), "--passages", "passages.parquet", "--out", "out"])
        == 0
    )
    from tasks.lm.tokenizers import load_tokenizer

    text = load_tokenizer(str(tiny_model)).decode(seen[0])
    assert text.startswith("<|im_start|>Read the passage.") and text.endswith(
        "<|im_end|><|im_start|>"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("absent", "answers 404"),
        ("broken", "no usable chat completion"),
        ("listed", "no usable chat completion"),
        ("moved", "answers 302"),
    ],
)
def test_what_an_address_refuses_is_one_line(server: Any, model: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        AddressEngine(
            f"http://127.0.0.1:{server.server_port}/v1", model, "generate.address"
        ).generate(["hello"], Sampling(0.0, 1.0, 8), [1])


def test_a_busy_server_is_asked_again(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.lm.address._WAITS", (0.0, 0.0))
    engine = AddressEngine(f"http://127.0.0.1:{server.server_port}/v1", "busy", "generate.address")
    (done,) = engine.generate(["hello"], Sampling(0.0, 1.0, 8), [1])
    assert done.finished and len(server.seen) == 3
    server.shutdown()
    server.server_close()
    with pytest.raises(PipelineError, match="is the server up"):
        engine.generate(["hello"], Sampling(0.0, 1.0, 8), [1])


def test_what_cannot_be_asked_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="no usable chat completion .*Invalid port"):
        AddressEngine("http://127.0.0.1:abc/v1", "m", "generate.address").generate(
            ["hello"], Sampling(0.0, 1.0, 8), [1]
        )
    monkeypatch.setenv("ALL_PROXY", "gopher://proxy.invalid:70")
    with pytest.raises(PipelineError, match="proxy that the environment names cannot be used"):
        AddressEngine("http://model.invalid/v1", "m", "generate.address")
    AddressEngine("http://127.0.0.1:1/v1", "m", "generate.address")  # a proxy is for other machines


@pytest.mark.parametrize("setting", sorted(KEY_OF))
def test_a_key_is_not_sent_in_clear_to_another_machine(
    monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.delenv(KEY_OF[setting], raising=False)
    AddressEngine("http://model.invalid/v1", "m", setting)
    monkeypatch.setenv(KEY_OF[setting], "secret")
    with pytest.raises(PipelineError, match=f"{setting}: {KEY_OF[setting]} .* model.invalid") as it:
        AddressEngine("http://model.invalid/v1", "m", setting)
    assert "secret" not in str(it.value) and "https" in str(it.value)
    for address in ("https://model.invalid/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1"):
        AddressEngine(address, "m", setting)


def test_an_address_is_http_and_goes_with_prompted(
    tmp_path: Path, monkeypatch: Any, make_params: Any, capsys: Any
) -> None:
    with pytest.raises(PipelineError, match="is no http address"):
        AddressEngine("file:///etc/passwd", "m", "generate.address")
    monkeypatch.chdir(tmp_path)
    write_table(Path("passages.parquet"), passage_table(2))
    path = make_params(generate={"address": "http://127.0.0.1:1/v1"})
    assert (
        generate.main(["--params", str(path), "--passages", "passages.parquet", "--out", "out"])
        == 2
    )
    assert "goes with supervise.source prompted" in capsys.readouterr().err
