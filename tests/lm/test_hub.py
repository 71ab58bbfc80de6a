"""Models of the hub: fetched with the user's token, pinned to a commit, read from the cache without
the network. A small local server plays the hub.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.params import Params
from tasks.generate.shards import identify_generator
from tasks.lm import hub, merged
from tasks.lm.merged import merged_folder
from tasks.lm.models import find_weights, identify, pinned
from tasks.lm.pins import pin
from tasks.lm.precision import dtype
from tasks.lm.tokenizers import load_tokenizer, tokenizer_json

_COMMIT, _NEXT = "a" * 40, "b" * 40
_TOKEN = "hf_" + "t" * 20


class Hub:
    """A hub with one model; ``gated`` asks for the token, ``commit`` is where main is, and
    ``without_weights`` has no safetensors.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.commit, self.gated = folder, _COMMIT, False
        self.without_weights = False
        self.fetched: list[str] = []
        self.tokens: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.tokens.add(self.headers.get("Authorization", ""))
                parts = self.path.partition("?")[0].strip("/").split("/")
                if parts[:2] == ["api", "models"] and parts[2:4] != ["own", "model"]:
                    self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
                elif "revision" in parts and parts[-1] not in ("main", _COMMIT, _NEXT):
                    self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
                elif "revision" in parts:
                    sha = hub.commit if parts[-1] == "main" else parts[-1]
                    self.answer(200, json.dumps({"id": "own/model", "sha": sha}).encode())
                elif "tree" in parts:
                    entries = [_entry(path) for path in hub.folder.iterdir() if hub.has(path.name)]
                    self.answer(200, json.dumps(entries).encode())
                elif hub.gated and self.headers.get("Authorization") != f"Bearer {_TOKEN}":
                    self.answer(401, b"", {"X-Error-Code": "GatedRepo"})
                else:
                    content = (hub.folder / parts[-1]).read_bytes()
                    if self.command == "GET":
                        hub.fetched.append(parts[-1])
                    tag = hashlib.sha256(content).hexdigest()
                    self.answer(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": parts[-2]})

            do_HEAD = do_GET

            def answer(
                self, status: int, body: bytes, headers: dict[str, str] | None = None
            ) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def has(self, name: str) -> bool:
        """Tell whether the model has a file of that name."""
        return not (self.without_weights and name.endswith(".safetensors"))


def _entry(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path.name, "size": len(content), "oid": oid}


@pytest.fixture
def own_hub(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    own = Hub(tiny_model)
    thread = threading.Thread(target=own.server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{own.server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    _new_process()
    yield own
    own.server.shutdown()
    own.server.server_close()
    _new_process()


def _new_process() -> None:
    hub._configuration.cache_clear()
    hub.hub_folder.cache_clear()


def test_a_tokenizer_is_fetched_without_the_weights(own_hub: Hub, tiny_model: Path) -> None:
    assert tokenizer_json("own/model") == tokenizer_json(str(tiny_model))
    assert load_tokenizer("own/model").encode("yes")
    assert "tokenizer.json" in own_hub.fetched and "model.safetensors" not in own_hub.fetched
    assert own_hub.tokens == {""}


def test_a_gated_model_takes_the_token_and_without_one_is_one_line(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    own_hub.gated = True
    with pytest.raises(PipelineError, match=r"'own/model' is gated: .* set HF_TOKEN in the env"):
        load_tokenizer("own/model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(PipelineError, match=r"check that the token in HF_TOKEN is of that"):
        load_tokenizer("own/model")
    monkeypatch.setenv("HF_TOKEN", _TOKEN)
    with caplog.at_level("DEBUG"):
        folder = merged_folder("own/model", "main", None, "none", "float32")
    assert (folder / "model.safetensors").is_file() and "model.safetensors" in own_hub.fetched
    assert f"Bearer {_TOKEN}" in own_hub.tokens and _TOKEN not in caplog.text


def test_a_download_says_how_much_it_is_and_where_it_goes(
    own_hub: Hub, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    with caplog.at_level("INFO"):
        hub.hub_folder("own/model", "main")
    assert f"GB into {tmp_path / 'hub'} (" in caplog.text and "fetching own/model: " in caplog.text
    caplog.clear()
    _new_process()
    with caplog.at_level("INFO"):
        hub.hub_folder("own/model", "main")
    assert "fetching" not in caplog.text, "it is in the cache"


def test_a_model_that_the_disk_has_no_room_for_is_refused_before_a_byte_comes(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = SimpleNamespace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(PipelineError, match=r"no room for .* GB into .*/hub .* HF_HUB_CACHE"):
        hub.hub_folder("own/model", "main")
    assert "model.safetensors" not in own_hub.fetched


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("own/other", "main", "not on the Hugging Face hub, or is private"),
        ("own/model", "v9", "has no revision 'v9'"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(
    own_hub: Hub, name: str, revision: str, message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        load_tokenizer(name, revision)


def test_main_is_recorded_as_the_commit_it_stands_for(own_hub: Hub, params: Params) -> None:
    asked = params.finetune.model_copy(update={"model": "own/model"})
    kept = pin(asked)
    assert kept.revision == _COMMIT
    assert kept.precision == str(dtype("auto")).removeprefix("torch.")
    generator = params.generate.model_copy(update={"generator": "own/model"})
    assert identify_generator(generator) == f"own/model@{_COMMIT}"
    own_hub.commit = _NEXT
    assert pin(asked).revision == _COMMIT, "one answer for the life of a process"
    _new_process()
    assert pin(asked).revision == _NEXT and pin(kept).revision == _COMMIT
    assert identify_generator(generator) == f"own/model@{_NEXT}"


def test_an_adapter_on_a_branch_is_another_generator_when_the_branch_moves(
    own_hub: Hub, params: Params, tmp_path: Path
) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_model.safetensors").touch()
    config = {"base_model_name_or_path": "own/model", "revision": None}
    write_json(tmp_path / "adapter/adapter_config.json", config)
    generator = params.generate.model_copy(update={"generator": str(tmp_path / "adapter")})
    assert identify_generator(generator).endswith(f" on {_COMMIT}")
    write_json(tmp_path / "adapter/adapter_config.json", config | {"revision": _COMMIT})
    assert " on " not in identify_generator(generator), "its own hash holds the commit"


def test_a_moved_branch_is_another_model_in_the_cache_of_merged_models(own_hub: Hub) -> None:
    first = merged_folder("own/model", "main", None, "none", "float32")
    assert read_json(first / "made_from.json")["base"] == f"own/model@{_COMMIT}"
    own_hub.commit = _NEXT
    _new_process()
    assert merged_folder("own/model", "main", None, "none", "float32") != first
    assert merged_folder("own/model", _COMMIT, None, "none", "float32") == first


def test_without_the_network_the_cache_is_used(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PipelineError, match="neither whole in the hub's cache nor"):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        load_tokenizer("own/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    merged_folder("own/model", "main", None, "none", "float32")
    own_hub.fetched.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _new_process()
    assert pinned("own/model") == _COMMIT and load_tokenizer("own/model").encode("yes")
    assert merged._identity("own/model", "main") == f"own/model@{_COMMIT}"
    assert own_hub.fetched == []


def test_without_the_network_a_cache_without_the_weights_is_one_line(
    own_hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configuration and tokenizer were fetched when the run was asked for, and no more."""
    load_tokenizer("own/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _new_process()
    with pytest.raises(PipelineError, match=r"whole in the hub's cache .* unset HF_HUB_OFFLINE, "):
        find_weights("own/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.hub_folder("own/model", "main")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _new_process()
    assert find_weights("own/model").lacking == 0 < find_weights("own/model").values


def test_folders_and_the_embedded_model_keep_their_revision(tiny_model: Path) -> None:
    assert pinned(str(tiny_model), "main") == "main"
    assert pinned("embedded:smollm2-135m-instruct", "main") == "main"


def test_an_adapter_is_another_generator_where_the_folder_of_its_base_has_changed(
    tiny_model: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": str(base), "r": 2})
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    first = identify(str(adapter))
    assert identify(str(adapter)) == first
    (base / "model.safetensors").write_bytes(b"trained again, into the same folder")
    assert identify(str(adapter)) != first
