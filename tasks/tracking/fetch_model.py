"""Fetch a registered model and its provenance from MLflow."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError, near_miss
from tasks.core.files import read_json
from tasks.core.secrets import first_line
from tasks.tracking.mlflow_store import connect, is_store_error, read_pages, shown_uri

log = logging.getLogger(__name__)
#: What to do about a version that lacks something. `make run` looks for the run, not for its files.
REGISTER_AGAIN = "delete its run in MLflow, and make run with its settings registers it again"
#: Names, versions or aliases that an error lists.
_SHOWN = 10


class NotRegistered(PipelineError):
    """The store has no such model, version or alias."""


def fetch_model(uri: str, folder: Path) -> tuple[str, str, Path, dict[str, Any]]:
    """Fetch a registered model, ``models:/NAME@alias`` or ``models:/NAME/version``, into
    ``folder/NAME-VERSION``; return name, version, adapter folder and provenance.
    """
    registered = find_version(uri)
    name, client = registered.name, connect()
    log.info("fetching models:/%s/%s from %s", name, registered.version, shown_uri())
    folder = folder / f"{name}-{registered.version}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        files = Path(_download(registered.source, folder))
        provenance = client.download_artifacts(registered.run_id, "provenance.json", str(folder))
    except Exception as error:
        if not is_store_error(error):
            raise
        raise PipelineError(
            f"the files of models:/{name}/{registered.version} cannot be fetched from "
            f"{shown_uri()} ({first_line(error)}): put them back, name another version, or "
            f"{REGISTER_AGAIN}"
        ) from error
    adapters = sorted(path.parent for path in files.rglob("adapter_config.json"))
    if len(adapters) != 1:
        raise PipelineError(
            f"{uri} holds {len(adapters)} adapters: it was not registered by this pipeline"
        )
    return name, str(registered.version), adapters[0], dict(read_json(Path(provenance)))


def find_version(uri: str) -> Any:
    """Return MLflow's entry of a registered version, named as in :func:`fetch_model`.

    A wrong name, version or alias is :class:`NotRegistered`, which lists those there are.
    """
    log.info("opening the MLflow store %s", shown_uri())
    from mlflow.exceptions import MlflowException  # seconds, after the line that says so

    client = connect()
    models = {model.name: model for model in read_pages(client.search_registered_models)}
    there = (
        f"the models there are {_few(sorted(models))}"
        if models
        else "no model is registered there: make run registers one, or set MLFLOW_TRACKING_URI to "
        "another store"
    )
    try:
        name, alias, version = parse_model_uri(uri)
    except PipelineError as error:
        raise PipelineError(f"{error}; in {shown_uri()} {there}") from error
    if name not in models:
        missing = f"no model is called {name!r}{near_miss(name, models)}; " if models else ""
        form = ": write MODEL=models:/NAME@champion or models:/NAME/3" if models else ""
        raise NotRegistered(f"{uri} is not in {shown_uri()}: {missing}{there}{form}")
    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, version)
    except MlflowException as error:
        there = _list_versions(client, models[name])
        wanted = f"alias {alias!r}{near_miss(alias, models[name].aliases)}" if alias else ""
        raise NotRegistered(
            f"{uri} is not in {shown_uri()}: {name} has no {wanted or f'version {version!r}'}; "
            f"{there}"
        ) from error


def _list_versions(client: Any, model: Any) -> str:
    """Return the versions, the newest first, and the aliases of a registered model, and how to name
    the newest.
    """
    # Not by a filter: MLflow cannot be asked for a name with quotes.
    entries = read_pages(client.search_model_versions)
    numbers = [int(entry.version) for entry in entries if entry.name == model.name]
    versions = [str(number) for number in sorted(numbers, reverse=True)]
    if not versions:
        return "it has no versions: make run registers one"
    aliases = [f"{alias} ({version})" for alias, version in sorted(model.aliases.items())]
    told = f"aliases {_few(aliases)}" if aliases else "no aliases"
    return (
        f"it has versions {_few(versions)} and {told}: write "
        f"MODEL=models:/{model.name}/{versions[0]}"
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def fetch_artifact(name: str, version: str, file: str, folder: Path) -> Path | None:
    """Fetch a file that the version's run kept, such as ``evaluation/predictions.parquet``; None if
    its store does not give it.
    """
    client = connect()
    try:
        run_id = client.get_model_version(name, version).run_id
        path = client.download_artifacts(run_id, file, str(folder))
    except Exception as error:
        if not is_store_error(error):
            raise
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
