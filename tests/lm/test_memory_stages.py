"""One model or engine at a time in the stages that tests/lm/test_memory.py leaves out: verify with
its two kinds of readers, generation and reading by Ray workers, register's model in MLflow, the
evaluation of the generator; and who takes the GPU's lock outside a run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from flows.review.embedding import open_embedder
from tasks.core import card
from tasks.core.errors import PipelineError
from tasks.core.lock import is_locked
from tasks.core.params import Params
from tasks.core.parquet import write_table
from tasks.core.ray_cluster import Workers
from tasks.core.ray_workers import Job, _Actor
from tasks.generate import stage as generate
from tasks.lm import loading, shards
from tasks.release import export
from tests.bonito import test_evaluate as bonito
from tests.bonito.test_evaluate import home  # noqa: F401 - a fixture
from tests.conftest import passage_table
from tests.lm.test_memory import Trace
from tests.registered import evaluate_tiny, register_tiny, write_judged
from tests.verify.conftest import COUNT, make_row
from tests.verify.conftest import run as verified  # noqa: F401 - a fixture
from tests.verify.test_cross_fit import _fit

_LOCK = Path("cache/cards/6f2e.lock")
#: A reader that is an adapter is merged once; then one engine answers and one model ranks.
_ANSWERS, _RANKS = ["engine", "model"], ["model"]


def _show_card(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let these modules see a GPU; models stay on the CPU."""

    def is_available() -> bool:
        return sys._getframe(1).f_globals["__name__"] in modules

    monkeypatch.setattr("torch.cuda.is_available", is_available)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(uuid="6f2e"))


@pytest.fixture
def one_card(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A GPU, as far as the lock can see."""
    _show_card(monkeypatch, card.__name__)
    yield
    card.give_cards_back()


def _rows() -> list[dict[str, Any]]:
    """Return rows of both kinds: such that are answered and such whose labels are ranked."""
    labelled = [make_row(number, "ynqa", "Yes") for number in range(100, 108)]
    return [*(make_row(number) for number in range(COUNT)), *labelled]


def test_verify_opens_its_reader_when_nothing_else_is_held(
    finetuned: Any,
    verified: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finetuned("incidents")
    trace = Trace(monkeypatch)
    verified.fake = False
    assert verified(_rows(), reader="artifacts/finetune", engine="transformers") == 0
    assert trace.loads == ["model", *_ANSWERS, *_RANKS] and trace.beside == []
    assert not trace.holds()


def test_cross_fit_trains_its_readers_one_after_the_other(
    workplace: Path,
    verified: Any,  # noqa: F811
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trace = Trace(monkeypatch)
    verified.fake = False
    fit = _fit(tiny_model, precision="float32")
    assert verified(_rows(), reader="cross-fit", fit=fit, engine="transformers") == 0
    one_reader = ["model", *_ANSWERS, *_RANKS]
    assert trace.loads == ["training", "training", *one_reader, *one_reader]
    assert trace.beside == [] and not trace.holds()


class _Cluster:
    """Does the jobs as Ray's workers do, in this process; a worker's end gives its card back."""

    def __init__(self, trace: Trace) -> None:
        self._trace, self.found = trace, list[tuple[list[str], bool]]()

    def spread(
        self, work: str, arguments: tuple[Any, ...], jobs: Iterable[Job], workers: Workers
    ) -> Iterator[tuple[int, Any]]:
        self.found.append((self._trace.holds(), is_locked(_LOCK)))
        actor = _Actor(str(Path.cwd()), work, arguments, gpu=True)
        for number, job in jobs:
            yield number, actor.do(job)
            assert is_locked(_LOCK), "the worker has the card"
        card.give_cards_back()


@pytest.mark.parametrize("stage", ["generate", "verify"])
def test_workers_begin_when_the_stage_holds_neither_a_model_nor_the_card(
    finetuned: Any,
    one_card: None,
    verified: Any,  # noqa: F811
    make_params: Any,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """The stage merges the adapter before, for which it takes the card."""
    finetuned("incidents")
    trace = Trace(monkeypatch)
    cluster = _Cluster(trace)
    monkeypatch.setattr(shards, "spread", cluster.spread)
    assert is_locked(_LOCK), "of the training"
    card.give_cards_back()
    asked = {"engine": "transformers", "workers": 1}
    if stage == "generate":
        write_table(Path("passages.parquet"), passage_table(2))
        own = {"generator": "artifacts/finetune", "max_tokens": 4, **asked}
        command = ["--params", str(make_params(generate=own)), "--passages", "passages.parquet"]
        assert generate.main([*command, "--out", "out"]) == 0
        assert trace.loads == ["model", *_ANSWERS]
    else:
        verified.fake = False
        assert verified(_rows()[:COUNT], reader="artifacts/finetune", **asked) == 0
        assert trace.loads == ["model", *_ANSWERS]
    assert cluster.found == [([], False)] and trace.beside == []
    assert not is_locked(_LOCK)


@pytest.mark.parametrize("gpu", [True, False])
def test_register_loads_one_model_for_mlflow(
    finetuned: Any,
    instructions: Path,
    monkeypatch: pytest.MonkeyPatch,
    gpu: bool,
) -> None:
    """MLflow tries its example on a copy of the model: not on a GPU."""
    write_judged(instructions)
    params = finetuned("incidents")
    assert evaluate_tiny(params) == 0
    trace = Trace(monkeypatch)
    made: list[str] = []
    begin = transformers.PreTrainedModel.__init__

    def count(self: Any, *arguments: Any, **options: Any) -> None:
        made.append(type(self).__name__)
        begin(self, *arguments, **options)

    monkeypatch.setattr(transformers.PreTrainedModel, "__init__", count)
    if gpu:
        _show_card(monkeypatch, "tasks.tracking.registry")
    assert register_tiny(params, instructions) == 0
    of_parity = ["model", "model"]  # in 4 bits with the adapter, then merged
    assert trace.loads == [*of_parity, "model"]
    whole = [name for name in made if name.endswith("ForCausalLM")]
    assert len(whole) == len(trace.loads) + (0 if gpu else 1)
    assert trace.beside == [] and not trace.holds()


def test_the_generators_evaluation_holds_one_model_at_a_time(
    finetuned: Any,
    home: Path,  # noqa: F811
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Generator and judge are adapters, which are merged first."""
    finetuned("incidents")
    settings = Path("bonito.yaml").read_text()
    Path("bonito.yaml").write_text(
        settings.replace(f"judge: {tiny_model}", "judge: artifacts/finetune")
    )
    trace = Trace(monkeypatch)
    assert bonito.run(Path("artifacts/finetune")) == 0
    losses = ["model"]
    assert trace.loads == ["model", *_ANSWERS, *losses, *_ANSWERS, *_RANKS]
    assert trace.beside == [] and not trace.holds()


def _stop(*_: Any, **__: Any) -> Path:
    raise PipelineError(f"the card is {'taken' if is_locked(_LOCK) else 'free'}")


def test_export_and_why_take_the_card_before_they_load(
    one_card: None,
    params: Params,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provenance = {name: "" for name in ("base", "revision", "quantization", "precision")}
    found = ("name", "1", Path("adapter"), provenance)
    monkeypatch.setattr(export, "fetch_model", lambda *_: found)
    monkeypatch.setattr(export, "_longest_answer", lambda *_: 1)
    monkeypatch.setattr(export, "scored_folder", _stop)
    assert export.main(["--model", "models:/name/1", "--out", "out"]) == 2
    assert "the card is taken" in capsys.readouterr().err
    card.give_cards_back()
    Path("adapter").mkdir()
    Path("adapter/adapter_config.json").touch()
    monkeypatch.setattr(loading, "load_model", _stop)
    own = params.finetune.model_copy(update={"model": str(tiny_model)})
    embedder = open_embedder(
        params.model_copy(update={"finetune": own}), Path("adapter"), Path("vectors.npz")
    )
    assert embedder(["a text"]) is None and embedder.reason == "the card is taken"
