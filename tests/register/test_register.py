"""Registering twice, or after a kill: one version, one alias, one verdict.

In a real MLflow store; what was measured is made up.
"""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import yaml

from tasks.core.errors import PipelineError
from tasks.core.params import Params, load_params
from tasks.core.parquet import write_table
from tasks.core.rows import EVALUATIONS
from tasks.register import champion
from tasks.register.gate import Comparison
from tasks.register.run_record import digest_settings
from tasks.scoring.datasets import load_dataset, load_items
from tasks.tracking.mlflow_store import (
    OWNER,
    close_orphans,
    create_private_store,
    owner,
    store_errors,
)
from tasks.tracking.registry import Ledger
from tasks.tracking.training_run import TrainingRun
from tests.conftest import ROOT


class _Store:
    """Two registrations of one model name in a store of their own."""

    def __init__(self) -> None:
        self.ledgers = [
            Ledger.open("toy", f"register-{n}", f"training-{n}", f"run {n}") for n in range(2)
        ]
        client = self.ledgers[0].client
        client.create_registered_model("m")
        self.versions = [
            client.create_model_version("m", "file:///nowhere", ledger.run_id)
            for ledger in self.ledgers
        ]

    def choose_alias(self, number: int) -> tuple[str, str]:
        nothing: Any = SimpleNamespace()
        return champion.choose_alias(
            nothing, self.ledgers[number], "m", self.versions[number], nothing
        )


@pytest.fixture
def store(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Store:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def judge(stage: Any, ledger: Ledger, name: str, version: Any, asked: Any) -> Comparison:
        holder = ledger.champion(name)
        opponent = f"champion version {holder.version}" if holder else "the unadapted model"
        return Comparison(opponent, 9.0, 4.0, 12.0)

    monkeypatch.setattr(champion, "judge", judge)
    return _Store()


class _Killed(BaseException):
    """Nothing of the stage's own catches it."""


@pytest.mark.parametrize("call", ["tags", "alias", "finish"])
def test_killed_around_the_alias_and_started_again(
    store: _Store, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The verdict names who was beaten, although by the second time the alias has moved from it."""
    store.choose_alias(0)
    client = store.ledgers[0].client

    def die(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, call, die)
        if call == "finish":
            store.choose_alias(1)
        else:
            with pytest.raises(_Killed):
                store.choose_alias(1)
            assert str(client.get_model_version_by_alias("m", "champion").version) == "1"
    assert store.choose_alias(1) == ("champion", "+9.0 F1 [+4.0, +12.0] against champion version 1")
    assert str(client.get_model_version_by_alias("m", "champion").version) == "2"
    assert store.ledgers[1].tag("verdict") == "+9.0 F1 [+4.0, +12.0] against champion version 1"


def test_who_became_champion_meanwhile_is_compared_with(
    store: _Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs judge at once: the second to end looks again, and does not push the first out."""
    judge, beaten = champion.judge, []

    def slow(*arguments: Any) -> Comparison:
        found: Comparison = judge(*arguments)
        beaten.append(found.opponent)
        if len(beaten) == 1:
            with monkeypatch.context() as patch:
                patch.setattr(champion, "judge", judge)
                store.choose_alias(0)
        return found

    monkeypatch.setattr(champion, "judge", slow)
    assert store.choose_alias(1)[1].endswith("against champion version 1")
    assert beaten == ["the unadapted model", "champion version 1"]


def test_a_store_that_fails_is_no_store_without_a_champion(
    store: _Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the new version would only have to be better than the unadapted model."""
    from mlflow.exceptions import MlflowException

    assert store.ledgers[0].champion("m") is None and store.ledgers[0].champion("none") is None
    store.choose_alias(0)

    def fail(*_: Any) -> None:
        raise MlflowException("API request failed: connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(store.ledgers[1].client, "get_model_version_by_alias", fail)
        with pytest.raises(MlflowException, match="connection refused"):
            store.choose_alias(1)
    assert str(store.ledgers[1].champion("m").version) == "1"


def test_a_number_that_is_there_is_not_logged_twice(store: _Store) -> None:
    ledger = store.ledgers[0]
    for value in (1.0, 1.0, 2.0):
        ledger.metrics({"f1/toy": value})
    assert [point.value for point in ledger.client.get_metric_history(ledger.run_id, "f1/toy")] == [
        1.0,
        2.0,
    ]
    assert ledger.tag("none of that name") == ""


@pytest.mark.parametrize("changed", ["", "template", "question", "answer"])
def test_gain_over_the_newest_tapt_run_that_was_asked_the_same(
    store: _Store, tmp_path: Path, changed: str
) -> None:
    """Templates and items of the other run have the same names, whatever they said."""
    stages, ledgers = [], store.ledgers
    for number, f1 in ((0, 0.25), (1, 0.75)):
        folder = tmp_path / str(number)
        folder.mkdir()
        params = _asking(folder, "" if number else changed)
        write_table(folder / "predictions.parquet", _answers(params, f1))
        stages.append(SimpleNamespace(params=params, work=tmp_path, path=lambda _, at=folder: at))
    tapt, ours = ledgers
    model = {"finetune.model": stages[1].params.finetune.model, "finetune.revision": "main"}
    tapt.params({"supervise.source": "tapt"} | model)
    theirs = champion.load_questions(stages[0])
    assert theirs is not None
    tapt.tags({champion.QUESTIONS: theirs.digest})
    tapt.files([tmp_path / "0" / "predictions.parquet"], "evaluation")
    stage: Any = stages[1]
    asked = champion.load_questions(stage)
    assert champion.compare_with_tapt(stage, ours, asked, "main") is None, "it is not finished"
    tapt.finish()
    assert champion.compare_with_tapt(stage, ours, asked, "a" * 40) is None, "another commit"
    comparison = champion.compare_with_tapt(stage, ours, asked, "main")
    if changed:
        assert comparison is None
    else:
        assert comparison is not None and (comparison.f1, comparison.low, comparison.high) == (
            50.0,
            50.0,
            50.0,
        )
        assert (
            comparison.describe() == f"+50.0 F1 [+50.0, +50.0] against TAPT, run {tapt.run_id[:8]}"
        )
    assert champion.compare_with_tapt(stage, tapt, asked, "main") is None, "not with itself"


def test_a_champion_that_was_asked_other_words_under_the_same_names_is_not_compared(
    store: _Store, tmp_path: Path
) -> None:
    before, ours = store.ledgers
    write_table(tmp_path / "predictions.parquet", _answers(_asking(tmp_path, ""), 0.25))
    stage: Any = SimpleNamespace(params=_asking(tmp_path, ""), work=tmp_path)
    before.files([tmp_path / "predictions.parquet"], "evaluation")
    same, asked = champion.same_questions_answers, champion.load_questions(stage)
    assert asked is not None
    assert same(stage, ours, before.run_id, asked) is None, "it does not say what it was asked"
    before.tags({champion.QUESTIONS: asked.digest})
    assert same(stage, ours, before.run_id, asked) is not None
    reworded: Any = SimpleNamespace(params=_asking(tmp_path, "template"), work=tmp_path)
    others = champion.load_questions(reworded)
    assert others is not None and same(reworded, ours, before.run_id, others) is None


@pytest.mark.parametrize("left", ["answers", "adapter", "nothing", "no run"])
def test_a_champion_whose_answers_are_lost_is_named_and_without_its_adapter_replaced(
    store: _Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, left: str
) -> None:
    before, ours = store.ledgers
    params = _asking(tmp_path, "")
    write_table(tmp_path / "predictions.parquet", _answers(params, 0.5))
    before.files([tmp_path / "predictions.parquet"], "evaluation")
    stage: Any = SimpleNamespace(params=params, work=tmp_path)
    asked = champion.load_questions(stage)
    assert asked is not None
    before.tags({champion.QUESTIONS: asked.digest})
    (tmp_path / "adapter").mkdir()
    if left in ("answers", "adapter"):
        (tmp_path / "adapter" / "MLmodel").write_text("")
    client, address = before.client, (tmp_path / "adapter").as_uri()
    version = client.create_model_version("m", address, before.run_id)
    before.alias("m", "champion", version.version)
    place = f"{client.get_run(before.run_id).info.artifact_uri}/evaluation/predictions.parquet"
    if left != "answers":
        shutil.rmtree(tmp_path / "mlartifacts")
    if left == "no run":
        place = f"its MLflow run {before.run_id}"
        client.delete_run(before.run_id)
        client._tracking_client.store._hard_delete_run(before.run_id)  # as `mlflow gc` does
    new, unadapted = _answers(params, 0.75), _answers(params, 0.25)
    holder = ours.champion("m")
    found = champion._judge_champion(stage, ours, holder, asked, new, unadapted)
    assert found.alias == ("challenger" if left == "adapter" else "champion")
    opponent = {
        "answers": "champion version 3",
        "adapter": f"the unadapted model (champion version 3 has lost its answers: {place})",
    }.get(left, f"the unadapted model (champion version 3 is lost: {place})")
    assert found.opponent == opponent
    warnings = "\n".join(caplog.messages)
    assert (place in warnings) == (left != "answers")
    assert ("put the file back, or take" in warnings) == (left == "adapter")


def test_the_store_is_for_its_owner_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{path}")
    create_private_store()
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("kept")
    create_private_store()
    assert path.read_text() == "kept"


def test_a_store_that_fails_says_what_it_needs() -> None:
    from mlflow.exceptions import MlflowException

    for said, needed in (
        ("(sqlite3.OperationalError) database or disk is full", "with more room on its disk"),
        ("API request failed", "when it answers"),
    ):
        with pytest.raises(PipelineError, match=f"again {needed}$"), store_errors():
            raise MlflowException(said)
    refused = type("ClientError", (Exception,), {"__module__": "botocore.exceptions"})
    for error, needed in (
        (refused("An error occurred (AccessDenied)"), "when its artifacts can be read and written"),
        (ModuleNotFoundError("No module named 'boto3'", name="boto3"), "after .* install boto3"),
    ):
        with pytest.raises(PipelineError, match=f"again {needed}$"), store_errors():
            raise error
    for bug in (ModuleNotFoundError("No module named 'tasks.x'", name="tasks.x"), KeyError("f1")):
        with pytest.raises(type(bug)), store_errors():
            raise bug


def test_an_artifact_store_in_s3_without_its_package_is_one_line(
    store: _Store, tmp_path: Path
) -> None:
    """It was a trace; MLflow looks for boto3 when the first file is stored."""
    store.ledgers[0].client.create_experiment("s3", artifact_location="s3://bucket/runs")
    ledger = Ledger.open("s3", "register-s3", "training-s3", "run s3")
    (tmp_path / "card.md").write_text("")
    with pytest.raises(PipelineError, match=r"install boto3$"), store_errors():
        ledger.files([tmp_path / "card.md"])


@pytest.mark.parametrize("left", ["missing", "empty"])
def test_artifacts_that_are_not_mounted_do_not_count_as_lost(
    store: _Store, tmp_path: Path, left: str
) -> None:
    before = store.ledgers[0]
    (tmp_path / "card.md").write_text("")
    before.files([tmp_path / "card.md"])
    folder = tmp_path / "mlartifacts"
    folder.rename(tmp_path / "elsewhere")
    Ledger.open("toy", "register-0", "training-0", "run 0").finish()  # it has no model yet
    if left == "empty":
        folder.mkdir()
    before.client.create_logged_model(before.experiment_id, "adapter", before.run_id)
    told = f"{folder}, the folder of the artifacts .* is {'empty' if left == 'empty' else 'not'}"
    with pytest.raises(PipelineError, match=f"{told}.*: mount its disk"):
        Ledger.open("toy", "register-1", "training-1", "run 1")
    folder.mkdir(exist_ok=True)
    (folder / "lost").write_text("")
    Ledger.open("toy", "register-1", "training-1", "run 1").finish()


def test_a_model_path_with_an_apostrophe_is_found(store: _Store) -> None:
    first, second = store.ledgers
    first.params({"finetune.model": '/it\'s/"mine"'})
    first.tags({"data.items_sha256": "ab"})
    first.finish()
    asked = {"finetune.model": '/it\'s/"mine"'}
    assert second.newest(asked, {"data.items_sha256": "ab"}) == first.run_id
    assert second.newest({"finetune.model": "other"}, {"data.items_sha256": "ab"}) == ""


def _asking(folder: Path, changed: str) -> Params:
    """Return the settings of an evaluation on 12 items, one part of which may be changed."""
    item: dict[str, Any] = {"question": "What broke?", "answers": ["seal"]}
    template = {"name": "plain", "instruction": "{{ context }} {{ question }}"}
    if changed == "template":
        template["instruction"] += " Answer in one word."
    if changed == "question":
        item["question"] = "Which part broke?"
    if changed == "answer":
        item["answers"] = ["the seal"]
    rows = [item | {"id": f"q{n}", "context": f"The seal of P-{n} broke."} for n in range(12)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = {"name": "toy", "task_type": "exqa", "answers": "answers", "templates": [template]}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(dataset))
    base = load_params(Path("params.yaml"))
    paths = {"dataset": str(folder / "dataset.yaml"), "items": str(folder / "items.jsonl")}
    evaluate = base.evaluate.model_copy(update={**paths, "bootstrap": 200})
    return base.model_copy(update={"evaluate": evaluate})


def _answers(params: Params, f1: float) -> pa.Table:
    """Every item answered equally well."""
    dataset = load_dataset(Path(params.evaluate.dataset))
    items = load_items(dataset, Path(params.evaluate.items))
    rows = [
        {
            "model": "adapted",
            "dataset": dataset.name,
            "template": template.name,
            "item_id": item.id,
            "prompt": "?",
            "prediction": "!",
            "golds": ["!"],
            "f1": f1,
        }
        for template in dataset.templates
        for item in items
    ]
    return pa.Table.from_pylist(rows, schema=EVALUATIONS)


def test_a_champion_that_was_asked_something_else_stays_and_the_interval_is_the_measured_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However far the new version is above the unadapted model: it was never compared with the
    champion.
    """
    monkeypatch.setattr(champion, "read_table", lambda _: None)
    monkeypatch.setattr(champion, "read_json", lambda _: {"leaked_items": None})
    monkeypatch.setattr(champion, "find_faults", lambda *_: [])
    monkeypatch.setattr(champion, "_of_model", lambda *_: None)
    monkeypatch.setattr(champion, "same_questions_answers", lambda *_: None)
    monkeypatch.setattr(
        champion,
        "_compare",
        lambda asked, new, old, opponent: Comparison(opponent, 42.1, 34.2, 49.9),
    )
    monkeypatch.setattr(champion, "read_rows", lambda _: ())
    params = load_params(Path("params.yaml"))
    stage: Any = SimpleNamespace(path=lambda _: Path("nowhere"), params=params)
    asked: Any = SimpleNamespace(items=[])
    judged = {}
    for number in (None, "1", "2"):
        ledger = SimpleNamespace(
            champion=lambda _, number=number: (
                number and SimpleNamespace(version=number, run_id="theirs")
            ),
            find_lost=lambda *_: "",
        )
        version: Any = SimpleNamespace(version="2")
        judged[number] = champion.judge(stage, ledger, "m", version, asked)
        assert (
            judged[number]
            .describe()
            .startswith("+42.1 F1 [+34.2, +49.9] against the unadapted model")
        )
    assert [judged[number].alias for number in (None, "1", "2")] == [
        "champion",
        "challenger",
        "champion",
    ]


def test_a_registration_that_goes_on_finds_its_run_and_its_version(store: _Store) -> None:
    first, second = store.ledgers
    again = Ledger.open("toy", "register-0", "training-0", "run 0")
    assert again.run_id == first.run_id
    # What another registration has taken is not taken again for its training.
    assert Ledger.open("toy", "register-9", "training-0", "run 9").run_id != first.run_id
    assert again.version("m", "file:///nowhere").version == store.versions[0].version
    assert second.version("m", "file:///nowhere").version == store.versions[1].version


def test_what_changes_no_result_does_not_change_the_run() -> None:
    params = load_params(ROOT / "params.yaml")

    def digest(**sections: dict[str, Any]) -> str:
        changed = {
            name: getattr(params, name).model_copy(update=values)
            for name, values in sections.items()
        }
        return digest_settings(params.model_copy(update=changed))

    same = digest()
    assert digest(run={"max_minutes": 5}, generate={"workers": 2, "ray_address": "auto"}) == same
    assert digest(verify={"min_grounding": 0.2}) != same


def test_a_curve_is_logged_where_it_has_gaps(store: _Store) -> None:
    ledger = store.ledgers[0]
    ledger.curve("train_loss", [(1, 3.0), (3, 1.0)])
    ledger.curve("train_loss", [(1, 3.0), (2, 2.0), (3, 1.0)])
    points = ledger.client.get_metric_history(ledger.run_id, "train_loss")
    assert sorted((point.step, point.value) for point in points) == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_only_the_runs_of_this_machines_dead_processes_are_ended(store: _Store) -> None:
    client = store.ledgers[0].client
    experiment = store.ledgers[0].experiment_id
    host = socket.gethostname()
    owners = {
        "dead": f"{host}:99999999:1",
        "alive": owner(),
        "elsewhere": "another-host:99999999:1",
        "nobody's": "",
    }
    runs = {
        name: client.create_run(experiment, tags={OWNER: mark} if mark else {}).info.run_id
        for name, mark in owners.items()
    }
    close_orphans(client, "toy")
    found = {name: client.get_run(run).info.status for name, run in runs.items()}
    assert found == {name: "KILLED" if name == "dead" else "RUNNING" for name in owners}


class _Away:
    """A store that answers when it is asked for the third time."""

    def __init__(self) -> None:
        self.asked, self.points = 0, list[tuple[int, float]]()

    def log_batch(self, run_id: str, metrics: list[Any]) -> None:
        self.asked += 1
        if self.asked < 3:
            raise ConnectionError("refused")
        self.points += [(metric.step, metric.value) for metric in metrics]


def test_points_wait_for_a_store_that_is_away_and_none_comes_twice() -> None:
    run = TrainingRun(_Away(), "id", last_step=2, pause=0.0)
    first = TrainingRun(None, "").pause
    for step in range(1, 7):
        run.metric("train_loss", float(step), step)
    assert run.client.points == [(step, float(step)) for step in range(3, 7)]
    assert run.waiting == [] and run.pause == first, "the next outage begins with a short pause"
