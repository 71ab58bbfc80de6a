"""A model's folder by somebody else: no code of it runs, and a broken one is one line."""

from __future__ import annotations

import ast
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.lm.loading import load_model
from tasks.lm.models import resolve
from tasks.lm.tokenizers import load_tokenizer, tokenizer_json
from tests.conftest import ROOT

_CODE = """
from pathlib import Path
Path({mark!r}).write_text("ran")
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Own(LlamaForCausalLM): pass
class OwnTokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def hostile(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model whose files name classes of its own."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "hostile"))
    (folder / "own.py").write_text(_CODE.format(mark=str(tmp_path / "ran")))
    for file, classes in (
        ("config.json", {"AutoConfig": "own.LlamaConfig", "AutoModelForCausalLM": "own.Own"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "own.OwnTokenizer"]}),
    ):
        config = {**read_json(folder / file), "auto_map": classes, "model_type": "own"}
        write_json(folder / file, {**config, "tokenizer_class": "OwnTokenizer"})
    return folder


@pytest.mark.parametrize("through_an_adapter", [False, True])
def test_a_model_with_code_of_its_own_is_refused_whatever_the_terminal_says(
    hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through_an_adapter: bool
) -> None:
    name = hostile
    if through_an_adapter:
        name = tmp_path / "adapter"
        write_json(name / "adapter_config.json", {"base_model_name_or_path": str(hostile)})
        (name / "adapter_model.safetensors").write_bytes(b"")
    loads: tuple[Any, ...] = (load_tokenizer, tokenizer_json)
    for load in loads if through_an_adapter else (*loads, load_model):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\ny\n"))
        with pytest.raises(PipelineError, match=r"brings code of its own \(auto_map\)") as refused:
            load(str(name))
        assert str(hostile) in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


def test_every_loader_refuses_remote_code_itself() -> None:
    """We check a model's files before loading, and also tell the libraries to run no code."""
    seen = 0
    for file in [*(ROOT / "tasks").rglob("*.py"), *(ROOT / "bonito").rglob("*.py")]:
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Attribute)
                and call.func.attr == "from_pretrained"
                and ast.unparse(call.func.value).startswith("Auto")
            ):
                told = {word.arg: ast.unparse(word.value) for word in call.keywords}
                assert told.get("trust_remote_code") == "False", f"{file}:{call.lineno}"
                seen += 1
    assert seen >= 4


@pytest.mark.parametrize("kind", ["SHADOW", "XLORA", "IA3", None, ["LORA"]])
def test_an_adapter_that_may_load_other_models_is_refused(tmp_path: Path, kind: Any) -> None:
    config = {"base_model_name_or_path": "a/b", "r": 8, "shadow_model": "else/where"}
    write_json(tmp_path / "adapter_config.json", {**config, "peft_type": kind})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"peft_type .*: only LORA is taken"):
        resolve(str(tmp_path))
    write_json(tmp_path / "adapter_config.json", {**config, "peft_type": "LORA"})
    assert resolve(str(tmp_path)).base == "a/b"


@pytest.mark.parametrize(
    "config",
    ["{}", "[]", "null", "7", '{"base_model_name_or_path": 3}', '{"x": '],
)
def test_an_adapter_without_a_base_is_one_line(tmp_path: Path, config: str) -> None:
    (tmp_path / "adapter_config.json").write_text(config)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"adapter_config\.json"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    "weights",
    [
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        b"\xff" * 8 + b"{}",
        (40).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[9999999]}}  ',
        b"",
    ],
)
def test_damaged_weights_are_one_line(tiny_model: Path, tmp_path: Path, weights: bytes) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(PipelineError, match="cannot be loaded") as refused:
        load_model(str(folder))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("config", ["[]", "7", "null", '{"model_type": 3}', "{}"])
def test_a_damaged_config_is_one_line(tiny_model: Path, tmp_path: Path, config: str) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "config.json").write_text(config)
    with pytest.raises(PipelineError) as refused:
        load_model(str(folder))
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
