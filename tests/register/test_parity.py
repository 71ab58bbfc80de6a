"""The 4-bit adapter, the merged model and the served one are compared before anything is
registered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.params import load_params
from tasks.core.stage import Stage
from tasks.register import parity
from tasks.register.parity import Parity, check_parity
from tests.evaluate.test_evaluate import _evaluate, _finetune


@pytest.fixture
def trained(workplace: Path, make_params: Any, tiny_model: Path, instructions: Path) -> Stage:
    """A tiny adapter, evaluated by the transformers engine, and the stage that would register
    it.
    """
    params = _finetune(make_params, tiny_model, instructions, "incidents")
    _evaluate(params)
    found = load_params(params)
    found = found.model_copy(
        update={"register": found.register.model_copy(update={"parity_floor": 0.5})}
    )
    return Stage("register", found, {}, workplace / "out", workplace / "work")


def test_models_that_compute_alike_agree(trained: Stage) -> None:
    found = check_parity(trained, Path("artifacts/finetune"), Path("artifacts/evaluate"))
    assert found.items == 6
    assert found.served == 6, (
        "the engine of evaluate and the merged model are the same computation here"
    )
    assert found.describe() == (
        f"of 6 items the 4-bit adapter agrees with the merged model on {found.trained}, "
        f"the served one on 6, all three on {found.all_three}"
    )


def test_too_few_that_agree_are_not_registered(
    trained: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        parity,
        "_answers",
        lambda *_: {"trained": list("abcdef"), "merged": list("abxxxx"), "served": list("abxxxx")},
    )
    with pytest.raises(
        PipelineError,
        match=(
            r"not registered: of 6 items .* on 2, the served one on 6, all three on 2; "
            r"register.parity_floor asks for 50%"
        ),
    ):
        check_parity(trained, Path("artifacts/finetune"), Path("artifacts/evaluate"))


def test_a_merged_model_of_another_adapter_is_noticed(trained: Stage) -> None:
    """The very fault the check is for: what is served is not what was trained."""
    from safetensors.torch import load_file, save_file

    weights = load_file("artifacts/finetune/adapter_model.safetensors")
    save_file(
        {name: value * 1000 for name, value in weights.items()},
        "artifacts/finetune/adapter_model.safetensors",
    )
    provenance = read_json(Path("artifacts/finetune/provenance.json"))
    write_json(Path("artifacts/finetune/provenance.json"), provenance)
    with pytest.raises(PipelineError, match="not registered"):
        check_parity(trained, Path("artifacts/finetune"), Path("artifacts/evaluate"))


def test_none_asked_for_is_said() -> None:
    assert Parity(0, 0, 0, 0).describe() == "not checked"
