"""Fetch a registered model and its provenance from MLflow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.tracking.mlflow_store import connect, first_line, shown_uri


def fetch_model(uri: str, folder: Path) -> tuple[str, str, Path, dict[str, Any]]:
    """Fetch a registered model, ``models:/NAME@alias`` or ``models:/NAME/version``, into
    ``folder/NAME-VERSION``; return name, version, adapter folder and provenance.
    """
    from mlflow.exceptions import MlflowException

    client = connect()
    name, alias, version = parse_model_uri(uri)
    try:
        registered = (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        )
        folder = folder / f"{name}-{registered.version}"
        folder.mkdir(parents=True, exist_ok=True)
        files = Path(_download(registered.source, folder))
        provenance = client.download_artifacts(registered.run_id, "provenance.json", str(folder))
    except MlflowException as error:
        raise PipelineError(
            f"{uri} is not in {shown_uri()} ({first_line(error)}): "
            "make ui shows the registered models"
        ) from error
    adapters = sorted(path.parent for path in files.rglob("adapter_config.json"))
    if len(adapters) != 1:
        raise PipelineError(
            f"{uri} holds {len(adapters)} adapters: it was not registered by this pipeline"
        )
    return name, str(registered.version), adapters[0], dict(read_json(Path(provenance)))


def fetch_evaluation(name: str, version: str, file: str, folder: Path) -> Path | None:
    """Fetch a file of evaluate's that the version's run kept, such as ``predictions.parquet``; None
    if it is lost.
    """
    return fetch_artifact(name, version, f"evaluation/{file}", folder)


def fetch_artifact(name: str, version: str, file: str, folder: Path) -> Path | None:
    """Fetch a file that the version's run kept; None if it is lost."""
    from mlflow.exceptions import MlflowException

    client = connect()
    try:
        run_id = client.get_model_version(name, version).run_id
        path = client.download_artifacts(run_id, file, str(folder))
    except MlflowException:
        return None
    return Path(path)


def default_name(base: str, dataset: str) -> str:
    """Return ``<target model>-<dataset>`` in the characters that MLflow allows."""
    target = base.rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{target}-{dataset}")


def parse_model_uri(uri: str) -> tuple[str, str, str]:
    """Return (name, alias, version), one of the last two empty."""
    match = re.fullmatch(r"models:/([^/@]+)(?:@([\w-]+)|/(\d+))", uri)
    if match is None:
        raise PipelineError(
            f"{uri!r} names no registered model: write models:/NAME@champion or models:/NAME/3"
        )
    return match[1], match[2] or "", match[3] or ""


def _download(source: str, folder: Path) -> str:
    import mlflow

    return str(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(folder)))
