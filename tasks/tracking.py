"""The ledger: MLflow runs, metrics and registered models. The only module that imports MLflow.

The store is ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` (SQLite) in this folder with its artifacts beside it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.errors import PipelineError

log = logging.getLogger(__name__)
#: Tags that lead from a run back to its inputs; also how a stage finds the run that an earlier, killed one had begun.
TRAINING_KEY, REGISTER_KEY, OWNER = "finetune.key", "register.key", "owner"
MATRIX, MATRIX_CELL = "matrix", "matrix.cell"


def tracking_uri() -> str:
    """Return the address of the MLflow store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


@dataclass
class TrainingRun:
    """A run that shows the loss while it trains. Steps it already holds (from before a kill) are not logged twice."""

    client: Any
    run_id: str
    last_step: int = 0

    def metric(self, name: str, value: float, step: int) -> None:
        """Log one point. The ledger never stops the work: when the store does not answer, the point is only in loss.csv."""
        if step <= self.last_step:
            return
        try:
            self.client.log_metric(self.run_id, name, value, step=step)
        except Exception as error:  # noqa: BLE001 - whatever a tracking store throws, training goes on
            log.warning("MLflow did not take %s at step %d (%s); loss.csv has it", name, step, str(error).splitlines()[0][:120])
        self.last_step = step


@contextlib.contextmanager
def open_training_run(experiment: str, key: str, settings: dict[str, Any]) -> Iterator[TrainingRun]:
    """Open the MLflow run of this training, or go on with the one that a killed process had begun. Left RUNNING: register ends it."""
    client = _client()
    close_orphans(client, experiment)
    run = find_run(client, experiment, TRAINING_KEY, key, unregistered=True)
    if run is None:
        run = client.create_run(experiment_id(client, experiment), run_name=f"finetune-{key[:8]}", tags={TRAINING_KEY: key, OWNER: _owner()})
        for name, value in settings.items():
            client.log_param(run.info.run_id, f"finetune.{name}", value)
    else:
        client.set_tag(run.info.run_id, OWNER, _owner())
        client.update_run(run.info.run_id, status="RUNNING")
    history = client.get_metric_history(run.info.run_id, "train_loss")
    try:
        yield TrainingRun(client, run.info.run_id, max((point.step for point in history), default=0))
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id, "FINISHED")


def close_orphans(client: Any, experiment: str) -> None:
    """End the runs that processes of this machine left RUNNING when they died."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for run in client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'"):
        host, _, pid = run.data.tags.get(OWNER, "").partition(":")
        if host == socket.gethostname() and pid.isdigit() and not _alive(int(pid)):
            client.set_terminated(run.info.run_id, "KILLED")


def find_run(client: Any, experiment: str, tag: str, value: str, unregistered: bool = False) -> Any | None:
    """Return the newest run with a tag's value, or None; ``unregistered`` leaves out runs that register has taken."""
    runs = client.search_runs([experiment_id(client, experiment)], f"tags.`{tag}` = '{value}'", order_by=["attributes.start_time DESC"])
    return next((run for run in runs if not (unregistered and REGISTER_KEY in run.data.tags)), None)


def experiment_id(client: Any, name: str) -> str:
    """Return the experiment's id, making it if need be, with a SQLite store's artifacts beside its file."""
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    uri, location = tracking_uri(), None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    # The pages open on training runs and their metrics, not on MLflow's view of chat applications.
    return str(client.create_experiment(name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}))


def group_runs(experiment: str, name: str, cells: dict[str, str], metrics: dict[str, float], files: list[Path]) -> tuple[str, str]:
    """Put runs (cell -> run id) under one parent run called ``name``, with its own metrics and files; return the ids of experiment and parent.

    The same matrix again goes on in the same parent.
    """
    client = _client()
    parent = find_run(client, experiment, MATRIX, name)
    if parent is None:
        parent = client.create_run(experiment_id(client, experiment), run_name=name, tags={MATRIX: name, OWNER: _owner()})
    for cell, run_id in cells.items():
        client.set_tag(run_id, "mlflow.parentRunId", parent.info.run_id)
        client.set_tag(run_id, MATRIX_CELL, cell)
    ledger = Ledger(client, parent.info.run_id)
    ledger.metrics(metrics)
    ledger.files(files)
    ledger.finish()
    return str(parent.info.experiment_id), str(parent.info.run_id)


def _client() -> Any:
    import mlflow

    mlflow.set_tracking_uri(tracking_uri())
    try:
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        raise PipelineError(f"the MLflow store {tracking_uri()} does not answer ({str(error).splitlines()[0][:160]}): check MLFLOW_TRACKING_URI") from error
    return client


def _owner() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass
class Ledger:
    """What register needs of MLflow: one run, its artifacts, its registered version and the model's aliases."""

    client: Any
    run_id: str

    @classmethod
    def open(cls, experiment: str, register_key: str, training_key: str, name: str) -> Ledger:
        """Take the run that trained this adapter, or one that an earlier, killed registration had begun; else make one."""
        client = _client()
        close_orphans(client, experiment)
        run = find_run(client, experiment, REGISTER_KEY, register_key) or find_run(client, experiment, TRAINING_KEY, training_key, unregistered=True)
        if run is None:
            run = client.create_run(experiment_id(client, experiment), tags={TRAINING_KEY: training_key})
        ledger = cls(client, run.info.run_id)
        client.update_run(ledger.run_id, status="RUNNING", name=name)
        ledger.tags({REGISTER_KEY: register_key, OWNER: _owner()})
        return ledger

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)

    def params(self, params: dict[str, Any]) -> None:
        """Log parameters that the run does not hold yet (MLflow refuses to change one)."""
        held = self.client.get_run(self.run_id).data.params
        for name, value in params.items():
            if name not in held:
                self.client.log_param(self.run_id, name, value)

    def metrics(self, metrics: dict[str, float]) -> None:
        """Log final metrics."""
        for name, value in metrics.items():
            self.client.log_metric(self.run_id, name, value)

    def curve(self, name: str, points: list[tuple[int, float]]) -> None:
        """Log a curve unless the run watched the training itself."""
        if not self.client.get_metric_history(self.run_id, name):
            for step, value in points:
                self.client.log_metric(self.run_id, name, value, step=step)

    def files(self, paths: list[Path], folder: str = "") -> None:
        """Store files with the run."""
        for path in paths:
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def dataset(self, rows: Any, name: str, source: str, context: str) -> None:
        """Log a pandas frame's identity (digest, schema, source) as an input of the run; the rows themselves stay where they are."""
        import mlflow

        logged = mlflow.data.from_pandas(rows, source=source, name=name)
        with mlflow.start_run(run_id=self.run_id):
            mlflow.log_input(logged, context=context)

    def download(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Fetch an artifact of a run, or None where it is gone."""
        try:
            return Path(self.client.download_artifacts(run_id, name, str(folder)))
        except Exception:  # noqa: BLE001 - MLflow raises several kinds for one fact: not there
            return None

    def model(self, base: Path, adapter: Path, prompt_template: str, example: str, max_new_tokens: int, packages: list[str]) -> str:
        """Log the adapter as an MLflow transformers model (only the adapter is stored) and return its address; once a run."""
        held = [model for model in self._logged_models() if model.status == "READY"]
        if held:
            return str(held[0].model_uri)
        import mlflow
        from mlflow.models import infer_signature

        inference = {"max_new_tokens": max_new_tokens, "do_sample": False, "return_full_text": False}
        with mlflow.start_run(run_id=self.run_id):
            logged = mlflow.transformers.log_model(
                transformers_model=_components(base, adapter),
                name="adapter",
                task="text-generation",
                base_model_path=str(base),
                prompt_template=prompt_template,
                signature=infer_signature([example], ["answer"], params=inference),
                input_example=[example],
                pip_requirements=packages,
            )
        return str(logged.model_uri)

    def _logged_models(self) -> list[Any]:
        run = self.client.get_run(self.run_id)
        return list(self.client.search_logged_models([run.info.experiment_id], filter_string=f"source_run_id = '{self.run_id}'"))

    def version(self, model_name: str, model_uri: str) -> Any:
        """Return the registered version of this run's model, making it if need be."""
        import mlflow

        held = [version for version in self.client.search_model_versions(f"name = '{model_name}'") if version.run_id == self.run_id]
        return held[0] if held else mlflow.register_model(model_uri, model_name)

    def champion(self, model_name: str) -> Any | None:
        """Return the version that holds the alias ``champion``, or None."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(model_name, "champion")
        except MlflowException:
            return None

    def alias(self, model_name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self.client.set_registered_model_alias(model_name, alias, version)

    def finish(self) -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, "FINISHED")


def _components(base: Path, adapter: Path) -> dict[str, Any]:
    from peft import PeftModel

    from tasks.models import load_model, load_tokenizer

    return {"model": PeftModel.from_pretrained(load_model(str(base)), str(adapter)), "tokenizer": load_tokenizer(str(base))}
