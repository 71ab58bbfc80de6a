"""A card that something else fills ends a stage before weights are downloaded or merged."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bonito.evaluate.judging import need_judging_engine, prepare_checkpoint
from bonito.params import GeneratorEvaluate
from tasks.core.errors import PipelineError
from tasks.core.params import Params, load_params
from tasks.core.progress import Progress
from tasks.generate.shards import open_generator_engine
from tasks.lm.loading import load_model
from tasks.scoring.predict import Questions, Scoreable, answer
from tasks.verify.reader import Reader, open_reader
from tests.lm.test_hub import Hub, own_hub  # noqa: F401 - a fixture
from tests.lm.test_preflight import _adapter

_VLLM = r"^vLLM with gpu_memory_utilization 0.92 needs 22.1 GB of the GPU, and 5.0 of its 24.0 GB"
_MODEL = r"^model 'own/model' needs 0.0 GB of the GPU, and 0.0 of its 24.0 GB are free"
Fill = Callable[[float], None]


@pytest.fixture
def fill(monkeypatch: pytest.MonkeyPatch) -> Fill:
    """Return a function that sets how many bytes of a made-up 24 GB card are free."""

    def leave(free: float) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(free), 24 * 10**9))

    return leave


def _on(params: Params, engine: str, name: str) -> Params:
    update = {"engine": engine, "precision": "float32", "generator": name}
    generate = params.generate.model_copy(update=update)
    verify = params.verify.model_copy(update={"engine": engine, "reader": name})
    return params.model_copy(update={"generate": generate, "verify": verify})


def test_a_model_of_the_hub_is_refused_before_it_comes(
    own_hub: Hub,  # noqa: F811
    fill: Fill,
    params: Params,
) -> None:
    small, vllm = (_on(params, kind, "own/model") for kind in ("transformers", "vllm"))
    fill(10**4)
    judged = GeneratorEvaluate(generator="own/model", precision="float32", engine="vllm")
    asked: list[tuple[str, Callable[[], Any]]] = [
        (_MODEL, lambda: load_model("own/model", precision="float32")),
        (_MODEL, lambda: open_generator_engine(small.generate, 64)),
        (_MODEL, lambda: open_reader(Reader.of(small.verify), "answers", 64)),
        (_MODEL, lambda: open_reader(Reader.of(vllm.verify), "labels", 64)),
        (_MODEL, lambda: prepare_checkpoint("own/model", "main", "float32")),
        (_VLLM, lambda: open_generator_engine(vllm.generate, 64)),
        (_VLLM, lambda: open_reader(Reader.of(vllm.verify), "answers", 64)),
        (_VLLM, lambda: need_judging_engine("own/model", "main", judged)),
    ]
    for message, ask in asked:
        fill(10**4 if message == _MODEL else 5e9)
        with pytest.raises(PipelineError, match=message):
            ask()
    assert not [name for name in own_hub.fetched if name.endswith(".safetensors")]


def test_an_adapter_is_refused_before_it_is_merged(
    tmp_path: Path, tiny_model: Path, make_params: Any, fill: Fill, monkeypatch: Any
) -> None:
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    adapter = _adapter(tmp_path / "adapter", tiny_model)
    params = load_params(make_params())
    fill(5e9)
    with pytest.raises(PipelineError, match=_VLLM):
        open_generator_engine(_on(params, "vllm", str(adapter)).generate, 64)
    evaluate = params.evaluate.model_copy(update={"engine": "vllm"})
    questions = Questions.read(evaluate, Path(evaluate.items))
    assert not questions.dataset.classifies
    model = Scoreable("adapted", str(tiny_model), "main", "nf4", "float32", adapter, "bonito")
    meter = partial(Progress, tmp_path / "progress.json", "baseline")
    with pytest.raises(PipelineError, match=_VLLM):
        answer(model, questions, evaluate, tmp_path / "journal", meter)
    assert not (tmp_path / "cache/merged").exists()
