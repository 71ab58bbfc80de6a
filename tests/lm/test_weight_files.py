"""Of a model that holds its weights twice, as Mistral's do, those are counted and fetched that are
loaded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.lm import hub
from tasks.lm.engine import Sampling, open_engine
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.models import base_path, find_weights
from tasks.lm.weight_files import INDEX, weight_bytes
from tests.lm.test_engine import needs_vllm
from tests.lm.test_hub import Hub, own_hub  # noqa: F401 - a fixture


@pytest.fixture
def double(tmp_path: Path, tiny_model: Path) -> Path:
    """A model in parts, with an index, beside other weights in ``consolidated.safetensors``."""
    folder = Path(shutil.copytree(tiny_model, tmp_path / "double"))
    weights = load_file(folder / "model.safetensors")
    model = load_model(str(folder), precision="float32")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    other = {name: torch.randn_like(tensor) for name, tensor in weights.items()}
    save_file(other, folder / "consolidated.safetensors", {"format": "pt"})
    return folder


def test_a_folder_that_holds_its_weights_twice_is_counted_once(
    double: Path, tiny_model: Path
) -> None:
    values = find_weights(str(double)).values
    assert values == pytest.approx(find_weights(str(tiny_model)).values, rel=0.02)


def test_a_hub_model_that_holds_its_weights_twice_is_counted_and_fetched_once(
    own_hub: Hub,  # noqa: F811
    double: Path,
    tiny_model: Path,
) -> None:
    # A third time: a whole file beside the parts that the index names.
    shutil.copy(tiny_model / "model.safetensors", double)
    own_hub.folder = double
    size, lacking = hub.hub_weights("own/model", "main")
    assert size == weight_bytes(double) == find_weights("own/model").values * 4
    assert lacking == size, "the tokenizer has come already"
    folder = Path(base_path("own/model"))
    fetched = {name for name in own_hub.fetched if name.endswith(".safetensors")}
    assert fetched == set(read_json(double / INDEX)["weight_map"].values())
    assert weight_bytes(folder) == size and hub.hub_weights("own/model", "main")[1] == 0


def test_a_model_that_lacks_one_of_its_files_is_one_line(double: Path) -> None:
    part = sorted(double.glob("model-*-of-*.safetensors"))[-1]
    part.unlink()
    with pytest.raises(
        PipelineError, match=rf"^model .*double' lacks {part.name}, which its model"
    ):
        base_path(str(double), weights=False)
    write_json(double / INDEX, {"weight_map": []})
    with pytest.raises(PipelineError, match="names no files of weights: download the model again"):
        base_path(str(double))


def test_other_weights_alone_are_none_that_are_loaded(double: Path) -> None:
    for file in (*double.glob("model-*.safetensors"), double / INDEX):
        file.unlink()
    with pytest.raises(PipelineError, match="holds no .safetensors weights"):
        base_path(str(double))


@needs_vllm
def test_vllm_reads_what_transformers_reads(double: Path, tiny_model: Path) -> None:
    """Beside other weights it would take configuration and tokenizer of Mistral's own format."""
    for file in ("params.json", "tekken.json"):
        write_json(double / file, {})
    answers = []
    for folder in (tiny_model, double):
        with freed_after(open_engine("vllm", folder, precision="float32", max_length=64)) as engine:
            answers.append(engine.generate([[0, 5, 9]], Sampling(0.0, 1.0, 4, True), [1]))
    assert answers[0] == answers[1]
