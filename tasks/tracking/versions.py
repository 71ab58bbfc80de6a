"""The registered versions of an MLflow store: their aliases, and what their runs were given."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.tracking.mlflow_store import connect, is_gone, read_pages, sqlite_file, store_errors


@dataclass(frozen=True)
class Version:
    """A registered version. ``params`` are those of its run; empty where the run is gone."""

    name: str
    number: str
    aliases: tuple[str, ...]
    params: dict[str, str]

    def describe(self) -> str:
        """Return such as ``m version 3 (champion)``."""
        return f"{self.name} version {self.number}" + (
            f" ({', '.join(self.aliases)})" if self.aliases else ""
        )


def list_versions() -> list[Version]:
    """Return every registered version of the store; :class:`PipelineError` where it fails."""
    if (file := sqlite_file()) and not file.is_file():
        return []
    from mlflow.exceptions import MlflowException

    client = connect()

    def read_params(run_id: str) -> dict[str, str]:
        try:
            return dict(client.get_run(run_id).data.params)
        except MlflowException as error:
            if not is_gone(error):
                raise
            return {}

    with store_errors():
        aliases: dict[tuple[str, str], list[str]] = {}
        for model in read_pages(client.search_registered_models):
            for alias, number in model.aliases.items():
                aliases.setdefault((model.name, str(number)), []).append(alias)
        return [
            Version(
                entry.name,
                str(entry.version),
                tuple(sorted(aliases.get((entry.name, str(entry.version)), []))),
                read_params(entry.run_id) if entry.run_id else {},
            )
            for entry in read_pages(client.search_model_versions)
        ]
