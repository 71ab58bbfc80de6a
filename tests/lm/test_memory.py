"""Memory is passed from hand to hand: at most one model or engine is alive at a time, vLLM lives in
our own process, and one process at a time has a GPU.
"""

from __future__ import annotations

import gc
import importlib.util
import inspect
import logging
import os
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bonito.evaluate import judging
from tasks.baseline import stage as baseline
from tasks.core import card
from tasks.core.lock import is_locked
from tasks.core.params import load_params
from tasks.core.parquet import write_table
from tasks.core.stage import Stage
from tasks.evaluate import stage as evaluate
from tasks.generate import shards
from tasks.generate import stage as generate
from tasks.lm import merged, training, transformers_engine
from tasks.lm.engine import Sampling, open_engine
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.vllm_engine import forget_graph_pool
from tasks.lm.vllm_settings import set_vllm_environment, vllm_environment, vllm_settings
from tasks.register import parity
from tasks.scoring import predict
from tasks.tracking import registry
from tasks.verify import reader
from tests.conftest import ROOT, instruction_table, passage_table

_VLLM = importlib.util.find_spec("vllm") is not None


class Trace:
    """Loads what the pipeline asks for, and notes what is still alive then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loads: list[str] = []
        self.beside: list[str] = []
        self.precisions: set[str] = set()
        self._alive: list[tuple[str, Callable[[], bool]]] = []
        for module in (predict, parity, merged, transformers_engine, registry, judging, reader):
            monkeypatch.setattr(module, "load_model", self._load)
        monkeypatch.setattr(training, "load_model", self._load_to_train)
        for module in (predict, shards, judging, reader):
            monkeypatch.setattr(module, "open_engine", self._open)

    def holds(self) -> list[str]:
        """Return what is alive now."""
        return [kind for kind, alive in self._alive if alive()]

    def _note(self, kind: str) -> None:
        self.beside += [f"{kind} beside {other}" for other in self.holds()]
        self.loads.append(kind)

    def _load(self, *arguments: Any, **options: Any) -> Any:
        self._note("model")
        given = inspect.signature(load_model).bind(*arguments, **options).arguments
        self.precisions.add(given.get("precision", "auto"))
        model = load_model(*arguments, **options)
        # The reference stays here: the weights must go, not only the caller's name.
        self._alive.append(("model", lambda: any(part.numel() for part in model.parameters())))
        return model

    def _load_to_train(self, *arguments: Any, **options: Any) -> Any:
        self._note("training")
        model = load_model(*arguments, **options)
        # Nobody takes its weights away: they go with the last reference to it.
        held = weakref.ref(model)
        self._alive.append(("training", lambda: held() is not None))
        return model

    def _open(self, *arguments: Any, **options: Any) -> Any:
        self._note("engine")
        opened = open_engine(*arguments, **options)
        close, closed = opened.close, []
        opened.close = lambda: (closed.append(1), close())  # type: ignore[method-assign]
        self._alive.append(("engine", lambda: not closed))
        return opened


def _score(params: Path) -> None:
    """baseline and evaluate, with general tasks: two engines or a scorer and an engine each."""
    table = instruction_table(4)
    write_table(Path("general.parquet"), table)
    asked = ["--params", str(params), "--items", "items.jsonl", "--general", "general.parquet"]
    assert baseline.main([*asked, "--out", "artifacts/baseline"]) == 0
    adapter = ["--adapter", "artifacts/finetune", "--baseline", "artifacts/baseline"]
    assert evaluate.main([*asked, *adapter, "--out", "artifacts/evaluate"]) == 0


@pytest.mark.parametrize("kind", ["incidents", "privacy"])
def test_scoring_and_parity_hold_one_model_at_a_time(
    finetuned: Any, kind: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = finetuned(kind)
    trace = Trace(monkeypatch)
    _score(params)
    # Of each of two models: merge, answers, general answers; an engine loads its model in turn.
    assert trace.loads.count("engine") == (4 if kind == "incidents" else 2)
    inputs = {name: Path("artifacts") / name for name in ("finetune", "evaluate")}
    stage = Stage("register", load_params(params), inputs, workplace / "out", workplace / "work")
    parity.check_parity(stage)
    assert len(trace.loads) > 8 and trace.beside == []
    assert trace.precisions == {"float32"}, "not the precision of finetune"


def test_generate_merges_then_opens_its_engine_then_lets_go(
    finetuned: Any, make_params: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    finetuned("incidents")
    write_table(Path("passages.parquet"), passage_table(2))
    params = make_params(
        generate={"generator": "artifacts/finetune", "engine": "transformers", "max_tokens": 4}
    )
    trace = Trace(monkeypatch)
    command = ["--params", str(params), "--passages", "passages.parquet", "--out", "out"]
    assert generate.main(command) == 0
    assert trace.loads == ["model", "engine", "model"] and trace.beside == []
    assert not trace.holds()


def test_a_failure_frees_the_model_too(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), precision="float32")
    with pytest.raises(KeyError), freed_after(model):
        raise KeyError
    assert not any(part.numel() for part in (*model.parameters(), *model.buffers()))


@pytest.mark.skipif(not _VLLM, reason="vLLM has no build for this platform")
def test_a_closed_vllm_leaves_no_weights_and_the_next_one_answers_alike(tiny_model: Path) -> None:
    answers = []
    before = {id(part) for part in _vllm_parts()}  # of engines that other tests hold
    for _ in range(2):
        with freed_after(
            open_engine("vllm", tiny_model, precision="float32", max_length=64)
        ) as one:
            answers.append(one.generate([[0, 5, 9]], Sampling(0.0, 1.0, 4), [1]))
        gc.collect()
        assert [part for part in _vllm_parts() if id(part) not in before] == []
    assert answers[0] == answers[1]


def _vllm_parts() -> list[torch.nn.Module]:
    return [
        thing
        for thing in gc.get_objects()
        if issubclass(type(thing), torch.nn.Module) and type(thing).__module__.startswith("vllm.")
    ]


@pytest.mark.skipif(not _VLLM, reason="vLLM has no build for this platform")
def test_the_next_engine_gets_a_pool_of_its_own_for_its_cuda_graphs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vllm.platforms import current_platform

    monkeypatch.setattr(type(current_platform), "_global_graph_pool", object(), raising=True)
    forget_graph_pool()
    assert type(current_platform)._global_graph_pool is None


@pytest.mark.parametrize("gpu", [True, False])
def test_vllm_runs_in_our_process_with_and_without_a_gpu(gpu: bool) -> None:
    assert vllm_environment(gpu)["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    # Else the first start on a GPU compiles with a CUDA toolkit.
    assert vllm_environment(gpu).get("VLLM_USE_FLASHINFER_SAMPLER") == ("0" if gpu else None)


@pytest.mark.parametrize("gpu", [True, False])
def test_what_promises_rest_on_overrides_the_environment_and_says_so(
    gpu: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_cpu = {"TORCHDYNAMO_DISABLE": ("0", "1"), "VLLM_CPU_OMP_THREADS_BIND": ("auto", "nobind")}
    forced = {"VLLM_ENABLE_V1_MULTIPROCESSING": ("1", "0")} | (
        {"VLLM_USE_FLASHINFER_SAMPLER": ("1", "0")} if gpu else on_cpu
    )
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "DEBUG")
    for name in vllm_environment(gpu).keys() - {"VLLM_LOGGING_LEVEL"}:
        monkeypatch.setenv(name, forced.get(name, ("7",))[0])
    set_vllm_environment(gpu)
    for name, (given, value) in forced.items():
        assert os.environ[name] == value
        assert (
            f"{name}={given} of the environment is overridden: it has to be {value}" in caplog.text
        )
    assert len(caplog.records) == len(forced)
    assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG", "how much is said is the user's choice"
    assert gpu or os.environ["VLLM_CPU_KVCACHE_SPACE"] == "7", "and how much memory it takes"
    set_vllm_environment(gpu)
    assert len(caplog.records) == len(forced), "said once"


def test_the_share_of_a_gpu_is_vllms_own_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    assert "gpu_memory_utilization" not in vllm_settings("auto", 64)
    assert vllm_settings("auto", 64, 0.4)["gpu_memory_utilization"] == 0.4
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "gpu_memory_utilization" not in vllm_settings("auto", 64, 0.4)


@pytest.fixture
def gpus(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two GPUs, as far as the lock can see, with their numbers for UUIDs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", _told)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield
    card.give_cards_back()


def _told(number: int) -> SimpleNamespace:
    """Tell what torch does of a process's GPU: CUDA_VISIBLE_DEVICES says which card it is."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    return SimpleNamespace(uuid=visible[number])


def _other_process(name: str) -> subprocess.Popen[str]:
    """Start a process that has the card ``name`` until its input ends."""
    code = (
        "import pathlib, sys\nfrom tasks.core.lock import hold_lock\n"
        "path = pathlib.Path('cache/cards'); path.mkdir(parents=True, exist_ok=True)\n"
        f"with hold_lock(path / '{name}.lock', 'x'): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    return other


def test_a_second_process_waits_for_the_card_and_says_so(
    gpus: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other = _other_process("0")
    with caplog.at_level(logging.INFO, "tasks.core.card"):
        # The other process ends as soon as this one has said that it waits.
        monkeypatch.setattr(card.log, "info", _then(card.log.info, other.communicate))
        card.take_cards()
    assert f'GPU 0 is in use by {{"pid": {other.pid}' in caplog.text and "waiting" in caplog.text
    assert Path("cache/cards/0.lock").is_file() and not Path("cache/cards/1.lock").exists()


def _then(first: Callable[..., None], second: Callable[..., Any]) -> Callable[..., None]:
    def both(*arguments: Any) -> None:
        first(*arguments)
        second()

    return both


def test_a_card_is_taken_once_and_given_back(
    gpus: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    card.take_cards(2)
    card.take_cards()
    lock = Path("cache/cards/3.lock")
    assert is_locked(lock) and is_locked(Path("cache/cards/1.lock"))
    card.give_cards_back()
    assert not is_locked(lock)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("visible", "first"), [("", 0), ("0", 0), ("GPU-6f2e", 0), ("1", 1), ("1,0", 1)]
)
def test_a_card_has_one_lock_under_all_its_names(
    gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str, first: int
) -> None:
    """Device 0 of a process is the card that CUDA_VISIBLE_DEVICES names first."""
    uuids = ["6f2e", "93ab"]

    def told(number: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=uuids[abs(first - number)])

    monkeypatch.setattr("torch.cuda.get_device_properties", told)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    card.take_cards()
    assert [path.name for path in Path("cache/cards").iterdir()] == [f"{uuids[first]}.lock"]
    assert is_locked(Path(f"cache/cards/{uuids[first]}.lock"))


def test_processes_that_train_together_leave_the_cards_to_their_launcher(
    gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    card.take_cards()
    assert not Path("cache/cards").exists()


def test_without_a_gpu_there_is_no_lock(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    card.take_cards()
    assert not Path("cache/cards").exists()
