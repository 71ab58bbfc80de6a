"""The 4-bit adapter, the merged model and the served one are compared before anything is
registered.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.params import load_params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import INSTRUCTIONS
from tasks.core.stage import Stage
from tasks.lm.engine import Sampling, open_engine
from tasks.lm.merged import merged_folder
from tasks.lm.tokenizers import load_tokenizer
from tasks.register import parity
from tasks.register.parity import Parity, check_parity
from tasks.scoring.datasets import load_dataset
from tasks.tracking.kept_answers import NAME, KeptAnswers
from tests.registered import evaluate_tiny

_INPUTS = {name: Path("artifacts", name) for name in ("finetune", "evaluate")}


@pytest.fixture(scope="module")
def evaluated() -> dict[str, Path]:
    """The workplaces of adapters that are trained and evaluated, by the kind of their items."""
    return {}


@pytest.fixture
def trained(
    finetuned: Any,
    request: pytest.FixtureRequest,
    workplace: Path,
    evaluated: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Stage:
    """A tiny adapter, evaluated by the transformers engine, and the stage that would register it:
    a copy of what the first test of its kind has made.
    """
    kind = getattr(request, "param", "incidents")
    if kind in evaluated:
        shutil.copytree(evaluated[kind], workplace, dirs_exist_ok=True)
    else:
        evaluate_tiny(finetuned(kind))
        evaluated[kind] = tmp_path_factory.mktemp("evaluated") / kind
        shutil.copytree(workplace, evaluated[kind])
    found = load_params(workplace / "params.yaml")
    found = found.model_copy(
        update={"register": found.register.model_copy(update={"parity_floor": 0.5})}
    )
    return Stage("register", found, _INPUTS, workplace / "out", workplace / "work")


@pytest.mark.parametrize("trained", ["incidents", "privacy"], indirect=True)
def test_models_that_compute_alike_agree_and_their_answers_are_kept_for_the_server(
    trained: Stage,
) -> None:
    found = check_parity(trained)
    assert found.describe() == (
        f"of 6 items the 4-bit adapter agrees with the merged model on {found.trained}, "
        f"the served one on 6, all three on {found.all_three}"
    ), "the engine of evaluate and the merged model are the same computation here"
    kept = KeptAnswers.model_validate_json((trained.out / NAME).read_bytes())
    dataset = load_dataset(Path(trained.params.evaluate.dataset))
    assert len(kept.answers) == 6 and kept.floor == 0.5
    assert kept.max_tokens == trained.params.evaluate.max_new_tokens
    provenance = read_json(Path("artifacts/finetune/provenance.json"))
    model = merged_folder(
        provenance["base"], provenance["revision"], Path("artifacts/finetune"), "nf4", "float32"
    )
    tokenizer, sampling = load_tokenizer(str(model)), Sampling(0.0, 1.0, kept.max_tokens)
    prompts = [list(one.prompt) for one in kept.answers]
    texts = open_engine("transformers", model, precision="float32").generate(
        prompts, sampling, [0] * 6
    )
    assert [text.text.strip() for text in texts] == [one.answer for one in kept.answers]
    rows = read_table(Path("artifacts/evaluate/predictions.parquet")).to_pylist()
    scored = {
        row["prompt"]: row["prediction"]
        for row in rows
        if row["model"] == "adapted" and row["template"] == dataset.templates[0].name
    }
    for one in kept.answers:
        prompt = tokenizer.decode(one.prompt, skip_special_tokens=True)
        (known,) = [text for asked, text in scored.items() if asked in prompt or prompt in asked]
        assert dataset.classifies or known == one.answer


def test_too_few_that_agree_are_not_registered(
    trained: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        parity,
        "_answers",
        lambda *_: (
            {"trained": list("abcdef"), "merged": list("abxxxx"), "served": list("abxxxx")},
            None,
        ),
    )
    with pytest.raises(
        PipelineError,
        match=(
            r"not registered: of 6 items .* on 2, the served one on 6, all three on 2; "
            r"register.parity_floor asks for 50%"
        ),
    ):
        check_parity(trained)


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
        check_parity(trained)


def test_none_asked_for_is_said() -> None:
    assert Parity(0, 0, 0, 0).describe() == "not checked"


def test_a_model_of_raw_text_is_asked_in_the_form_that_was_scored(
    finetuned: Any, workplace: Path, tiny_model: Path, instructions: Path
) -> None:
    """A pretrained model that is trained on raw text keeps the form of its zero-shot score."""
    shutil.copytree(tiny_model, workplace / "plain")
    (workplace / "plain" / "chat_template.jinja").unlink()
    rows = [row | {"instruction": ""} for row in read_table(instructions).to_pylist()]
    write_table(instructions, pa.Table.from_pylist(rows, schema=INSTRUCTIONS))
    path = finetuned("incidents", "tapt", model=str(workplace / "plain"))
    assert evaluate_tiny(path) == 0
    stage = Stage("register", load_params(path), _INPUTS, workplace / "out", workplace / "work")
    assert check_parity(stage).served == 6
    kept = KeptAnswers.model_validate_json((stage.out / NAME).read_bytes())
    tokenizer = load_tokenizer(str(workplace / "plain"))
    for one in kept.answers:
        assert tokenizer.decode(one.prompt).endswith("\nAnswer:")
