"""finetune.start: training that begins with an adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.params import Params
from tasks.lm.adapters import start_adapter
from tasks.lm.examples import (
    Example,
)
from tasks.lm.training import lora_model, save_adapter, train


def test_an_adapter_starts_on_the_folder_that_it_was_trained_on_alone(
    tmp_path: Path, params: Params
) -> None:
    config = {"base_model_name_or_path": "local/target", "r": 16, "lora_alpha": 16}
    write_json(tmp_path / "adapter_config.json", {**config, "revision": "sha256:one"})
    (tmp_path / "adapter_model.safetensors").touch()
    settings = params.finetune.model_copy(update={"model": "local/target"})
    for same in ("sha256:one", "main"):  # main: a run that writes no digest
        asked = settings.model_copy(update={"revision": same})
        assert start_adapter(asked, tmp_path) == tmp_path
    other = settings.model_copy(update={"revision": "sha256:two"})
    with pytest.raises(PipelineError, match="trained with revision sha256:one, but .* is sha256:t"):
        start_adapter(other, tmp_path)


def test_training_goes_on_from_an_adapter(tmp_path: Path, params: Params, tiny_model: Path) -> None:
    examples = [
        Example([0, *range(10, 14 + number % 5)], [20 + number, 21, 1]) for number in range(4)
    ]
    settings = params.finetune.model_copy(
        update={
            "model": str(tiny_model),
            "precision": "float32",
            "quantization": "none",
            "batch_rows": 4,
            "micro_batch_rows": 4,
            "max_tokens": 300,
            "learning_rate": 0.02,
        }
    )
    first = train(examples, settings, 1, tmp_path / "first", tmp_path / "a")
    assert start_adapter(settings, tmp_path / "first") == tmp_path / "first"
    second = train(
        examples, settings, 1, tmp_path / "second", tmp_path / "b", start=tmp_path / "first"
    )
    assert (
        first.losses[-1][1] < first.losses[0][1] and second.losses[0][1] < first.losses[0][1] - 0.1
    ), "it did not go on from where the first ended"
    with pytest.raises(
        PipelineError, match="was trained with lora_rank 16, but finetune.lora_rank is 8"
    ):
        start_adapter(settings.model_copy(update={"lora_rank": 8}), tmp_path / "first")
    with pytest.raises(PipelineError, match="lora_rank 16, but verify.fit.lora_rank is 8"):
        fit = settings.model_copy(update={"lora_rank": 8})
        start_adapter(fit, tmp_path / "first", "verify.fit.start")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("trainable_token_indices", [3]),
        ("lora_bias", True),
        ("bias", "all"),
    ],
)
def test_an_adapter_with_other_trained_weights_is_no_start(
    tmp_path: Path, params: Params, tiny_model: Path, name: str, value: object
) -> None:
    """Only LoRA's matrices are saved: what else was trained would be lost without a word."""
    settings = params.finetune.model_copy(update={"model": str(tiny_model)})
    config = {"base_model_name_or_path": str(tiny_model), "r": 16, "lora_alpha": 16}
    (tmp_path / "adapter_model.safetensors").touch()
    nothing = {"modules_to_save": None, "trainable_token_indices": None, "bias": "none"}
    write_json(tmp_path / "adapter_config.json", config | nothing | {"lora_bias": False})
    assert start_adapter(settings, tmp_path) == tmp_path
    write_json(tmp_path / "adapter_config.json", config | {name: value})
    with pytest.raises(PipelineError, match=f"trained weights beside LoRA's matrices .{name}.:"):
        start_adapter(settings, tmp_path)


@pytest.mark.parametrize(("before", "asked"), [(0.0, 0.25), (0.25, 0.0)])
def test_dropout_is_that_of_the_settings_whatever_the_start_had(
    tmp_path: Path, params: Params, tiny_model: Path, before: float, asked: float
) -> None:
    settings = params.finetune.model_copy(
        update={"model": str(tiny_model), "precision": "float32", "lora_dropout": before}
    )
    save_adapter(lora_model(settings), settings, tmp_path)
    model = lora_model(settings.model_copy(update={"lora_dropout": asked}), tmp_path)
    found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == ({asked} if asked else set())
    assert next(iter(model.peft_config.values())).lora_dropout == asked


def test_an_adapter_of_another_revision_is_no_start_and_other_rounding_is_said(
    tmp_path: Path, params: Params, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its weights were trained on top of others than those that the training would load."""
    settings = params.finetune.model_copy(update={"model": str(tiny_model), "revision": "b" * 40})
    config = {"base_model_name_or_path": str(tiny_model), "r": 16, "lora_alpha": 16}
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for revision, fits in (("b" * 40, True), (None, True), ("a" * 40, False)):
        write_json(tmp_path / "adapter_config.json", config | {"revision": revision})
        if fits:
            assert start_adapter(settings, tmp_path) == tmp_path
        else:
            with pytest.raises(PipelineError, match="was trained with revision aaaa"):
                start_adapter(settings, tmp_path)
    write_json(tmp_path / "adapter_config.json", config)
    write_json(tmp_path / "provenance.json", {"settings": {"quantization": "none"}})
    assert start_adapter(settings, tmp_path) == tmp_path
    assert "was trained on weights with quantization none; here they have nf4" in caplog.text


def test_an_adapter_that_does_not_fit_is_named(tmp_path: Path, params: Params) -> None:
    with pytest.raises(PipelineError, match="no adapter there"):
        start_adapter(params.finetune, tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "other/model", "r": 16, "lora_alpha": 16}'
    )
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(
        PipelineError, match="was trained with model other/model, but finetune.model is"
    ):
        start_adapter(params.finetune, tmp_path)
