"""Registering twice, or after a kill: one version, one alias, one verdict. In a real MLflow store; what was measured is made up."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tasks import register
from tasks.register import Verdict
from tasks.tracking import Ledger


class _Store:
    """Two registrations of one model name in a store of their own."""

    def __init__(self) -> None:
        self.ledgers = [Ledger.open("toy", f"register-{n}", f"training-{n}", f"run {n}") for n in range(2)]
        client = self.ledgers[0].client
        client.create_registered_model("m")
        self.versions = [client.create_model_version("m", "file:///nowhere", ledger.run_id) for ledger in self.ledgers]

    def settle(self, number: int) -> tuple[str, str]:
        return register._settle_alias(SimpleNamespace(), self.ledgers[number], "m", self.versions[number], {})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store: to make one takes MLflow far longer than all that is tried with it."""
    import mlflow

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Store:
    shutil.copy(empty, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def judged(stage: Any, ledger: Ledger, name: str, version: Any, metrics: Any) -> Verdict:
        champion = ledger.champion(name)
        return Verdict(f"champion version {champion.version}" if champion else "the unadapted model", 9.0, 4.0, 12.0)

    monkeypatch.setattr(register, "judge", judged)
    return _Store()


class _Killed(BaseException):
    """Nothing of the stage's own catches it."""


@pytest.mark.parametrize("call", ["alias", "finish"])
def test_killed_around_the_alias_and_started_again(store: _Store, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The verdict names who was beaten, although by the second time the alias has moved from it."""
    store.settle(0)
    client = store.ledgers[0].client

    def die(*_: Any) -> None:
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, call, die)
        if call == "finish":
            store.settle(1)
        else:
            with pytest.raises(_Killed):
                store.settle(1)
            assert str(client.get_model_version_by_alias("m", "champion").version) == "1"
    assert store.settle(1) == ("champion", "+9.0 F1 [+4.0, +12.0] against champion version 1")
    assert str(client.get_model_version_by_alias("m", "champion").version) == "2"
    assert store.ledgers[1].tag("verdict") == "+9.0 F1 [+4.0, +12.0] against champion version 1"


def test_a_number_that_is_there_is_not_logged_twice(store: _Store) -> None:
    ledger = store.ledgers[0]
    for value in (1.0, 1.0, 2.0):
        ledger.metrics({"f1/toy": value})
    assert [point.value for point in ledger.client.get_metric_history(ledger.run_id, "f1/toy")] == [1.0, 2.0]
    assert ledger.tag("none of that name") == ""
