"""A checkout that was moved or copied with its MLflow store: the store's addresses follow it.

MLflow makes every address of an artifact absolute, also one that was given relative to the store.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

log = logging.getLogger(__name__)
#: Where a store keeps addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
#: Seconds to wait for another process that writes.
_PATIENCE = 60.0


def follow_move(database: Path, artifacts: Path) -> None:
    """Let the addresses of a SQLite store begin with ``artifacts``, its folder, where they begin
    with a folder of that name elsewhere; all in one transaction.

    An address stays if its files are there alone. So does all of a store whose file was copied
    without its artifacts.
    """
    with contextlib.closing(sqlite3.connect(database, _PATIENCE, isolation_level=None)) as store:
        if not _find_places(store, artifacts):  # nearly always: no lock for that
            return
        store.execute("begin immediate")
        moved = {
            place: _rewrite(store, place, artifacts) for place in _find_places(store, artifacts)
        }
        store.execute("commit")
    for place, count in moved.items():
        log.info(
            "the MLflow store was moved: %d of its addresses begin with %s now, no longer with %s",
            count,
            artifacts,
            _path(place),
        )


def _find_places(store: sqlite3.Connection, artifacts: Path) -> list[str]:
    """Return the addresses that experiments name in place of ``artifacts``."""
    listed = store.execute("select distinct artifact_location from experiments").fetchall()
    return sorted(
        place
        for (place,) in listed
        if (place or "").startswith("file:///")
        and _path(place).name == artifacts.name
        and _path(place) != artifacts
        and _is_better(artifacts, _path(place))
    )


def _rewrite(store: sqlite3.Connection, place: str, artifacts: Path) -> int:
    """Replace the beginning of addresses; return how many there were."""
    count = 0
    for table, column in _ADDRESSES:
        found = f"{column} = ? or instr({column}, ?) = 1"
        ask = f"select rowid, {column} from {table} where {found}"  # noqa: S608 - names from above
        for row, address in store.execute(ask, (place, f"{place}/")).fetchall():
            new = artifacts.as_uri() + address.removeprefix(place)
            if _is_better(_path(new), _path(address)):
                change = f"update {table} set {column} = ? where rowid = ?"  # noqa: S608
                store.execute(change, (new, row))
                count += 1
    return count


def _is_better(new: Path, old: Path) -> bool:
    """Tell whether files are at a new place, or are not at the old one either."""
    if new.exists():
        return not (old.exists() and new.samefile(old))
    return not old.exists()


def _path(address: str) -> Path:
    return Path(url2pathname(urlparse(address).path))
