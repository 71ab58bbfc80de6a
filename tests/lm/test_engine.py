"""The two engines behind the seam, on a real (tiny, random) model."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.lm import transformers_engine
from tasks.lm.engine import Engine, Sampling, open_engine
from tasks.lm.loading import load_model
from tasks.lm.memory import free
from tasks.lm.merged import merged_folder
from tasks.lm.transformers_engine import TransformersEngine
from tasks.lm.vllm_settings import vllm_settings

_PROMPTS = [[0, *range(10, 10 + length)] for length in (3, 40, 11, 25)]
needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM has no build for this platform"
)
_KINDS = ["transformers", pytest.param("vllm", marks=needs_vllm)]


@pytest.fixture(scope="module")
def opened(tiny_model: Path) -> Iterator[Callable[[str], Engine]]:
    """Lend a function: kind -> its engine on the tiny model, opened at the first call."""
    engines: dict[str, Engine] = {}

    def engine_of(kind: str) -> Engine:
        if kind not in engines:
            engines[kind] = open_engine(kind, tiny_model, precision="float32", max_length=128)
        return engines[kind]

    yield engine_of
    for engine in engines.values():
        free(engine)


@pytest.fixture(params=_KINDS)
def engine(request: pytest.FixtureRequest, opened: Callable[[str], Engine]) -> Engine:
    return opened(request.param)


def test_the_same_call_gives_the_same_completions(engine: Engine) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.95, max_tokens=12)
    first, second = (engine.generate(_PROMPTS, sampling, [1, 2, 3, 4]) for _ in range(2))
    assert first == second
    assert engine.generate(_PROMPTS, sampling, [5, 6, 7, 8]) != first


def test_a_watched_call_counts_its_prompts_and_changes_no_completion(engine: Engine) -> None:
    sampling, done = Sampling(temperature=1.0, top_p=0.95, max_tokens=12), list[int]()
    watched = engine.generate(_PROMPTS, sampling, [1, 2, 3, 4], done.append)
    assert sum(done) == 4
    assert watched == engine.generate(_PROMPTS, sampling, [1, 2, 3, 4])


def test_the_token_budget_is_kept_and_told(engine: Engine) -> None:
    for completion in engine.generate(
        _PROMPTS, Sampling(temperature=1.0, top_p=1.0, max_tokens=5), [1, 2, 3, 4]
    ):
        assert completion.tokens == 5 or (completion.tokens < 5 and completion.finished)


def test_tokens_come_with_their_log_probabilities_and_are_the_same_with_them(
    engine: Engine, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is compiled for it: a bare machine has no C++ compiler."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    plain = Sampling(temperature=0.7, top_p=0.95, max_tokens=8)
    told = Sampling(temperature=0.7, top_p=0.95, max_tokens=8, logprobs=True)
    without = engine.generate(_PROMPTS, plain, [1, 2, 3, 4])
    scored = engine.generate(_PROMPTS, told, [1, 2, 3, 4])
    assert [one.text for one in scored] == [one.text for one in without]
    assert not any(one.scored for one in without)
    network = load_model(str(tiny_model), precision="float32").eval()
    for prompt, one in zip(_PROMPTS, scored, strict=True):
        tokens, chances = zip(*one.scored, strict=True)
        assert len(tokens) == one.tokens
        with torch.no_grad():
            logits = network(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]
        alone = torch.log_softmax(logits.float(), dim=-1)[range(len(tokens)), list(tokens)]
        assert torch.allclose(torch.tensor(chances), alone, atol=2e-3), "not at temperature 1"
    assert not list(tmp_path.iterdir())


def test_greedy_answers_do_not_depend_on_the_seed(engine: Engine) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)
    assert engine.generate(_PROMPTS, greedy, [1, 2, 3, 4]) == engine.generate(
        _PROMPTS, greedy, [9, 9, 9, 9]
    )


@needs_vllm
def test_both_engines_give_the_same_greedy_answers(opened: Callable[[str], Engine]) -> None:
    greedy = Sampling(temperature=0.0, top_p=1.0, max_tokens=8)
    answers = [
        opened(kind).generate(_PROMPTS, greedy, [0] * 4) for kind in ("transformers", "vllm")
    ]
    assert [answer.text for answer in answers[0]] == [answer.text for answer in answers[1]]


@needs_vllm
def test_the_engine_draws_what_vllm_draws(
    opened: Callable[[str], Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same seeds meet the same kept tokens, in float32 where no two are equal."""
    engine, seeds = opened("vllm"), [1, 2, 3, 4]
    sampling = Sampling(temperature=1.0, top_p=0.7, max_tokens=12)
    ours = engine.generate(_PROMPTS, sampling, seeds)
    monkeypatch.setattr(engine, "_gpu", True)  # its own top_p
    theirs = engine.generate(_PROMPTS, sampling, seeds)
    wide = engine.generate(_PROMPTS, Sampling(temperature=1.0, top_p=1.0, max_tokens=12), seeds)
    assert ours == theirs != wide


def test_a_missing_vllm_says_what_to_do(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(PipelineError, match="set engine: transformers"):
        open_engine("vllm", tiny_model)


@needs_vllm
def test_a_vllm_that_cannot_start_says_why_in_one_line(tiny_model: Path) -> None:
    """As where a card holds the weights, and has no room for keys and values beside them."""
    with pytest.raises(PipelineError) as refused:
        open_engine("vllm", tiny_model, max_length=1 << 20)  # it has 1,024 positions
    told = str(refused.value)
    assert told.startswith(f"vLLM cannot start on {tiny_model} (") and "max_model_len" in told
    assert "set engine: transformers" in told and "\n" not in told


def test_a_gpu_that_is_full_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(str(tiny_model), "float32")

    def fill(**_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a")

    monkeypatch.setattr(engine._model, "generate", fill)
    with pytest.raises(PipelineError, match=r"^writing with the model needs .* 2.00 GiB\): see"):
        engine.generate(_PROMPTS, Sampling(0.0, 1.0, 2), [0] * len(_PROMPTS))


@pytest.mark.parametrize("kind", ["vllm", "transformers"])
def test_fp8_without_a_gpu_is_refused_before_anything_is_loaded(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(PipelineError, match="fp8 needs vLLM and an NVIDIA GPU"):
        open_engine(kind, tmp_path / "nothing", precision="fp8")


@needs_vllm
def test_attention_is_compiled_by_no_cuda_toolkit(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own first choice on a B200 is FlashInfer's; the name is one that vLLM knows."""
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for capability, wanted in (((9, 0), None), ((10, 0), "FLASH_ATTN"), ((12, 0), None)):
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda found=capability: found)
        assert vllm_settings("bfloat16", 64).get("attention_backend") == wanted
    assert AttentionBackendEnum["FLASH_ATTN"]


def test_fp8_is_rounded_by_vllm_from_the_bfloat16_weights() -> None:
    assert {key: vllm_settings("fp8", 64)[key] for key in ("dtype", "quantization")} == {
        "dtype": "bfloat16",
        "quantization": "fp8",
    }
    assert vllm_settings("bfloat16", 64)["quantization"] is None


@pytest.fixture(scope="module")
def batched(tiny_model: Path) -> TransformersEngine:
    return TransformersEngine(str(tiny_model), "float32")


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
def test_a_row_is_the_same_alone_and_in_any_batch(
    batched: TransformersEngine, temperature: float
) -> None:
    """Its prompt, its neighbours and its padding may differ: the row's numbers are its seed's."""
    sampling = Sampling(temperature, top_p=0.9, max_tokens=16)
    seeds = [11, 12, 13, 2**62]
    together = batched.generate(_PROMPTS, sampling, seeds)
    alone = [
        batched.generate([prompt], sampling, [seed])[0]
        for prompt, seed in zip(_PROMPTS, seeds, strict=True)
    ]
    assert together == alone
    assert together[::-1] == batched.generate(_PROMPTS[::-1], sampling, seeds[::-1])


def test_batches_keep_their_bound_and_change_no_completion(
    batched: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling, done = Sampling(1.0, top_p=0.95, max_tokens=8), list[int]()
    whole = batched.generate(_PROMPTS, sampling, [1, 2, 3, 4])
    monkeypatch.setattr(transformers_engine, "_BATCH_TOKENS", 40)
    assert batched.generate(_PROMPTS, sampling, [1, 2, 3, 4], done.append) == whole
    # Of 41, 26, 12 and 4 tokens, with 8 new ones each: only the last two fit together.
    assert done == [1, 1, 2]


def test_draws_follow_the_probabilities_and_top_p() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(4000, 1)
    for top_p, shares in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.6, [0.625, 0.375, 0.0, 0.0])):
        draw = transformers_engine._Draw(Sampling(1.0, top_p, 1), range(4000))
        drawn = draw(torch.zeros(4000, 1), logits).argmax(-1).bincount(minlength=4) / 4000
        assert drawn.tolist() == pytest.approx(shares, abs=0.03)


def test_a_models_own_way_to_write_changes_no_answer(
    batched: TransformersEngine, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some chat models come with a penalty on words that the prompt holds already: vLLM does not
    take it here, transformers and vLLM's server would.
    """
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    own = {"bos_token_id": 0, "eos_token_id": [1, 2], "repetition_penalty": 9.0, "top_k": 3}
    write_json(folder / "generation_config.json", own | {"do_sample": True})
    greedy = Sampling(0.0, 1.0, max_tokens=16)
    wanted = batched.generate(_PROMPTS, greedy, [0] * 4)
    engine = TransformersEngine(str(folder), "float32")
    assert engine.generate(_PROMPTS, greedy, [0] * 4) == wanted
    saved = merged_folder(str(folder), "main", None, "nf4", "float32") / "generation_config.json"
    found = read_json(saved)
    assert (found["bos_token_id"], found["eos_token_id"]) == (0, [1, 2])
    assert not found.keys() & {"repetition_penalty", "top_k", "do_sample"}
