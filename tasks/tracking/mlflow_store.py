"""The MLflow store: its address, its experiments and runs, and its errors as one line.

The store is ``$MLFLOW_TRACKING_URI``, else ``mlflow.db`` (SQLite) in this folder with its artifacts
beside it.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tasks.core.errors import PipelineError
from tasks.core.process import is_alive, process_mark
from tasks.core.secrets import first_line, hide
from tasks.core.stage import is_disk_full
from tasks.tracking.moved_store import follow_move

#: Tags that lead from a run back to its inputs. By them a stage also finds the run that a killed
#: one began.
TRAINING_KEY, REGISTER_KEY, OWNER = "finetune.key", "register.key", "owner"
_SQLITE = "sqlite:///"
#: Where DVC has the checkouts of experiments outside the workspace.
_SCRATCH = "/.dvc/tmp/exps/"
#: MLflow refuses to log more at once.
_MOST_PARAMS = 100
#: Packages by which MLflow reaches stores of artifacts. It passes their errors on as they are.
_DRIVERS = ("azure", "boto3", "botocore", "google", "requests", "s3transfer", "urllib3")
#: MLflow's defaults retry for minutes. A store that is down is reported, and the same command
#: continues later.
_HTTP_LIMITS = {"MAX_RETRIES": "2", "BACKOFF_FACTOR": "1", "TIMEOUT": "15"}


def tracking_uri(folder: Path = Path()) -> str:
    """Return the address of the MLflow store of a process whose folder is ``folder``."""
    own = (folder / "mlflow.db").absolute()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{own}"


def sqlite_file(folder: Path = Path()) -> Path | None:
    """Return the file of that store; None where it is of another kind."""
    uri = tracking_uri(folder)
    return (folder / uri.removeprefix(_SQLITE)).absolute() if uri.startswith(_SQLITE) else None


def shown_uri() -> str:
    """Return the store's address without the password that it may hold."""
    return hide(tracking_uri())


def connect() -> Any:
    """Return a client of the store, which answered; else raise :class:`PipelineError`."""
    import mlflow

    for name, value in _HTTP_LIMITS.items():
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    create_private_store()
    mlflow.set_tracking_uri(tracking_uri())
    try:
        client = mlflow.MlflowClient()
        client.search_experiments(max_results=1)
        if database := _own_database():
            follow_move(database, _artifacts_of(database))
    except Exception as error:
        if "out-of-date database schema" in str(error):
            raise PipelineError(
                f"the MLflow store {shown_uri()} was written by another version of MLflow: keep a "
                f"copy and upgrade it: {_upgrade_command()}"
            ) from error
        raise PipelineError(
            f"the MLflow store {shown_uri()} does not answer ({first_line(error)}): "
            "check MLFLOW_TRACKING_URI"
        ) from error
    return client


def _own_database() -> Path | None:
    """Return the SQLite file of the store if it is ``mlflow.db`` of this checkout, or of the main
    checkout where this is the worktree of a run; else None.
    """
    path, here = sqlite_file(), Path.cwd()
    homes = (here, here.parents[1]) if here.parent.name == ".runs" else (here,)
    own = path and path.name == "mlflow.db" and path.resolve().parent in homes
    return path if own else None


def _artifacts_of(database: Path) -> Path:
    """Return the folder of the artifacts of a SQLite store."""
    return database.parent / "mlartifacts"


def _upgrade_command() -> str:
    """Return what copies and upgrades the store, as a person would type it in the checkout."""
    file = sqlite_file()
    if file is None:
        return f".venv/bin/mlflow db upgrade {shown_uri()}"
    path = file.name if file.parent == Path.cwd() else str(file)
    names = [shlex.quote(name) for name in (path, f"{path}.bak", f"{_SQLITE}{path}")]
    return "cp {} {} && .venv/bin/mlflow db upgrade {}".format(*names)


def refuse_scratch_store() -> None:
    """Raise :class:`PipelineError` where the store is in a folder that DVC removes with its
    experiment (``dvc exp run --temp`` or ``--queue``): what is registered there is lost.
    """
    file = sqlite_file()
    if file and _SCRATCH in file.as_posix():
        raise PipelineError(
            f"{shown_uri()} is in a folder that DVC removes when this experiment ends: set "
            "MLFLOW_TRACKING_URI to a store that stays, or run without --temp and --queue"
        )


def create_private_store() -> None:
    """Make the SQLite file of the store, empty and for its owner's eyes only, unless it exists.

    SQLite gives the files that it writes beside it the same mode.
    """
    if path := sqlite_file():
        with contextlib.suppress(OSError):  # it is there, or cannot be: MLflow says what is wrong
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@contextlib.contextmanager
def store_errors() -> Iterator[None]:
    """Turn what MLflow raises when its store fails half-way into one line.

    What the store holds already stays, and the same command continues.
    """
    try:
        yield
    except Exception as error:
        if not is_store_error(error):
            raise
        when = "with more room on its disk" if is_disk_full(error) else "when it answers"
        if isinstance(error, ModuleNotFoundError):
            when = f"after .venv/bin/pip install {error.name}"
        elif _package(type(error).__module__) in _DRIVERS:
            when = "when its artifacts can be read and written"
        raise PipelineError(
            f"the MLflow store {shown_uri()} failed ({first_line(error)}): run the same "
            f"command again {when}"
        ) from error


def is_store_error(error: Exception) -> bool:
    """Tell whether an error is the store's: MLflow's own, one of the package that reaches its
    artifacts (S3, Azure, Google, HTTP), or that this package is not installed.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, ModuleNotFoundError):
        return _package(error.name or "") in _DRIVERS
    own = isinstance(error, (MlflowException, ConnectionError))
    return own or _package(type(error).__module__) in _DRIVERS


def _package(module: str) -> str:
    return module.partition(".")[0]


def refuse_unmounted(client: Any, experiment: str) -> None:
    """Raise :class:`PipelineError` where an experiment has models and the folder of its artifacts
    is missing or empty: what is on a disk that is not mounted would count as lost.
    """
    entry = client.get_experiment_by_name(experiment)
    address = urlsplit(entry.artifact_location if entry else "")
    if not entry or address.scheme not in ("", "file"):
        return
    folder = Path(url2pathname(address.path))
    if folder.is_dir() and any(folder.iterdir()):
        return
    if client.search_logged_models([entry.experiment_id], max_results=1):
        raise PipelineError(
            f"{folder}, the folder of the artifacts in the MLflow store {shown_uri()}, is "
            f"{'empty' if folder.is_dir() else 'not there'}: mount its disk and run the same "
            "command again; if its files are lost, put any file there first"
        )


def owner() -> str:
    """Return the value of the tag :data:`OWNER` for this process."""
    return f"{socket.gethostname()}:{process_mark()}"


def close_orphans(client: Any, experiment: str) -> None:
    """End the runs that processes of this machine left RUNNING when they died."""
    entry = client.get_experiment_by_name(experiment)
    if entry is None:
        return
    for run in client.search_runs([entry.experiment_id], "attributes.status = 'RUNNING'"):
        host, _, process = run.data.tags.get(OWNER, "").partition(":")
        if host == socket.gethostname() and process and not is_alive(process):
            client.set_terminated(run.info.run_id, "KILLED")


def find_run(
    client: Any, experiment: str, tag: str, value: str, unregistered: bool = False
) -> Any | None:
    """Return the newest run with a tag's value, or None.

    ``unregistered`` skips runs that register has taken.
    """
    runs = client.search_runs(
        [experiment_id(client, experiment)],
        f"tags.`{tag}` = '{value}'",
        order_by=["attributes.start_time DESC"],
    )
    return next((run for run in runs if not (unregistered and REGISTER_KEY in run.data.tags)), None)


def log_params(client: Any, run_id: str, params: dict[str, Any]) -> None:
    """Log parameters in few transactions: one each makes the store wait for the disk as often."""
    from mlflow.entities import Param

    logged = [Param(name, str(value)) for name, value in params.items()]
    for start in range(0, len(logged), _MOST_PARAMS):
        client.log_batch(run_id, params=logged[start : start + _MOST_PARAMS])


def experiment_id(client: Any, name: str) -> str:
    """Return the experiment's id; create it if there is none.

    A SQLite store's artifacts are kept beside its file. One that was deleted is a
    :class:`PipelineError`: MLflow keeps its name.
    """
    entry = client.get_experiment_by_name(name)
    if entry is None:
        database = sqlite_file()
        location = _artifacts_of(database).as_uri() if database else None
        # The pages open on training runs and their metrics, not on MLflow's view of chat
        # applications.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    if entry.lifecycle_stage == "deleted":
        raise PipelineError(
            f"the experiment {name!r} in {shown_uri()} was deleted: name another one in "
            "register.experiment, or restore it: .venv/bin/mlflow experiments restore "
            f"-x {entry.experiment_id}"
        )
    return str(entry.experiment_id)


def read_pages(search: Callable[..., Any], **query: Any) -> Iterator[Any]:
    """Yield all that a search of MLflow's client finds: one answer holds a page of it."""
    token: str | None = None
    while token != "":
        page = search(**query, page_token=token)
        yield from page
        token = page.token or ""


def is_gone(error: Any) -> bool:
    """Tell whether MLflow says that there is no such thing, not that it cannot look."""
    return str(error.error_code) == "RESOURCE_DOES_NOT_EXIST"
