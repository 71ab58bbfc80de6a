"""LoRA training: loss, checkpoints that count only when whole, resumption to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, get_scheduler

from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file
from tasks.core.params import Params
from tasks.core.sections.finetune import Finetune
from tasks.lm import training
from tasks.lm.examples import Example, training_order
from tasks.lm.loading import load_model, vocabulary_logits
from tasks.lm.precision import dtype, explain_float32
from tasks.lm.response_trainer import response_loss
from tasks.lm.training import train, training_arguments, training_key

_EXAMPLES = [
    Example([0, *range(10, 14 + number % 5)], [20 + number, 21, 1]) for number in range(12)
]


@pytest.fixture
def settings(params: Params, tiny_model: Path) -> Finetune:
    return params.finetune.model_copy(
        update={
            "model": str(tiny_model),
            "precision": "float32",
            "batch_rows": 4,
            "micro_batch_rows": 2,
            "epochs": 2.0,
            "checkpoint_steps": 2,
        }
    )


@pytest.mark.parametrize(("major", "wanted"), [(7, torch.float32), (8, torch.bfloat16)])
def test_auto_is_no_bfloat16_that_a_gpu_only_emulates(
    major: int, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM refuses it there."""
    told = SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: told)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)
    assert dtype("auto") == wanted


@pytest.mark.parametrize(("fast", "wanted"), [(False, torch.float32), (True, torch.bfloat16)])
def test_auto_is_no_bfloat16_that_a_cpu_only_emulates_and_the_log_says_so(
    fast: bool, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a product of bfloat16 takes many times as long as one of float32."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast)
    assert dtype("auto") == wanted
    assert bool(explain_float32("auto")) is not fast
    assert explain_float32("float32") == "", "somebody asked for it"


def test_loss_equals_the_models_own(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), precision="float32")
    inputs = {
        "input_ids": torch.tensor([[0, 5, 6, 7, 8, 1], [0, 9, 10, 1, 1, 1]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, -100, 6, 7, 8, 1], [-100, -100, 10, 1, -100, -100]]),
    }
    assert response_loss(model, inputs).item() == pytest.approx(
        model(**inputs).loss.item(), abs=1e-5
    )
    assert response_loss(model, inputs, tokens=12).item() == pytest.approx(
        model(**inputs).loss.item() * 6 / 12, abs=1e-5
    )


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("cohere", {"logit_scale": 0.25}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("granite", {"logits_scaling": 8.0}),
    ],
)
def test_logits_are_scaled_as_the_model_scales_them(kind: str, setting: dict[str, float]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "vocab_size": 40}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = AutoConfig.for_model(kind, **sizes, **heads, **setting)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.tensor([[3, 5, 6, 7]])
    hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0]
    assert vocabulary_logits(model, hidden).tolist() == [
        pytest.approx(row, abs=1e-5) for row in model(input_ids=ids).logits[0].tolist()
    ]


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_loss_falls_and_the_adapter_is_safetensors_that_names_its_base(
    settings: Finetune, tmp_path: Path, quantization: str
) -> None:
    own = settings.model_copy(
        update={"quantization": quantization, "epochs": 6.0, "learning_rate": 0.02}
    )
    trained = train(_EXAMPLES, own, 1, tmp_path / "out", tmp_path / "ck")
    assert trained.steps == len(trained.losses) == 18 and trained.tokens == 36
    assert trained.losses[-1][1] < trained.losses[0][1] - 0.2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
    }
    assert str(settings.model) in (tmp_path / "out/adapter_config.json").read_text()


def test_weights_stay_in_4_bit_where_they_would_take_gigabytes(
    settings: Finetune, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = load_model(str(settings.model), quantization="nf4", precision="float32")
    asked = settings.model_copy(update={"resident": "dequantized"})
    assert training.choose_resident(asked, model) == "dequantized" and not caplog.text
    # The tiny model has 73,728 quantised weights: two layers, without embedding and head.
    monkeypatch.setattr(training, "_MOST_DEQUANTIZED", 73_727)
    assert training.choose_resident(asked, model) == "nf4"
    assert [record.getMessage() for record in caplog.records] == [
        "finetune.resident dequantized would hold another 0 GB for 0.0 billion weights: nf4 is used"
    ]
    monkeypatch.setattr(training, "_MOST_DEQUANTIZED", 73_728)
    assert training.choose_resident(asked, model) == "dequantized"


def test_no_checkpoint_asks_the_hub(
    settings: Finetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft.utils import save_and_load

    asked: list[str] = []
    monkeypatch.setattr(
        save_and_load, "check_file_exists_on_hf_hub", lambda *names: asked.append(str(names))
    )
    named = settings.model_copy(update={"model": "own/model", "epochs": 1.0})
    monkeypatch.setattr(
        training, "load_model", lambda *_: load_model(str(settings.model), precision="float32")
    )
    train(_EXAMPLES, named, 1, tmp_path / "out", tmp_path / "ck")
    assert asked == [] and list((tmp_path / "ck").glob("checkpoint-*"))


class _Killed(Exception):
    pass


def test_a_killed_training_ends_with_the_very_same_bytes(
    settings: Finetune, tmp_path: Path
) -> None:
    whole = train(_EXAMPLES, settings, 1, tmp_path / "whole", tmp_path / "ck-whole")

    def kill_at_5(step: int, last: int, loss: float) -> None:
        assert last == 6
        if step == 5:
            raise _Killed

    with pytest.raises(_Killed):
        train(_EXAMPLES, settings, 1, tmp_path / "resumed", tmp_path / "ck", kill_at_5)
    seen: list[int] = []
    resumed = train(
        _EXAMPLES,
        settings,
        1,
        tmp_path / "resumed",
        tmp_path / "ck",
        lambda step, last, loss: seen.append(step),
    )
    assert seen == [5, 6], "only what came after the last checkpoint is done again"
    assert resumed == whole
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert sha256_file(tmp_path / "resumed" / name) == sha256_file(tmp_path / "whole" / name)


def test_a_killed_training_continues_with_other_settings_that_change_no_weight(
    settings: Finetune, tmp_path: Path
) -> None:
    """After a kill for want of memory or time, these are what one changes."""
    whole = train(_EXAMPLES, settings, 1, tmp_path / "whole", tmp_path / "ck-whole")

    def kill_at_5(step: int, last: int, loss: float) -> None:
        if step == 5:
            raise _Killed

    with pytest.raises(_Killed):
        train(_EXAMPLES, settings, 1, tmp_path / "resumed", tmp_path / "ck", kill_at_5)
    less_memory = {"resident": "nf4", "gradient_checkpointing": True}
    other = settings.model_copy(update={"checkpoint_steps": 1, **less_memory})
    assert other.resident != settings.resident and not settings.gradient_checkpointing
    assert training_key(other, _EXAMPLES, "") == training_key(settings, _EXAMPLES, "")
    assert train(_EXAMPLES, other, 1, tmp_path / "resumed", tmp_path / "ck") == whole
    weights = "adapter_model.safetensors"
    assert sha256_file(tmp_path / "resumed" / weights) == sha256_file(tmp_path / "whole" / weights)
    kept = {path.name for path in (tmp_path / "ck").glob("checkpoint-*")}
    assert kept == {"checkpoint-5", "checkpoint-6"}, "the new interval counts at once"


@pytest.mark.parametrize("most", [2, 4, 50])
def test_a_training_that_was_done_and_is_started_again_does_no_step_more(
    settings: Finetune, tmp_path: Path, most: int
) -> None:
    """As when the stage is killed between the last checkpoint and its output; ``max_steps`` is an
    upper limit, not a wish.
    """
    settings = settings.model_copy(update={"max_steps": most})
    whole = train(_EXAMPLES, settings, 1, tmp_path / "whole", tmp_path / "ck")
    assert whole.steps == min(most, 6)
    seen: list[int] = []
    assert (
        train(
            _EXAMPLES,
            settings,
            1,
            tmp_path / "again",
            tmp_path / "ck",
            lambda step, last, loss: seen.append(step),
        )
        == whole
    )
    assert not seen
    assert sha256_file(tmp_path / "again" / "adapter_model.safetensors") == sha256_file(
        tmp_path / "whole" / "adapter_model.safetensors"
    )


def test_an_epoch_holds_every_row_once_and_batches_hold_like_lengths(settings: Finetune) -> None:
    lengths = [10 + (7 * index) % 90 for index in range(40)]
    settings = settings.model_copy(update={"epochs": 2.5})
    order = training_order(lengths, settings)
    assert order == training_order(lengths, settings)
    assert order != training_order(lengths, settings.model_copy(update={"seed": 9}))
    assert (
        len(order) == 100
        and min(order.count(index) for index in range(40)) == 2
        and max(order.count(index) for index in range(40)) == 3
    )
    spreads = [
        max(lengths[i] for i in order[at : at + 4]) - min(lengths[i] for i in order[at : at + 4])
        for at in range(0, 100, 4)
    ]
    assert sum(spreads) / len(spreads) < 10


def test_bad_settings_and_no_rows_are_named(settings: Finetune, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="there are no rows to train on"):
        train([], settings, 1, tmp_path / "out", tmp_path / "ck")
    with pytest.raises(
        PipelineError, match="micro_batch_rows = 3 must divide finetune.batch_rows = 4"
    ):
        train(
            _EXAMPLES,
            settings.model_copy(update={"micro_batch_rows": 3}),
            1,
            tmp_path / "out",
            tmp_path / "ck",
        )


def test_a_loss_that_is_no_number_ends_the_training(settings: Finetune, tmp_path: Path) -> None:
    """transformers would log it as 0: a perfect curve, and an adapter of NaN at its end."""
    wild = {"learning_rate": 10.0, "lora_alpha": 100_000, "schedule": "constant"}
    seen: list[float] = []
    with pytest.raises(PipelineError, match=r"loss of step \d is (nan|inf).*learning_rate \(10\)"):
        train(
            _EXAMPLES,
            settings.model_copy(update=wild),
            1,
            tmp_path / "out",
            tmp_path / "ck",
            lambda step, last, loss: seen.append(loss),
        )
    assert 0.0 not in seen and all(map(math.isfinite, seen))
    assert not (tmp_path / "out").exists()


def test_a_gpu_that_is_full_says_what_makes_the_training_smaller(
    settings: Finetune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a")

    monkeypatch.setattr("tasks.lm.response_trainer.response_loss", fill)
    with pytest.raises(PipelineError) as refused:
        train(_EXAMPLES, settings, 1, tmp_path / "out", tmp_path / "ck")
    assert str(refused.value) == (
        "the training needs more memory than the GPU has free (CUDA out of memory. Tried to "
        "allocate 2.00 GiB): see with nvidia-smi what else is on it and end that, set "
        "finetune.gradient_checkpointing: true, or lower finetune.micro_batch_rows (2)"
    )


def test_a_constant_rate_rises_first_where_that_is_asked_for(
    settings: Finetune, tmp_path: Path
) -> None:
    def rates(**changed: Any) -> list[float]:
        model = torch.nn.Linear(1, 1)
        arguments = training_arguments(settings.model_copy(update=changed), tmp_path)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        schedule = get_scheduler(
            arguments.lr_scheduler_type, optimizer, arguments.warmup_steps, num_training_steps=8
        )
        found = []
        for _ in range(4):
            found += schedule.get_last_lr()
            optimizer.step()
            schedule.step()
        return found

    assert rates(schedule="constant") == [1, 1, 1, 1]
    assert rates(schedule="constant", warmup_steps=2) == [0, 0.5, 1, 1]
    assert rates(schedule="linear", warmup_steps=2) == [0, 0.5, 1, pytest.approx(5 / 6)]


def test_a_key_holds_rows_settings_and_start(settings: Finetune) -> None:
    first = training_key(settings, _EXAMPLES, "")
    for same in (
        {"processes": 2, "checkpoints_gb": 9.0, "checkpoint_steps": 77, "resident": "nf4"},
        {"restart": "elsewhere", "restart_share": 0.9, "replay_share": 0.1},
    ):
        assert first == training_key(settings.model_copy(update=same), _EXAMPLES, "")
    others = {
        training_key(settings, _EXAMPLES[:-1], ""),
        training_key(settings.model_copy(update={"seed": 9}), _EXAMPLES, ""),
        training_key(settings, _EXAMPLES, "digest"),
    }
    assert len({first, *others}) == 4
