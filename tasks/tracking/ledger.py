"""The ledger: MLflow runs, metrics and registered models. The only module that imports MLflow.

The store is ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` (SQLite) in this folder with its artifacts
beside it.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.process import is_alive, process_mark

log = logging.getLogger(__name__)
#: Tags that lead from a run back to its inputs; also how a stage finds the run that an earlier,
#: killed one had begun.
TRAINING_KEY, REGISTER_KEY, OWNER = "finetune.key", "register.key", "owner"
MATRIX, MATRIX_CELL = "matrix", "matrix.cell"


def tapt_metrics(dataset: str, f1: float, low: float, high: float) -> dict[str, float]:
    """Return the keys under which a gain over TAPT stands, in points with its 95 % interval: of a
    single run and of a matrix's cell alike.
    """
    return {
        f"gain_tapt/{dataset}": f1,
        f"gain_tapt_low/{dataset}": low,
        f"gain_tapt_high/{dataset}": high,
    }


def tracking_uri() -> str:
    """Return the address of the MLflow store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path('mlflow.db').absolute()}"


@dataclass
class TrainingRun:
    """A run that shows the loss while it trains. Steps it already holds (from before a kill) are
    not logged twice.

    The ledger never stops or slows the work: points that the store does not take wait here and go
    with a later one. What waits at the end is not lost either: ``loss.csv`` holds every point, and
    register logs those that the run lacks.
    """

    client: Any
    run_id: str
    last_step: int = 0
    waiting: list[tuple[str, float, int]] = field(default_factory=list)
    #: Seconds without another attempt after one that failed; doubled each time, so that a dead
    #: server costs a few attempts a day.
    pause: float = 15.0
    _silent_until: float = 0.0

    def metric(self, name: str, value: float, step: int) -> None:
        """Log one point, with those that wait."""
        if step <= self.last_step:
            return
        self.last_step = step
        self.waiting.append((name, value, step))
        if time.monotonic() >= self._silent_until:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        from mlflow.entities import Metric

        points = [
            Metric(name, value, int(time.time() * 1000), step) for name, value, step in self.waiting
        ]
        try:
            for start in range(0, len(points), 500):
                self.client.log_batch(self.run_id, metrics=points[start : start + 500])
                self.waiting = self.waiting[500:]
        except Exception as error:  # noqa: BLE001 - whatever a tracking store throws, training goes on
            log.warning(
                "MLflow does not answer (%s): %d points wait, loss.csv has them too",
                _first_line(error),
                len(self.waiting),
            )
            self._silent_until = time.monotonic() + self.pause
            self.pause *= 2


@contextlib.contextmanager
def open_training_run(experiment: str, key: str, settings: dict[str, Any]) -> Iterator[TrainingRun]:
    """Open the MLflow run of this training, or go on with the one that a killed process had begun.

    Training does not need the store: where it does not answer, register makes the run from what the
    adapter's folder holds.
    """
    try:
        run = _begin(experiment, key, settings)
    except Exception as error:  # noqa: BLE001 - MLflow, SQLAlchemy and the network each have kinds of their own
        log.warning(
            "MLflow does not answer (%s): training goes on without it, register will log the curve",
            _first_line(error),
        )
        run = TrainingRun(None, "", _silent_until=float("inf"))
    status = "FAILED"
    try:
        yield run
        status = "FINISHED"
    finally:
        if run.client is not None:
            _end(run, status)


def _begin(experiment: str, key: str, settings: dict[str, Any]) -> TrainingRun:
    client = _client()
    close_orphans(client, experiment)
    run = find_run(client, experiment, TRAINING_KEY, key, unregistered=True)
    if run is None:
        run = client.create_run(
            experiment_id(client, experiment),
            run_name=f"finetune-{key[:8]}",
            tags={TRAINING_KEY: key, OWNER: _owner()},
        )
        for name, value in settings.items():
            client.log_param(run.info.run_id, f"finetune.{name}", value)
    else:
        client.set_tag(run.info.run_id, OWNER, _owner())
        client.update_run(run.info.run_id, status="RUNNING")
    history = client.get_metric_history(run.info.run_id, "train_loss")
    return TrainingRun(client, run.info.run_id, max((point.step for point in history), default=0))


def _end(run: TrainingRun, status: str) -> None:
    try:
        if run.waiting:
            run.flush()
        run.client.set_terminated(run.run_id, status)
    except Exception as error:  # noqa: BLE001 - the adapter is what counts; register or the next start ends the run
        log.warning(
            "MLflow was not told that training ended (%s): register will", _first_line(error)
        )


def close_orphans(client: Any, experiment: str) -> None:
    """End the runs that processes of this machine left RUNNING when they died."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return
    for run in client.search_runs([found.experiment_id], "attributes.status = 'RUNNING'"):
        host, _, process = run.data.tags.get(OWNER, "").partition(":")
        if host == socket.gethostname() and process and not is_alive(process):
            client.set_terminated(run.info.run_id, "KILLED")


def find_run(
    client: Any, experiment: str, tag: str, value: str, unregistered: bool = False
) -> Any | None:
    """Return the newest run with a tag's value, or None; ``unregistered`` leaves out runs that
    register has taken.
    """
    runs = client.search_runs(
        [experiment_id(client, experiment)],
        f"tags.`{tag}` = '{value}'",
        order_by=["attributes.start_time DESC"],
    )
    return next((run for run in runs if not (unregistered and REGISTER_KEY in run.data.tags)), None)


def experiment_id(client: Any, name: str) -> str:
    """Return the experiment's id, making it if need be, with a SQLite store's artifacts beside its
    file.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    uri, location = tracking_uri(), None
    if uri.startswith("sqlite:///"):
        location = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts").as_uri()
    # The pages open on training runs and their metrics, not on MLflow's view of chat applications.
    return str(
        client.create_experiment(
            name,
            artifact_location=location,
            tags={"mlflow.experimentKind": "custom_model_development"},
        )
    )


def open_experiment(name: str) -> str:
    """Return the id of an experiment of the store, making it if need be."""
    return experiment_id(_client(), name)


def group_runs(
    experiment: str,
    name: str,
    cells: dict[str, str],
    metrics: dict[str, float],
    files: list[Path],
    gains: dict[str, dict[str, float]] | None = None,
) -> tuple[str, str]:
    """Put runs (cell -> run id) under one parent run called ``name``, with its own metrics and
    files; return the ids of experiment and parent.

    ``gains`` (cell -> metrics) is what a cell's run cannot know by itself, as it takes other cells.
    The same matrix again goes on in the same parent, and logs only what has changed.
    """
    client = _client()
    parent = find_run(client, experiment, MATRIX, name)
    if parent is None:
        parent = client.create_run(
            experiment_id(client, experiment), run_name=name, tags={MATRIX: name, OWNER: _owner()}
        )
    for cell, run_id in cells.items():
        client.set_tag(run_id, "mlflow.parentRunId", parent.info.run_id)
        client.set_tag(run_id, MATRIX_CELL, cell)
        if gains and cell in gains:
            Ledger(client, run_id).metrics(gains[cell])
    ledger = Ledger(client, parent.info.run_id)
    ledger.metrics(metrics)
    ledger.files(files)
    ledger.finish()
    return str(parent.info.experiment_id), str(parent.info.run_id)


def _client() -> Any:
    import mlflow

    # MLflow's own defaults keep trying for minutes; a server that is down is told of, and the same
    # command goes on later.
    for name, value in {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": "15"}.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    mlflow.set_tracking_uri(tracking_uri())
    try:
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
    except Exception as error:
        raise PipelineError(
            f"the MLflow store {shown_uri()} does not answer ({_first_line(error)}): "
            "check MLFLOW_TRACKING_URI"
        ) from error
    return client


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn what MLflow throws when its store fails half-way into one line; what it holds already
    stays, and the same command goes on.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, ConnectionError) as error:
        raise PipelineError(
            f"the MLflow store {shown_uri()} failed ({_first_line(error)}): run the same "
            "command again when it answers"
        ) from error


def shown_uri() -> str:
    """Return the store's address without the password that a person may have put into it."""
    return re.sub(r"//[^/@]*@", "//***@", tracking_uri())


def _first_line(error: BaseException) -> str:
    return re.sub(r"//[^/@\s]*@", "//***@", (str(error).splitlines() or [type(error).__name__])[0])[
        :160
    ]


def _owner() -> str:
    return f"{socket.gethostname()}:{process_mark()}"


@dataclass
class Ledger:
    """What register needs of MLflow: one run, its artifacts, its registered version and the model's
    aliases.
    """

    client: Any
    run_id: str

    @classmethod
    def open(cls, experiment: str, register_key: str, training_key: str, name: str) -> Ledger:
        """Take the run that trained this adapter, or one that an earlier, killed registration had
        begun; else make one.
        """
        client = _client()
        close_orphans(client, experiment)
        run = find_run(client, experiment, REGISTER_KEY, register_key) or find_run(
            client, experiment, TRAINING_KEY, training_key, unregistered=True
        )
        if run is None:
            run = client.create_run(
                experiment_id(client, experiment), tags={TRAINING_KEY: training_key}
            )
        ledger = cls(client, run.info.run_id)
        client.update_run(ledger.run_id, status="RUNNING", name=name)
        ledger.tags({REGISTER_KEY: register_key, OWNER: _owner()})
        return ledger

    @property
    def experiment_id(self) -> str:
        """Return the id of the run's experiment."""
        return str(self.client.get_run(self.run_id).info.experiment_id)

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)

    def tag(self, name: str) -> str:
        """Return a tag of the run, empty where it has none of that name."""
        return str(self.client.get_run(self.run_id).data.tags.get(name, ""))

    def params(self, params: dict[str, Any]) -> None:
        """Log parameters that the run does not hold yet (MLflow refuses to change one)."""
        held = self.client.get_run(self.run_id).data.params
        for name, value in params.items():
            if name not in held:
                self.client.log_param(self.run_id, name, value)

    def metrics(self, metrics: dict[str, float]) -> None:
        """Log final metrics, but not those that a killed registration has logged already: a second
        point would make a curve of them.
        """
        held = self.client.get_run(self.run_id).data.metrics
        for name, value in metrics.items():
            if held.get(name) != value:
                self.client.log_metric(self.run_id, name, value)

    def curve(self, name: str, points: list[tuple[int, float]]) -> None:
        """Log the points of a curve that the run lacks: all, or those that the store missed while
        training went on.
        """
        held = {point.step for point in self.client.get_metric_history(self.run_id, name)}
        for step, value in points:
            if step not in held:
                self.client.log_metric(self.run_id, name, value, step=step)

    def files(self, paths: list[Path], folder: str = "") -> None:
        """Store files with the run."""
        for path in paths:
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def dataset(self, rows: Any, name: str, source: str, context: str) -> tuple[str, str]:
        """Log a pandas frame's identity (digest, schema, source) as an input of the run; the rows
        stay where they are. Returns name and digest.
        """
        import mlflow

        logged = mlflow.data.from_pandas(rows, source=source, name=name)
        with mlflow.start_run(run_id=self.run_id):
            mlflow.log_input(logged, context=context)
        return str(logged.name), str(logged.digest)

    def score(self, model_uri: str, metrics: dict[str, float], dataset: tuple[str, str]) -> None:
        """Tie the scores to the logged model and to the dataset they were measured on, so that
        MLflow's model pages compare them.
        """
        model_id = next(
            (
                model.model_id
                for model in self._logged_models()
                if str(model.model_uri) == model_uri
            ),
            None,
        )
        for name, value in metrics.items() if model_id else ():
            self.client.log_metric(
                self.run_id,
                name,
                value,
                model_id=model_id,
                dataset_name=dataset[0],
                dataset_digest=dataset[1],
            )

    def newest(self, params: dict[str, str], tags: dict[str, str]) -> str:
        """Return the id of the newest finished run of this experiment, not this one, that has these
        parameters and tags; empty where there is none.
        """
        wanted = [f"params.`{name}` = '{value}'" for name, value in params.items()] + [
            f"tags.`{name}` = '{value}'" for name, value in tags.items()
        ]
        query = " and ".join(
            [*wanted, "attributes.status = 'FINISHED'", f"attributes.run_id != '{self.run_id}'"]
        )
        found = self.client.search_runs(
            [self.experiment_id], query, order_by=["attributes.start_time DESC"], max_results=1
        )
        return str(found[0].info.run_id) if found else ""

    def download(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Fetch an artifact of a run, or None where it is gone."""
        try:
            return Path(self.client.download_artifacts(run_id, name, str(folder)))
        except Exception:  # noqa: BLE001 - MLflow raises several kinds for one fact: not there
            return None

    def model(
        self,
        base: Path,
        adapter: Path,
        prompt_template: str,
        example: str,
        max_new_tokens: int,
        packages: list[str],
    ) -> str:
        """Log the adapter as an MLflow transformers model (only the adapter is stored) and return
        its address; once a run.
        """
        held = [model for model in self._logged_models() if model.status == "READY"]
        if held:
            return str(held[0].model_uri)
        import mlflow
        from mlflow.models import infer_signature

        inference = {
            "max_new_tokens": max_new_tokens,
            "do_sample": False,
            "return_full_text": False,
        }
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
        return list(
            self.client.search_logged_models(
                [run.info.experiment_id], filter_string=f"source_run_id = '{self.run_id}'"
            )
        )

    def version(self, model_name: str, model_uri: str) -> Any:
        """Return the registered version of this run's model, making it if need be."""
        import mlflow

        held = [
            version
            for version in self.client.search_model_versions(f"name = '{model_name}'")
            if version.run_id == self.run_id
        ]
        with contextlib.redirect_stderr(io.StringIO()):  # it prints what our own line says
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


def fetch_model(uri: str, folder: Path) -> tuple[str, str, Path, dict[str, Any]]:
    """Return name, version, adapter folder and provenance of a registered model,
    ``models:/NAME@alias`` or ``models:/NAME/version``.

    What is fetched comes to lie in ``folder/NAME-VERSION``, which nothing of another version
    shares.
    """
    from mlflow.exceptions import MlflowException

    client = _client()
    name, alias, version = parse_model_uri(uri)
    try:
        found = (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        )
        folder = folder / f"{name}-{found.version}"
        folder.mkdir(parents=True, exist_ok=True)
        files = Path(mlflow_download(found.source, folder))
        told = Path(client.download_artifacts(found.run_id, "provenance.json", str(folder)))
    except MlflowException as error:
        raise PipelineError(
            f"{uri} is not in {shown_uri()} ({_first_line(error)}): look at the "
            "registered models, make ui shows them"
        ) from error
    adapters = sorted(path.parent for path in files.rglob("adapter_config.json"))
    if len(adapters) != 1:
        raise PipelineError(
            f"{uri} holds {len(adapters)} adapters: it was not registered by this pipeline"
        )
    return name, str(found.version), adapters[0], dict(read_json(told))


def parse_model_uri(uri: str) -> tuple[str, str, str]:
    """Return (name, alias, version), one of the last two empty."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", uri)
    if match is None:
        raise PipelineError(
            f"{uri!r} names no registered model: write models:/NAME@champion or models:/NAME/3"
        )
    return match[1], match[2] or "", match[3] or ""


def mlflow_download(source: str, folder: Path) -> str:
    """Fetch the files at an address of MLflow's."""
    import mlflow

    return str(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder)))


def _components(base: Path, adapter: Path) -> dict[str, Any]:
    from peft import PeftModel

    from tasks.lm.models import load_model, load_tokenizer

    return {
        "model": PeftModel.from_pretrained(load_model(str(base)), str(adapter)),
        "tokenizer": load_tokenizer(str(base)),
    }
