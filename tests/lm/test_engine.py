"""The two engines behind the seam, on a real (tiny, random) model."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.lm.engine import Engine, Sampling, open_engine, vllm_settings

_PROMPTS = [[0, *range(10, 10 + length)] for length in (3, 40, 11, 25)]
_KINDS = [
    "transformers",
    pytest.param(
        "vllm",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("vllm") is None, reason="vLLM has no build for this platform"
        ),
    ),
]


@pytest.fixture(scope="module", params=_KINDS)
def engine(request: pytest.FixtureRequest, tiny_model: Path) -> Engine:
    return open_engine(request.param, tiny_model, precision="float32", max_length=128)


def test_the_same_call_gives_the_same_completions(engine: Engine) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=12)
    first, second = (engine.generate(_PROMPTS, sampling, [1, 2, 3, 4]) for _ in range(2))
    assert first == second
    assert engine.generate(_PROMPTS, sampling, [5, 6, 7, 8]) != first


def test_a_watched_call_counts_its_prompts_and_changes_no_completion(engine: Engine) -> None:
    sampling, done = Sampling(temperature=1.0, top_p=0.95, max_tokens=12), list[int]()
    watched = engine.generate(_PROMPTS, sampling, [1, 2, 3, 4], done.append)
    assert done == [1, 1, 1, 1]
    assert watched == engine.generate(_PROMPTS, sampling, [1, 2, 3, 4])


def test_the_token_budget_is_kept_and_told(engine: Engine) -> None:
    for completion in engine.generate(
        _PROMPTS, Sampling(temperature=1.0, top_p=1.0, max_tokens=5), [1, 2, 3, 4]
    ):
        assert completion.tokens <= 5 and completion.finished == (
            completion.tokens < 5 or completion.finished
        )


def test_greedy_answers_do_not_depend_on_the_seed(engine: Engine) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)
    assert engine.generate(_PROMPTS, greedy, [1, 2, 3, 4]) == engine.generate(
        _PROMPTS, greedy, [9, 9, 9, 9]
    )


@pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM has no build for this platform"
)
def test_both_engines_give_the_same_greedy_answers(tiny_model: Path) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)
    answers = [
        open_engine(kind, tiny_model, precision="float32", max_length=128).generate(
            _PROMPTS, greedy, [0] * 4
        )
        for kind in ("transformers", "vllm")
    ]
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]


def test_a_missing_vllm_says_what_to_do(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(PipelineError, match="set engine: transformers"):
        open_engine("vllm", tiny_model)


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_fp8_without_a_gpu_is_refused_before_anything_is_loaded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PipelineError, match="fp8 needs vLLM and an NVIDIA GPU"):
        open_engine(kind, tmp_path / "nothing", precision="fp8")


def test_fp8_is_rounded_by_vllm_from_the_bfloat16_weights() -> None:
    assert {key: vllm_settings("fp8", 64)[key] for key in ("dtype", "quantization")} == {
        "dtype": "bfloat16",
        "quantization": "fp8",
    }
    assert vllm_settings("bfloat16", 64)["quantization"] is None
