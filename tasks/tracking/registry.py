"""What register writes into MLflow: finished runs and registered models."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.core.secrets import hide
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.tokenizers import load_tokenizer
from tasks.tracking.mlflow_store import (
    OWNER,
    REGISTER_KEY,
    TRAINING_KEY,
    close_orphans,
    connect,
    experiment_id,
    find_run,
    is_gone,
    log_params,
    owner,
    read_pages,
    refuse_unmounted,
)

#: MLflow's name of the folder that holds a model's adapter.
_ADAPTER = "peft"
#: What MLflow says of a model that is not there, and of one without an alias.
_NO_ALIAS = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass
class Ledger:
    """One run: its parameters, metrics, artifacts and registered version."""

    client: Any
    run_id: str

    @classmethod
    def open(cls, experiment: str, register_key: str, training_key: str, name: str) -> Ledger:
        """Open the run of a killed registration, or of the training, or else a new one."""
        client = connect()
        refuse_unmounted(client, experiment)
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
        ledger.tags({REGISTER_KEY: register_key, OWNER: owner()})
        return ledger

    @property
    def experiment_id(self) -> str:
        """Return the id of the run's experiment."""
        return str(self.client.get_run(self.run_id).info.experiment_id)

    def tags(self, tags: dict[str, str]) -> None:
        """Set tags on the run."""
        for name, value in tags.items():
            self.client.set_tag(self.run_id, name, value)

    def tag(self, name: str, run_id: str = "") -> str:
        """Return a tag of the run, or of another one; an empty string where there is none."""
        return str(self.client.get_run(run_id or self.run_id).data.tags.get(name, ""))

    def params(self, params: dict[str, Any]) -> None:
        """Log parameters that the run does not hold yet (MLflow refuses to change one)."""
        logged = self.client.get_run(self.run_id).data.params
        new = {name: value for name, value in params.items() if name not in logged}
        log_params(self.client, self.run_id, new)

    def metrics(self, metrics: dict[str, float]) -> None:
        """Log final metrics.

        Those that a killed registration logged are left: a second point would make a curve of them.
        """
        logged = self.client.get_run(self.run_id).data.metrics
        for name, value in metrics.items():
            if logged.get(name) != value:
                self.client.log_metric(self.run_id, name, value)

    def curve(self, name: str, points: list[tuple[int, float]]) -> None:
        """Log the points of a curve that the run lacks."""
        logged = {point.step for point in self.client.get_metric_history(self.run_id, name)}
        for step, value in points:
            if step not in logged:
                self.client.log_metric(self.run_id, name, value, step=step)

    def files(self, paths: list[Path], folder: str = "") -> None:
        """Store files with the run."""
        for path in paths:
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def dataset(self, rows: Any, name: str, source: str, context: str) -> tuple[str, str]:
        """Log a pandas frame's digest, schema and source as an input of the run, not its rows.

        Returns name and digest.
        """
        import mlflow

        logged = mlflow.data.from_pandas(rows, source=source, name=name)
        with mlflow.start_run(run_id=self.run_id):
            mlflow.log_input(logged, context=context)
        return str(logged.name), str(logged.digest)

    def score(self, model_uri: str, metrics: dict[str, float], dataset: tuple[str, str]) -> None:
        """Tie the scores to the logged model and to the dataset they were measured on.

        MLflow's model pages compare them by that.
        """
        ids = (model.model_id for model in self._logged_models() if model.model_uri == model_uri)
        model_id = next(ids, None)
        place = {"model_id": model_id, "dataset_name": dataset[0], "dataset_digest": dataset[1]}
        for name, value in metrics.items() if model_id else ():
            self.client.log_metric(self.run_id, name, value, **place)

    def newest(self, params: dict[str, str], tags: dict[str, str]) -> str:
        """Return the id of the newest other finished run of this experiment with these parameters
        and tags, or an empty string.
        """
        conditions = [
            *(f"tags.`{name}` = '{value}'" for name, value in tags.items()),
            "attributes.status = 'FINISHED'",
            f"attributes.run_id != '{self.run_id}'",
        ]
        runs = read_pages(
            self.client.search_runs,
            experiment_ids=[self.experiment_id],
            filter_string=" and ".join(conditions),
            order_by=["attributes.start_time DESC"],
        )
        for run in runs:
            # Compared here: MLflow cannot be asked for a path with an apostrophe.
            if params.items() <= run.data.params.items():
                return str(run.info.run_id)
        return ""

    def find_lost(self, run_id: str, name: str) -> str:
        """Return where an artifact of a run should be and is not; empty where it is there.

        A store that fails is MLflow's error: the artifact may be there.
        """
        from mlflow.exceptions import MlflowException

        if not run_id:  # a version that was registered by other means
            return "its MLflow run, which it does not name"
        try:
            place = self.client.get_run(run_id).info.artifact_uri
        except MlflowException as error:
            if not is_gone(error):
                raise
            return f"its MLflow run {run_id}"
        listed = self.client.list_artifacts(run_id, str(PurePosixPath(name).parent))
        return "" if any(file.path == name for file in listed) else hide(f"{place}/{name}")

    def has_model(self, version: Any) -> bool:
        """Tell whether the store still has files of a registered version's model."""
        import mlflow
        from mlflow.exceptions import MlflowException

        try:
            return bool(mlflow.artifacts.list_artifacts(artifact_uri=version.source))
        except MlflowException as error:
            if not is_gone(error):
                raise
            return False

    def download(self, run_id: str, name: str, folder: Path) -> Path | None:
        """Fetch an artifact of a run; return its path, or None if it is gone."""
        if self.find_lost(run_id, name):
            return None
        return Path(self.client.download_artifacts(run_id, name, str(folder)))

    def model(
        self,
        base: Path,
        adapter: Path,
        prompt_template: str,
        example: str,
        max_new_tokens: int,
        packages: list[str],
    ) -> str:
        """Log the adapter, once a run, as an MLflow transformers model; return its address.

        The base model's weights are not stored with it.
        """
        ready = [model for model in self._logged_models() if model.status == "READY"]
        if ready:
            return str(ready[0].model_uri)
        import mlflow
        import torch
        from mlflow.models import infer_signature

        inference = dict(max_new_tokens=max_new_tokens, do_sample=False, return_full_text=False)
        with mlflow.start_run(run_id=self.run_id), freed_after(load_model(str(base))) as plain:
            logged = mlflow.transformers.log_model(
                transformers_model=_components(plain, base, adapter),
                name="adapter",
                task="text-generation",
                base_model_path=str(base),
                prompt_template=prompt_template,
                signature=infer_signature([example], ["answer"], params=inference),
                # MLflow tries an example on a copy of the model, for which a GPU has no room.
                input_example=None if torch.cuda.is_available() else [example],
                pip_requirements=packages,
            )
        return str(logged.model_uri)

    def add_to_model(self, model_uri: str, path: Path) -> None:
        """Put a file beside the adapter of a logged model, in place of one of its name."""
        for model in self._logged_models():
            if model.model_uri == model_uri:
                self.client.log_model_artifact(model.model_id, str(path), _ADAPTER)

    def _logged_models(self) -> list[Any]:
        run = self.client.get_run(self.run_id)
        return list(
            self.client.search_logged_models(
                [run.info.experiment_id], filter_string=f"source_run_id = '{self.run_id}'"
            )
        )

    def version(self, model_name: str, model_uri: str) -> Any:
        """Return the registered version of this run's model; register it if it is not."""
        import mlflow

        for version in self.client.search_model_versions(f"name = '{model_name}'"):
            if version.run_id == self.run_id:
                return version
        with contextlib.redirect_stderr(io.StringIO()):  # MLflow prints what our own line says
            return mlflow.register_model(model_uri, model_name)

    def has_version(self) -> bool:
        """Tell whether a version of this run's model is registered."""
        return bool(self.client.search_model_versions(f"run_id = '{self.run_id}'", max_results=1))

    def champion(self, model_name: str) -> Any | None:
        """Return the version that holds the alias ``champion``, or None.

        A store that fails is MLflow's error: there may be one.
        """
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_model_version_by_alias(model_name, "champion")
        except MlflowException as error:
            if str(error.error_code) not in _NO_ALIAS:
                raise
            return None

    def alias(self, model_name: str, alias: str, version: str) -> None:
        """Point an alias at a version."""
        self.client.set_registered_model_alias(model_name, alias, version)

    def describe(self, model_name: str, version: str, text: str) -> None:
        """Set the description of a version, which is the text on its page in MLflow."""
        self.client.update_model_version(model_name, version, text)

    def finish(self) -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, "FINISHED")


def gain_metrics(over: str, dataset: str, f1: float, low: float, high: float) -> dict[str, float]:
    """Return the metrics of a gain over ``tapt`` or ``start``, in points with its 95 % interval:
    the same names for a single run and for a matrix's cell.
    """
    return {
        f"gain_over_{over}/{dataset}": f1,
        f"gain_over_{over}_low/{dataset}": low,
        f"gain_over_{over}_high/{dataset}": high,
    }


def _components(plain: Any, base: Path, adapter: Path) -> dict[str, Any]:
    from peft import PeftModel

    return {
        "model": PeftModel.from_pretrained(plain, str(adapter)),
        "tokenizer": load_tokenizer(str(base)),
    }
