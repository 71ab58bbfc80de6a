"""The MLflow store itself: moved, copied, of an earlier MLflow, in a folder that is thrown away."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.core.errors import PipelineError
from tasks.core.params import load_params
from tasks.register.run_record import describe_scored, keep_commit, logged_params
from tasks.register.stage import _open_ledger, register
from tasks.tracking import champion_start, fetch_model
from tasks.tracking.fetch_model import fetch_artifact
from tasks.tracking.mlflow_store import connect
from tasks.tracking.registry import Ledger
from tasks.tracking.training_run import open_training_run
from tests.conftest import ROOT


@pytest.fixture
def checkout(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the present one, with a store of its own in which version 1 of ``m`` is there."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "a b"  # a blank: the store holds addresses, not paths
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    monkeypatch.chdir(folder)
    _register()
    from mlflow.tracking._tracking_service import utils

    # Another process comes after the move: what MLflow has noted in this one is gone.
    utils._artifact_repos_cache.clear()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    return folder


def connect_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a client of the store of a folder, which is the present one then."""
    monkeypatch.chdir(folder)
    return connect()


def _register() -> Ledger:
    """Register a version of ``m`` as the stage does: files of the run, a model, a version."""
    ledger = Ledger.open("toy", "register-0", "training-0", "run 0")
    Path("provenance.json").write_text('{"base": "toy"}')
    Path("adapter_config.json").write_text("{}")
    ledger.files([Path("provenance.json")])
    experiment = ledger.experiment_id
    model = ledger.client.create_logged_model(experiment, "adapter", ledger.run_id)
    ledger.client.log_model_artifact(model.model_id, "adapter_config.json", "peft")
    ledger.client.finalize_logged_model(model.model_id, "READY")
    ledger.client.create_registered_model("m")
    ledger.version("m", model.model_uri)
    ledger.finish()
    return ledger


def _addresses(database: Path) -> list[str]:
    """Return every address of a file that a store holds, but that of MLflow's own experiment."""
    with sqlite3.connect(database) as store:
        return [
            address
            for table, column in (
                ("experiments where name != 'Default'", "artifact_location"),
                ("runs", "artifact_uri"),
                ("logged_models", "artifact_location"),
                ("model_versions", "storage_location"),
            )
            for (address,) in store.execute(f"select {column} from {table}")
        ]


def test_a_checkout_that_was_moved_has_its_models_and_writes_where_it_is(
    checkout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    moved = tmp_path / "moved"
    checkout.rename(moved)
    monkeypatch.chdir(moved)
    with caplog.at_level(logging.INFO):
        found = fetch_artifact("m", "1", "provenance.json", tmp_path)
        connect()
    assert found is not None and found.read_text() == '{"base": "toy"}'
    assert [line for line in caplog.messages if "moved" in line] == [
        f"the MLflow store was moved: 4 of its addresses begin with {moved / 'mlartifacts'} now, "
        f"no longer with {checkout / 'mlartifacts'}"
    ]
    import mlflow

    fetched = mlflow.artifacts.download_artifacts("models:/m/1", dst_path=str(tmp_path / "model"))
    assert (Path(fetched) / "peft" / "adapter_config.json").is_file()
    second = Ledger.open("toy", "register-1", "training-1", "run 1")
    second.files([Path("provenance.json")])
    assert not checkout.exists(), "nothing is written to the old place"
    here = (moved / "mlartifacts").as_uri()
    assert all(address.startswith(here) for address in _addresses(moved / "mlflow.db"))


def test_a_copied_checkout_takes_its_own_files_and_those_that_the_first_alone_has(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy)
    models = copy / "mlartifacts" / "models"
    shutil.rmtree(models)
    before = _addresses(checkout / "mlflow.db")
    connect_at(copy, monkeypatch)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    first, second = checkout.as_uri(), copy.as_uri()
    assert _addresses(copy / "mlflow.db") == [
        address if "/models/" in address else address.replace(first, second) for address in before
    ]
    connect_at(checkout, monkeypatch)
    assert _addresses(checkout / "mlflow.db") == before


@pytest.mark.parametrize("what", ["alone", "of another checkout", "of another name"])
def test_a_store_that_is_not_a_moved_one_of_this_checkout_stays_as_it_is(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Its file was copied without the artifacts, or the variable names it."""
    other = tmp_path / "other"
    name = "team.db" if what == "of another name" else "mlflow.db"
    other.mkdir()
    shutil.copy(checkout / "mlflow.db", other / name)
    if what != "alone":
        shutil.copytree(checkout / "mlartifacts", other / "mlartifacts")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other / name}")
    before = _addresses(other / name)
    connect_at(checkout if what == "of another checkout" else other, monkeypatch)
    assert _addresses(other / name) == before


def test_a_runs_worktree_mends_the_store_of_its_main_checkout(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "moved"
    checkout.rename(moved)
    worktree = moved / ".runs" / "mine"
    worktree.mkdir(parents=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{moved / 'mlflow.db'}")
    connect_at(worktree, monkeypatch)
    here = (moved / "mlartifacts").as_uri()
    assert all(address.startswith(here) for address in _addresses(moved / "mlflow.db"))


def test_other_settings_with_the_same_adapter_and_scores_are_a_run_of_their_own(
    checkout: Path, tmp_path: Path
) -> None:
    """What a run may cost is none of its settings; the same again continues its run."""
    (tmp_path / "adapter_model.safetensors").write_bytes(b"adapter")
    first = load_params(ROOT / "params.yaml")
    generate = first.generate.model_copy(update={"seed": first.generate.seed + 1})
    limits = first.run.model_copy(update={"max_minutes": 30.0})
    changes: list[dict[str, Any]] = [{}, {}, {"run": limits}, {"generate": generate}]
    seeds = []
    for change in changes:
        params = first.model_copy(update=change)
        stage: Any = SimpleNamespace(params=params, path=lambda _: tmp_path)
        scores = {"dataset": "toy", "adapted": {"f1": 1.0}}
        ledger = _open_ledger(stage, scores, {"adapter": True, "key": "training-9"})
        ledger.params(logged_params(params))
        ledger.finish()
        logged = ledger.client.get_run(ledger.run_id).data.params
        seeds.append((ledger.run_id, int(logged["generate.seed"]) - first.generate.seed))
    assert [run for run, _ in seeds[:3]] == [seeds[0][0]] * 3
    assert [seed for _, seed in seeds] == [0, 0, 0, 1], "each run has the settings that made it"


def test_a_version_keeps_the_commit_that_made_it(checkout: Path) -> None:
    old = {"git.commit": "old", "git.dirty": "false", "prompt.form": "a"}
    new = {"git.commit": "new", "git.dirty": "true", "prompt.form": "b"}
    killed = Ledger.open("toy", "register-1", "training-1", "run 1")
    made = Ledger.open("toy", "register-0", "training-0", "run 0")
    for ledger, told in ((killed, new), (made, old | {"prompt.form": "b"})):
        ledger.tags(old)
        ledger.tags(keep_commit(ledger, new))
        assert {name: ledger.tag(name) for name in new} == told


def test_a_store_of_an_earlier_mlflow_is_no_store_that_is_down(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("here", "there is"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_store, tmp_path / name / "mlflow.db")
        with sqlite3.connect(tmp_path / name / "mlflow.db") as store:
            store.execute("update alembic_version set version_num = 'bf29a5ff90ea'")
    told = "was written by another version of MLflow: keep a copy and upgrade it: "
    command = "cp mlflow.db mlflow.db.bak && .venv/bin/mlflow db upgrade sqlite:///mlflow.db"
    with pytest.raises(PipelineError, match=f"{told}{command}$"):
        connect_at(tmp_path / "here", monkeypatch)
    there = tmp_path / "there is" / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{there}")
    command = f"cp '{there}' '{there}.bak' && .venv/bin/mlflow db upgrade 'sqlite:///{there}'"
    with pytest.raises(PipelineError, match=f"{told}{command}$"):
        connect_at(tmp_path, monkeypatch)


def test_a_store_that_is_down_is_no_store_without_a_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People were told to run with another finetune.start."""

    def fail() -> None:
        raise PipelineError("the MLflow store x does not answer")

    monkeypatch.setattr(fetch_model, "connect", fail)
    with pytest.raises(PipelineError, match="^the MLflow store x does not answer$"):
        champion_start._fetch("m", tmp_path / "kept")


def test_an_experiment_that_was_deleted_is_told_how_to_restore(checkout: Path) -> None:
    """It was: run the same command again when the store answers."""
    number = connect().get_experiment_by_name("toy").experiment_id
    connect().delete_experiment(number)
    told = rf"experiment 'toy' .* was deleted: .*mlflow experiments restore -x {number}"
    with pytest.raises(PipelineError, match=told):
        Ledger.open("toy", "register-1", "training-1", "run 1")


def test_in_a_folder_that_dvc_throws_away_nothing_is_trained_or_registered(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = checkout / ".dvc" / "tmp" / "exps" / "tmpab12"
    scratch.mkdir(parents=True)
    monkeypatch.chdir(scratch)
    stage: Any = None
    said = "set MLFLOW_TRACKING_URI to a store that stays, or run without --temp and --queue"
    with pytest.raises(PipelineError, match=said):
        register(stage)
    with pytest.raises(PipelineError, match=said), open_training_run("toy", "key", {}):
        raise AssertionError
    assert not (scratch / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{checkout / 'mlflow.db'}")
    with open_training_run("toy", "key", {}) as run:
        assert run.client is not None


@pytest.mark.parametrize(
    ("quantization", "adapter", "told"),
    [
        ("nf4", True, "m rounded through nf4 + adapter, merged"),
        ("none", True, "m + adapter, merged"),
        ("nf4", False, "m rounded through nf4"),
    ],
)
def test_a_run_names_the_weights_that_were_scored(
    quantization: str, adapter: bool, told: str
) -> None:
    provenance = {"base": "m", "quantization": quantization, "adapter": adapter}
    assert describe_scored(provenance) == told
