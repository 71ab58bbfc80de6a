"""Ranked choices against the plain way: one full sequence a choice, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from tasks.core.errors import PipelineError
from tasks.lm.loading import load_model
from tasks.scoring import ranking
from tasks.scoring.ranking import NEAR, rank


def test_scores_equal_those_of_full_sequences(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), precision="float32").eval()
    prompts = [[0, 5, 9, 30, 7], [0, 8], [0, *range(20, 60)]]
    choices = [
        [[11, 1], [12, 13, 14, 1], [15, 1]],
        [[11, 1], [40, 41, 1]],
        [[60, 1], [61, 62, 63, 64, 1]],
    ]
    done: list[int] = []
    scores = rank(model, prompts, choices, batch_rows=2, pad_token=1, on_done=done.append)
    assert sum(done) == len(prompts) and len(done) > 1
    for prompt, own, got in zip(prompts, choices, scores, strict=True):
        assert got == pytest.approx([_plain(model, prompt, choice) for choice in own], abs=1e-4)


def test_batch_size_does_not_change_scores(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), precision="float32").eval()
    prompts, choices = [[0, *range(5, 5 + size)] for size in (3, 11, 7)], [[[11, 1], [12, 1]]] * 3
    one, three = rank(model, prompts, choices, 1, 1), rank(model, prompts, choices, 3, 1)
    assert [value for row in one for value in row] == pytest.approx(
        [value for row in three for value in row], abs=1e-4
    )


def test_a_gpu_that_is_full_is_one_line(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a")

    monkeypatch.setattr(ranking, "_hidden", fill)
    model = load_model(str(tiny_model), precision="float32").eval()
    with pytest.raises(PipelineError, match=r"^ranking needs .*, or lower batch_rows \(16\)$"):
        rank(model, [[0, 5]], [[[11, 1], [12, 1]]], batch_rows=16, pad_token=1)


def _passes(model: torch.nn.Module) -> list[tuple[int, ...]]:
    """Return a list that gets the shape [sequences, tokens] of every pass from now on."""
    shapes: list[tuple[int, ...]] = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: shapes.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_a_pass_has_no_more_tokens_than_the_bound_and_the_scores_stay(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long and short prompts, some that share their beginning, one longer than the bound."""
    model = load_model(str(tiny_model), precision="float32").eval()
    begin = [0, *range(5, 25)]
    prompts = [[0, *range(30, 30 + size)] for size in (3, 40, 38, 25, 70)]
    prompts += [[*begin, 100 + number, 7] for number in range(5)]
    choices = [[[11, 1], [12, 13, 14, 1]]] * len(prompts)
    shapes = _passes(model)
    whole = rank(model, prompts, choices, batch_rows=16, pad_token=1)
    assert len(shapes) == 1, "within the bound batch_rows decides"
    monkeypatch.setattr(ranking, "_BATCH_TOKENS", 64)
    monkeypatch.setattr(ranking, "_HEAD_PLACES", 3)
    shapes.clear()
    cut = rank(model, prompts, choices, batch_rows=16, pad_token=1)
    assert len(shapes) > 3
    assert all(rows * tokens <= 64 or rows == 1 for rows, tokens in shapes)
    assert sum(tokens > 64 for _, tokens in shapes) == 1, "only the prompt that is longer itself"
    for one, other in zip(whole, cut, strict=True):
        assert one == pytest.approx(other, abs=1e-4)


def test_prompts_that_begin_alike_are_computed_together(tiny_model: Path) -> None:
    """Questions about one passage: fewer tokens go through the model, and the scores stay."""
    model = load_model(str(tiny_model), precision="float32").eval()
    passages = [[0, *range(5, 45)], [0, *range(50, 85)]]
    prompts = [
        passage + [90 + number, 7] * (1 + number) for number in range(4) for passage in passages
    ] + [passages[0], [0, 3]]
    choices = [[[11, 1], [12, 13, 1]]] * len(prompts)
    tokens = []
    model.get_decoder().register_forward_pre_hook(
        lambda _, __, given: tokens.append(given["input_ids"].numel()), with_kwargs=True
    )
    scores = rank(model, prompts, choices, batch_rows=16, pad_token=1)
    assert sum(tokens) < 0.7 * sum(len(prompt) + 3 for prompt in prompts)
    model.get_decoder()._forward_pre_hooks.clear()
    for prompt, own, got in zip(prompts, choices, scores, strict=True):
        assert got == pytest.approx([_plain(model, prompt, choice) for choice in own], abs=1e-4)


def test_near_ties_of_a_bfloat16_model_are_told_apart_in_float32(tiny_model: Path) -> None:
    """A random model: every margin is small, so every score is as good as float32's, and the
    weights are what they were.
    """
    narrow = load_model(str(tiny_model), precision="bfloat16").eval()
    before = {name: value.clone() for name, value in narrow.state_dict().items()}
    wide = (
        load_model(str(tiny_model), precision="bfloat16").eval().float()
    )  # the same rounded weights
    prompts = [[0, *range(5, 5 + size)] for size in (3, 11, 7)]
    choices = [[[11, 1], [12, 1]]] * 3
    scores = rank(narrow, prompts, choices, 2, 1)
    near = [own for own in scores if abs(own[0] - own[1]) < NEAR]
    assert near
    for prompt, own, got in zip(prompts, choices, scores, strict=True):
        exact = [_plain(wide, prompt, choice) for choice in own]
        assert got == pytest.approx(exact, abs=1e-4 if got in near else 0.05)
    assert all(
        value.dtype == torch.bfloat16 and value.equal(before[name])
        for name, value in narrow.state_dict().items()
    )


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
def test_models_with_torchs_own_norm_are_ranked_in_bfloat16(kind: str) -> None:
    set_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "vocab_size": 128, "ffn_dim": 32}
    more = {"num_attention_heads": 2, "word_embed_proj_dim": 32, "pad_token_id": 1}
    config = AutoConfig.for_model(kind, **sizes, **more)
    model = AutoModelForCausalLM.from_config(config).eval().to(torch.bfloat16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prompts, choices = [[0, 5, 9, 30, 7], [0, 8]], [[[11, 1], [12, 13, 1], [15, 1]]] * 2
    scores = rank(model, prompts, choices, 2, 1)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    for prompt, own, got in zip(prompts, choices, scores, strict=True):
        exact = [_plain(model.float(), prompt, choice) for choice in own]
        assert got == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("kind", ["mistral", "gemma2"])
def test_a_prompt_longer_than_the_sliding_window_is_scored_as_the_model_sees_it(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistral's window is on every layer, Gemma's on every other one."""
    monkeypatch.setattr(ranking, "_MASK_ROWS", 7)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=400,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=8,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    model = load_model(str(tmp_path), precision="float32").eval()
    prompts = [[0, *range(10, 40)], [0, *range(10, 37), 50], [0, *range(10, 14)]]
    choices = [[[5, 6, 1], [7, 1]]] * 3
    with torch.no_grad():
        expected = [
            [_plain(model, prompt, choice) for choice in row]
            for prompt, row in zip(prompts, choices, strict=True)
        ]
    for row, exact in zip(rank(model, prompts, choices, 4, 1), expected, strict=True):
        assert row == pytest.approx(exact, abs=1e-4)


def _plain(model: torch.nn.Module, prompt: list[int], choice: list[int]) -> float:
    with torch.inference_mode():
        logs = torch.log_softmax(
            model(input_ids=torch.tensor([prompt + choice])).logits[0].float(), dim=-1
        )
    return sum(float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(choice))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("bloom", {}),
        ("falcon", {"alibi": True}),
        ("gpt_neo", {"num_layers": 2, "attention_types": [[["global", "local"], 1]]}),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}),
        ("mpt", {"n_layers": 2, "n_heads": 2, "d_model": 32}),
        (
            "qwen3_next",
            {
                "layer_types": ["linear_attention", "full_attention"],
                **{"linear_num_key_heads": 2, "linear_num_value_heads": 2},
                **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "head_dim": 16},
                **{"num_experts": 0, "mlp_only_layers": [0, 1]},
            },
        ),
    ],
)
def test_layers_that_go_by_the_order_of_tokens_see_one_choice_at_a_time(
    kind: str, more: dict[str, Any], precision: torch.dtype
) -> None:
    """A convolution or a recurrent layer knows no mask, ALiBi and GPT-Neo's local layers count
    places in the sequence: beside each other choices would mix.
    """
    set_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "window_size": 8}
    config = AutoConfig.for_model(kind, **sizes, **heads, **more)
    model = AutoModelForCausalLM.from_config(config).eval().to(precision)
    if precision == torch.float32:
        # The first ones are so small that all tokens are as likely. In bfloat16 the best two are
        # then scored again in float32.
        for weight in model.parameters():
            weight.data *= 8
    passage = [0, *range(5, 25)]
    prompts = [[*passage, 30, 7], [*passage, 31, 7], [0, 8]]
    choices = [[[11, 1], [12, 13, 14, 1], [15, 1]]] * 3
    done: list[int] = []
    scores = rank(model, prompts, choices, 2, pad_token=1, on_done=done.append)
    assert sum(done) == 3
    plain = model.float()
    for prompt, own, got in zip(prompts, choices, scores, strict=True):
        wanted = [_plain(plain, prompt, choice) for choice in own]
        assert got == pytest.approx(wanted, abs=1e-3)
