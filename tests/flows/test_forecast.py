"""The forecast of ``make plan`` beside what came: as figures, and in MLflow."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.runs import forecast
from flows.runs.dvc_repro import StageOutcome
from flows.runs.last_run import read_last, write_outcomes
from tasks.core.files import read_json, write_json
from tests.conftest import ROOT

_STAGES = ("generate", "verify", "register")
_ENDS = {
    "kept_rows": {"low": 92, "high": 163},
    "minutes": {"low": 2.0, "high": 9.5},
    "peak_memory_mb": {"low": 900, "high": 1200},
    "disk_mb": {"low": 1, "high": 9},
    "detectable_gain": None,  # no labelled items
}


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout where a run that was planned has ended."""
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    write_json(tmp_path / "artifacts/plan/plan.json", {"run": "mine", "settings": "a", **_ENDS})
    kept = {"stage": "verify", "rows_in": 200, "rows_kept": 137, "dropped": {"disagrees": 63}}
    write_json(tmp_path / "artifacts/verify/summary.json", kept)
    for number, stage in enumerate(_STAGES):
        write_json(tmp_path / ".work" / stage / "memory.json", {"peak_mb": 1000 + 100 * number})
    for name in ("used", "of-another-run"):
        (tmp_path / "cache/merged" / name).mkdir(parents=True)
        (tmp_path / "cache/merged" / name / "model").write_bytes(bytes(4 * 2**20))
    os.utime(tmp_path / "cache/merged/of-another-run", (1000, 1000))
    _end(tmp_path)
    return tmp_path


def _end(checkout: Path, status: Any = "ran", settings: str = "a") -> None:
    outcomes = [StageOutcome(stage, status, 60.0) for stage in _STAGES]
    write_outcomes(checkout, "mine", outcomes, settings=settings, began=2000.0)


def _compared(checkout: Path) -> dict[str, forecast.Compared]:
    last = read_last(checkout)
    assert last is not None
    return {one.key: one for one in forecast.compare(checkout, checkout, last)}


def test_each_figure_stands_beside_what_came(finished: Path) -> None:
    found = _compared(finished)
    assert {key: one.holds for key, one in found.items()} == {
        "kept_rows": True,
        "minutes": True,
        "peak_memory_mb": True,
        "disk_mb": True,
    }
    assert found["kept_rows"].came == 137 and found["minutes"].came == 3.0
    assert found["peak_memory_mb"].came == 1200, "the largest of the stages"
    assert 4 < found["disk_mb"].came < 4.1, "the model that this run used, and its files"
    assert found["minutes"].describe() == "minutes 2.0 to 9.5, came 3.0"
    assert found["kept_rows"].row() == {
        "figure": "kept rows",
        "low": 92,
        "high": 163,
        "came": 137,
        "within": "yes",
    }


def test_what_no_stage_wrote_does_not_count(finished: Path) -> None:
    """The trial of make plan, another run's model that is cleared away, a plan half written."""
    for place in (".work/plan", "artifacts/bench"):
        (finished / place).mkdir(parents=True)
        (finished / place / "large").write_bytes(bytes(8 * 2**20))
    (finished / "cache/merged/gone").symlink_to(finished / "nowhere")
    assert 4 < _compared(finished)["disk_mb"].came < 4.1
    (finished / "artifacts/plan/plan.json").write_text("{")
    assert not _compared(finished)


def test_what_was_there_already_is_not_compared(finished: Path) -> None:
    _end(finished, "unchanged")
    assert set(_compared(finished)) == {"kept_rows"}
    _end(finished, settings="b")
    assert not _compared(finished), "the plan of other settings"


def test_mlflow_has_both_and_no_metric_more(
    finished: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{shutil.copy(empty_store, finished / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    client = MlflowClient(uri, uri)
    kept = client.create_experiment("planned", (finished / "files").as_uri())
    run_id = client.create_run(kept).info.run_id
    write_json(finished / "artifacts/register/registration.json", {"run_id": run_id})
    told: list[str] = []
    assert len(forecast.record(finished, finished, told.append, pytest.fail)) == 4
    assert told == [f"the forecast and what came are in MLflow run {run_id}"]
    data = client.get_run(run_id).data
    assert "kept rows 92 to 163, came 137; minutes" in data.tags["forecast"]
    assert not data.metrics
    logged = read_json(Path(client.download_artifacts(run_id, "plan/forecast.json", str(finished))))
    assert logged["came"]["kept_rows"] == 137 and logged["kept_rows"] == _ENDS["kept_rows"]


def test_a_store_that_does_not_take_it_is_a_warning(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> str:
        raise forecast.PipelineError("it does not answer")

    monkeypatch.setattr(forecast, "run_module", fail)
    write_json(finished / "artifacts/register/registration.json", {"run_id": "1"})
    warned: list[str] = []
    assert forecast.record(finished, finished, pytest.fail, warned.append)
    assert warned == ["the forecast is not in MLflow: it does not answer"]
