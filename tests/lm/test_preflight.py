"""What a run is refused by before weights come or anything is computed: one line, status 2."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from transformers import MistralConfig, MistralForCausalLM

from tasks.core import card
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.params import Params, load_params
from tasks.ingest import stage as ingest
from tasks.lm import engine, room, vllm_settings
from tasks.lm.embedded import EMBEDDED_BYTES, EMBEDDED_CONFIG
from tasks.lm.loading import load_model
from tasks.lm.merged import merged_folder
from tasks.lm.models import EMBEDDED, Weights, base_path
from tasks.lm.preflight import check_models, check_run, fetch_models, read_models
from tasks.lm.room import Copy, Models, count_lora, describe_needs, disk_needs
from tests.conftest import ROOT
from tests.lm.test_hub import Hub, own_hub  # noqa: F401 - a fixture

#: Of Mistral-7B's config.json.
_MISTRAL = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
Make = Callable[..., Path]
Refused = Callable[[Path], str]


@pytest.fixture
def make(make_params: Any, tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> Make:
    """Return a function that writes the parameters of a run on the tiny model, with other values
    of generate, verify and finetune.
    """
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def call(
        generate: dict[str, Any] | None = None,
        finetune: dict[str, Any] | None = None,
        reader: str = "none",
    ) -> Path:
        tiny = str(tiny_model)
        path: Path = make_params(
            generate={"generator": tiny, "precision": "float32", **(generate or {})},
            verify={"reader": reader},
            finetune={
                "model": tiny,
                "start": "supervision/none",
                "precision": "float32",
                **(finetune or {}),
            },
        )
        return path

    return call


def _adapter(folder: Path, base: Path, rank: int = 4) -> Path:
    model = load_model(str(base), precision="float32")
    config = LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder)
    changed = read_json(folder / "adapter_config.json") | {"base_model_name_or_path": str(base)}
    write_json(folder / "adapter_config.json", changed)
    return folder


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that starts the first stage as DVC does, and returns its one line."""
    monkeypatch.setenv("DVC_STAGE", "ingest")

    def call(params: Path) -> str:
        capsys.readouterr()
        assert ingest.main(["--params", str(params), "--out", "out"]) == 2
        assert not Path("out").exists() and not (Path("cache") / "merged").exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ingest: ")
        return line.removeprefix("error: ingest: ")

    return call


def test_a_rank_of_a_7b_model_is_so_many_values_and_gigabytes() -> None:
    assert count_lora(_MISTRAL, 64) == 167_772_160
    assert round(count_lora(_MISTRAL, 64) * 12 / 1e9, 1) == 2.0


def test_readers_that_the_rows_teach_are_two_merged_models(make: Make, tiny_model: Path) -> None:
    plain = load_params(make())
    verify = plain.verify.model_copy(
        update={"reader": "cross-fit", "fit": plain.finetune.model_copy(update={"lora_rank": 2})}
    )
    with_readers = read_models(plain.model_copy(update={"verify": verify}))
    without = read_models(
        plain.model_copy(update={"verify": plain.verify.model_copy(update={"reader": "none"})})
    )
    assert len(with_readers.copies) == len(without.copies) + 2
    assert with_readers.bases["verify.fit.model"].name == plain.finetune.model


@pytest.mark.parametrize("head_dim", [None, 32])
def test_the_values_of_an_adapter_are_those_that_peft_trains(head_dim: int | None) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = MistralConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim, vocab_size=50
    )
    model = get_peft_model(
        MistralForCausalLM(config),
        LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
    assert count_lora(config.to_dict(), 8) == trained
    assert count_lora({"n_embd": 768}, 8) == 0, "another kind of model is not counted"
    for wrong in ({"hidden_size": "wide"}, {"num_attention_heads": 0}):
        assert count_lora(_MISTRAL | wrong, 8) == 0, "loading it will say what is wrong"


def test_one_sum_is_made_of_downloads_merged_models_and_checkpoints(
    own_hub: Hub,  # noqa: F811
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    params = load_params(make(finetune={"model": "own/model", "lora_rank": 16}))
    free = SimpleNamespace(free=10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    models = read_models(params)
    needs = disk_needs(models, False, (Path(".work"), tmp_path / "cache"))
    size = (own_hub.folder / "model.safetensors").stat().st_size
    assert [need.what.split()[0:3] for need in needs] == [
        ["to", "download", "own/model"],
        ["for", "2", "merged"],
        ["for", "checkpoints", "and"],
    ]
    download, merged, checkpoints = (need.bytes for need in needs)
    assert size <= download < size + 100_000
    assert merged == pytest.approx(2 * size, rel=0.02), "the unadapted and the adapted one"
    assert checkpoints == models.trained * (3 * 12 + 6)
    with pytest.raises(PipelineError) as refused:
        check_models(params)
    text = str(refused.value)
    assert text.startswith("the run needs 0.0 GB of disk and 0.0 GB are free: ")
    for part in ("to download own/model in ", "HF_HUB_CACHE", "BONITO_CACHE_GB", "in .work"):
        assert part in text
    assert "model.safetensors" not in own_hub.fetched
    free.free = 10**9
    check_models(params)
    last = read_models(params, "evaluate")
    needs = disk_needs(last, False, (Path(".work"), tmp_path / "cache"))
    assert [need.what for need in needs] == ["to download own/model", "for 1 merged models"]
    assert list(last.bases) == ["finetune.model"], "of the generator nothing is asked any more"
    monkeypatch.setenv("PIPELINE_POOLS", "generate=gpu")
    assert not read_models(params, "ingest").bases, "other stages run on other machines"


def test_the_first_stage_says_once_what_the_run_downloads_and_writes(
    own_hub: Hub,  # noqa: F811
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    params = load_params(make(finetune={"model": "own/model"}))
    monkeypatch.setenv("DVC_STAGE", "ingest")
    monkeypatch.setenv("PIPELINE_FLOW_RUN", "first")
    caplog.set_level("INFO", "tasks.lm.preflight")
    for stage in ("ingest", "generate", "finetune"):
        check_run(stage, params)
    (line,) = caplog.messages
    assert line.startswith(f"this run will download 0.0 GB into {tmp_path}/hub (own/model 0.0 GB)")
    assert f" and write 0.0 GB for 2 merged models in {tmp_path}/cache, " in line
    assert " in .work, at most 0.0 GB in all; free: " in line
    assert "model.safetensors" not in own_hub.fetched
    monkeypatch.setenv("PIPELINE_FLOW_RUN", "second")
    check_run("finetune", params)
    assert len(caplog.messages) == 2, "another run says it again"
    check_models(params)
    base_path("own/model")
    caplog.clear()
    monkeypatch.setenv("PIPELINE_FLOW_RUN", "third")
    check_run("ingest", params)
    assert not caplog.messages, "nothing has to come"


def test_the_line_has_each_model_its_size_and_the_sum(
    params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=900 * 10**9))
    bonito, seven = (
        Weights(name, "main", 7_241_732_096, 14_483_464_192, _MISTRAL)
        for name in ("BatsResearch/bonito-v1", "mistralai/Mistral-7B-v0.1")
    )
    small = Weights(EMBEDDED, "main", EMBEDDED_BYTES // 2, EMBEDDED_BYTES, EMBEDDED_CONFIG)
    bases = {"generate.generator": bonito, "verify.reader": small, "finetune.model": seven}
    copies = 2 * [Copy(seven, None, "nf4", "bfloat16")]
    target = params.finetune.model_copy(update={"lora_rank": 64})
    models = Models(bases, copies, target, count_lora(_MISTRAL, target.lora_rank))
    hub, cache, work = tmp_path / "hub", tmp_path / "cache", tmp_path / "work"
    assert describe_needs(models, work) == (
        f"this run will download 29.0 GB into {hub} (BatsResearch/bonito-v1 14.5 GB, "
        f"mistralai/Mistral-7B-v0.1 14.5 GB) and write 0.3 GB for the embedded model in {cache}, "
        f"29.0 GB for 2 merged models in {cache}, 7.0 GB for checkpoints and adapter of rank 64 in "
        f"{work}, at most 65.2 GB in all; free: 900.0 GB ({hub}, {cache}, {work})"
    )


def test_two_revisions_of_a_model_are_two_downloads(params: Params, tmp_path: Path) -> None:
    named = ("generate.generator", "verify.reader", "finetune.model")
    bases = {
        setting: Weights("own/model", revision, 10**9, 2 * 10**9, {})
        for setting, revision in zip(named, ("a" * 40, "a" * 40, "b" * 40), strict=True)
    }
    needs = disk_needs(Models(bases, target=params.finetune), False, (tmp_path, tmp_path))
    assert [need.bytes for need in needs] == [2 * 10**9, 2 * 10**9]


def test_a_plan_fetches_the_models_before_it_measures_and_says_so(
    own_hub: Hub,  # noqa: F811
    make: Make,
) -> None:
    params, said = load_params(make(finetune={"model": "own/model"})), list[str]()
    fetch_models(params, said.append)
    assert "model.safetensors" in own_hub.fetched
    (line,) = said
    assert line.startswith("this run will download 0.0 GB into ")
    fetch_models(params, said.append)
    assert len(said) == 1, "nothing has to come"


def test_what_is_there_already_is_not_needed_again(
    make: Make, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(make())
    size = (tiny_model / "model.safetensors").stat().st_size
    training = read_models(params).trained * 42
    free = SimpleNamespace(free=int(1.5 * size + training))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    with pytest.raises(PipelineError, match="for 2 merged models"):
        check_models(params)
    merged_folder(str(tiny_model), "main", None, "nf4", "float32")
    check_models(params)


def test_the_cache_is_pruned_and_needs_no_more_than_its_limit_and_one(
    make: Make, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    models = read_models(load_params(make()))
    size = models.copies[0].base.values * 4
    monkeypatch.setenv("BONITO_CACHE_GB", str(0.5 * size / 1e9))
    (need,) = (
        need for need in disk_needs(models, False, (Path(), Path())) if "merged" in need.what
    )
    assert need.bytes == pytest.approx(1.5 * size)
    old = Path("cache/merged/old")
    old.mkdir(parents=True)
    (old / "model.safetensors").write_bytes(b"w" * int(0.4 * size))
    needs = disk_needs(models, True, (Path(), Path("cache")))
    assert needs[0].bytes == pytest.approx(1.1 * size, rel=0.01), "the old one makes room"


def test_a_model_without_safetensors_is_one_line(
    make: Make, refused: Refused, tiny_model: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    line = refused(make(finetune={"model": str(folder.absolute())}))
    assert line.startswith("finetune.model: ") and "holds no .safetensors weights" in line


@pytest.mark.parametrize("kind", ["gated", "pickled", "absent"])
def test_a_model_of_the_hub_that_cannot_be_had_is_one_line(
    own_hub: Hub,  # noqa: F811
    make: Make,
    refused: Refused,
    kind: str,
) -> None:
    own_hub.gated = kind == "gated"
    own_hub.without_weights = kind == "pickled"
    name = "own/other" if kind == "absent" else "own/model"
    line = refused(make(generate={"generator": name}))
    assert line.startswith(f"generate.generator: {'model ' if kind != 'pickled' else ''}")
    assert {
        "gated": "'own/model' is gated: accept its terms",
        "pickled": "own/model holds no .safetensors weights",
        "absent": "'own/other' is not on the Hugging Face hub",
    }[kind] in line
    assert "model.safetensors" not in own_hub.fetched


def test_a_start_of_another_rank_or_base_is_one_line(
    make: Make, refused: Refused, tiny_model: Path
) -> None:
    start = str(_adapter(Path("start").absolute(), tiny_model))
    assert refused(make(finetune={"start": start, "lora_rank": 8})).endswith(
        f"finetune.start = {start} was trained with lora_rank 4, but finetune.lora_rank is 8: they "
        "must agree"
    )
    other = str(Path(shutil.copytree(tiny_model, "other")).absolute())
    line = refused(make(finetune={"start": start, "lora_rank": 4, "model": other}))
    assert f"was trained with model {tiny_model}, but finetune.model is {other}" in line


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"hidden_size": 32}, "has width 64, but {base} has 32"),
        ({"num_hidden_layers": 1}, "has a layer 1, but {base} has 1 layers"),
    ],
)
def test_an_adapter_of_another_model_than_it_names_is_one_line(
    make: Make, refused: Refused, tiny_model: Path, fault: dict[str, int], words: str
) -> None:
    adapter = _adapter(Path("adapter").absolute(), tiny_model)
    base = Path(shutil.copytree(tiny_model, "base")).absolute()
    write_json(base / "config.json", read_json(base / "config.json") | fault)
    named = read_json(adapter / "adapter_config.json") | {"base_model_name_or_path": str(base)}
    write_json(adapter / "adapter_config.json", named)
    line = refused(make(generate={"generator": str(adapter)}))
    assert line.startswith("generate.generator: adapter ")
    assert words.format(base=base) in line and "it is of another model" in line


def test_an_adapter_of_another_rank_than_it_says_is_one_line(
    make: Make, refused: Refused, tiny_model: Path
) -> None:
    adapter = _adapter(Path("adapter").absolute(), tiny_model)
    write_json(
        adapter / "adapter_config.json", read_json(adapter / "adapter_config.json") | {"r": 9}
    )
    line = refused(make(reader=str(adapter)))
    assert line.startswith("verify.reader: adapter ")
    assert "has rank 4, but its adapter_config.json says 9" in line


def test_a_missing_folder_is_one_line(make: Make, refused: Refused) -> None:
    line = refused(make(finetune={"model": "./absent"}))
    assert line.startswith("finetune.model: model './absent' is neither a folder here nor a hub")


def test_a_card_too_small_for_the_weights_is_one_line(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(make())
    monkeypatch.setattr(room, "card_bytes", lambda: 10**9)
    check_models(params)
    monkeypatch.setattr(room, "card_bytes", lambda: 10**4)
    with pytest.raises(PipelineError, match=r"generate.generator .* of the GPU at least, which"):
        check_models(params)
    seven = Weights("seven", "main", 7_241_732_096, 0, _MISTRAL)
    models = room.Models({"finetune.model": seven}, [], params.finetune, count_lora(_MISTRAL, 64))
    needs = dict(room._card_needs(models))
    assert [round(need / 1e9, 1) for need in needs.values()] == [29.0, 6.5], "float32; 4 bits"


def test_a_large_model_without_a_gpu_is_one_line(
    make: Make, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_models(load_params(make()))
    spread = read_models(load_params(make(generate={"workers": 2, "ray_address": "head:6379"})))
    assert spread.elsewhere == {"generate.generator"}, "the machines of the cluster have GPUs"
    seven = Weights("own/seven", "main", 7_241_732_096, 0, _MISTRAL)
    room.check_room(replace(spread, bases={"generate.generator": seven}))
    models = Models({"finetune.model": seven}, [], params.finetune, 0)
    with pytest.raises(PipelineError, match=r"^finetune.model: own/seven has 7.2 billion values,"):
        room.check_room(models)
    monkeypatch.setenv("BONITO_LARGE_ON_CPU", "1")
    room.check_room(models)
    monkeypatch.delenv("BONITO_LARGE_ON_CPU")
    monkeypatch.setattr(room, "card_bytes", lambda: 80 * 10**9)
    room.check_room(models)


def test_more_processes_than_gpus_are_one_line_before_anything_is_generated(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(make(finetune={"processes": 2, "micro_batch_rows": 4}))
    check_models(params)  # without a GPU they are processes of the CPU
    monkeypatch.setattr(room, "card_bytes", lambda: 80 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_models(params)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(PipelineError, match=r"^finetune.processes = 2, but 1 GPUs can be seen"):
        check_models(params)


def test_rows_that_the_processes_cannot_share_are_refused_as_the_settings_are_read(
    make: Make,
) -> None:
    """Else the training would refuse them, hours later."""
    assert load_params(make(finetune={"processes": 2, "micro_batch_rows": 4}))
    with pytest.raises(
        PipelineError, match=r"finetune.processes = 2: times micro_batch_rows = 8 must d"
    ):
        load_params(make(finetune={"processes": 2, "micro_batch_rows": 8}))


@pytest.mark.parametrize("setting", ["generate.generator", "finetune.model"])
def test_a_card_without_bfloat16_is_one_line_where_a_setting_asks_for_it(
    make: Make, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    section = setting.partition(".")[0]
    params = load_params(make(**{section: {"precision": "bfloat16"}}))  # type: ignore[arg-type]
    monkeypatch.setattr(room, "card_bytes", lambda: 32 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    check_models(params)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    with pytest.raises(PipelineError, match=rf"^{setting} is to be loaded in bfloat16, which this"):
        check_models(params)


def test_a_driver_that_is_too_old_is_one_line_and_no_silent_run_on_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(card, "_DEVICES", (str(tmp_path / "nvidiactl"),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert card.card_bytes() is None, "the CPU's torch was chosen"
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert card.card_bytes() is None, "the GPU is hidden on purpose"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(PipelineError, match=r"finds no GPU, .*: CUDA 13.0 needs a newer one"):
        card.card_bytes()


def test_a_card_that_something_else_fills_is_one_line_before_weights_are_read(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**4, 24 * 10**9))
    with pytest.raises(PipelineError, match=r"^model .* 0.0 of its 24.0 GB are free: see with nv"):
        load_model(str(tiny_model), precision="float32")
    with pytest.raises(
        PipelineError, match=r"^vLLM with gpu_memory_utilization 0.5 needs 12.0 GB .* smaller share"
    ):
        engine.open_engine("vllm", tiny_model, "float32", gpu_memory_utilization=0.5)
    with pytest.raises(
        PipelineError, match=r"^vLLM with gpu_memory_utilization 0.92 needs 22.1 GB"
    ):
        vllm_settings.serve_command(tiny_model, "model", "127.0.0.1", 8000, 64, "float32")


def test_the_first_stage_asks_without_torch() -> None:
    """Its import takes seconds, of every run."""
    code = "import sys, tasks.ingest.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
