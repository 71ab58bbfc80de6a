"""Whether what register wrote is still in the MLflow store.

DVC knows register's inputs and outputs, not the store: one that was emptied, or another one, lacks
the run and the version that an unchanged ``registration.json`` names. To look must cost little, so
MLflow, which takes seconds to import, is not used.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import sqlite3
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlencode, urlsplit
from urllib.request import Request, urlopen

from tasks.core.files import read_if_there
from tasks.core.secrets import bare_address, first_line, hide
from tasks.tracking.mlflow_store import sqlite_file, tracking_uri

REGISTER = "register"
#: Seconds to wait for a store.
_PATIENCE = 5.0
#: What MLflow calls a version that was deleted: its row stays.
_DELETED = "Deleted_Internal"


def find_lost(checkout: Path, warn: Callable[[str], None]) -> str:
    """Return what ``registration.json`` of a checkout names and the MLflow store does not have;
    empty where it has both run and version, or nothing is registered.

    Looks into a SQLite store and asks a server; of other stores nothing is known. One that does not
    answer is a warning.
    """
    told = read_if_there(checkout / "artifacts" / REGISTER / "registration.json") or {}
    uri, database = tracking_uri(checkout), sqlite_file(checkout)
    if "run_id" not in told or "?" in uri:  # SQLAlchemy's options
        return ""
    try:
        if database:
            lost = _look(database, told)
        elif uri.startswith(("http://", "https://")):
            lost = _ask(uri, told)
        else:
            return ""
    except Exception as error:  # noqa: BLE001 - whatever answers there, the other stages are done
        warn(
            f"the MLflow store {hide(uri)} does not answer ({first_line(error)}): whether it has "
            "what is registered is not known"
        )
        return ""
    return f"{lost} is not in the MLflow store {hide(uri)}" if lost else ""


def _look(database: Path, told: dict[str, Any]) -> str:
    """Return what a SQLite store lacks."""
    if not database.is_file():
        return _run(told)
    address = f"file:{quote(str(database))}?mode=ro"
    with contextlib.closing(sqlite3.connect(address, _PATIENCE, uri=True)) as store:
        if not store.execute("select 1 from sqlite_master where name = 'runs'").fetchone():
            return _run(told)
        ask = "select 1 from runs where run_uuid = ? and lifecycle_stage = 'active'"
        if not store.execute(ask, (told["run_id"],)).fetchone():
            return _run(told)
        if "version" not in told:
            return ""
        ask = "select 1 from model_versions where name = ? and version = ? and current_stage != ?"
        version = (told["model_name"], int(told["version"]), _DELETED)
        return "" if store.execute(ask, version).fetchone() else _version(told)


def _ask(uri: str, told: dict[str, Any]) -> str:
    """Return what a server lacks."""
    found = _get(uri, "runs/get", run_id=told["run_id"])
    if found is None or found["run"]["info"].get("lifecycle_stage") == "deleted":
        return _run(told)
    if "version" not in told:
        return ""
    named = {"name": told["model_name"], "version": told["version"]}
    return _version(told) if _get(uri, "model-versions/get", **named) is None else ""


def _get(uri: str, what: str, **query: str) -> Any:
    """Return a server's answer; None where it says that there is no such thing."""
    request = Request(f"{bare_address(uri)}/api/2.0/mlflow/{what}?{urlencode(query)}")  # noqa: S310
    for name, value in _headers(uri).items():
        request.add_unredirected_header(name, value)  # not to where an answer may send us
    trusted = ssl.create_default_context(cafile=os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH"))
    try:
        with urlopen(request, timeout=_PATIENCE, context=trusted) as response:  # noqa: S310 - http
            return json.load(response)
    except HTTPError as error:
        if error.code != HTTPStatus.NOT_FOUND:
            raise
        if json.load(error).get("error_code") != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _headers(uri: str) -> dict[str, str]:
    """Return who asks, as MLflow's client says it."""
    parts, known = urlsplit(uri), os.environ
    user = unquote(parts.username or "") or known.get("MLFLOW_TRACKING_USERNAME", "")
    if user:
        password = unquote(parts.password or "") or known.get("MLFLOW_TRACKING_PASSWORD", "")
        return {
            "Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        }
    token = known.get("MLFLOW_TRACKING_TOKEN", "")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _run(told: dict[str, Any]) -> str:
    return f"run {told['run_id']}"


def _version(told: dict[str, Any]) -> str:
    return f"{told['model_name']} version {told['version']}"
