"""Finished work that outlives a killed run, and counts only while it is whole.

A key holds everything that a result depends on: inputs, parameters, and the code that makes it. A
mark holds the SHA-256 of every finished file and is written last. Work without a mark, or with a
file that differs from it, is done again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.code import code_digest
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, read_json, sha256_file, write_json
from tasks.core.parquet import read_table, write_table

log = logging.getLogger(__name__)

#: Folders that this process has found whole, with their files' sizes and times.
_seen_whole: dict[Path, list[tuple[str, int, int]]] = {}
#: Bytes of a journal that what earlier settings made may take, all keys together.
_EARLIER_BYTES = 1 << 30
#: Suffix of a file with digests of the texts that a value was made from.
_TEXTS = ".texts"
#: The mark of a finished folder: a stage's output, a checkpoint, a merged model.
MANIFEST = "manifest.sha256.json"


def work_key(module: str, *parts: object) -> str:
    """Return the key (64 hex digits) of the result of ``module`` from its inputs and parameters.

    A change of its code, or of first-party code it imports, gives another key.
    """
    return fingerprint(code_digest(module), *parts)


def keyed_folder(parent: Path, key: str, keep: int) -> Path:
    """Return the folder of a key below ``parent``, where the ``keep`` last used folders stay."""
    folder = _folder_of(parent, key)
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)
    keep_newest(parent, keep, keep=folder)
    return folder


def _folder_of(parent: Path, key: str) -> Path:
    return parent / key[:24]


class Store:
    """Tables and JSON values by name, in the folder of one key, with the ``keep`` last used keys of
    ``parent``; without ``keep`` it is another stage's, to read.
    """

    def __init__(self, parent: Path, key: str, keep: int = 0) -> None:
        self._folder = keyed_folder(parent, key, keep) if keep else _folder_of(parent, key)

    def put(self, name: str, value: Any, texts: Iterable[str] = ()) -> None:
        """Keep a table (as Parquet) or a JSON value under ``name``; ``texts`` are those of the
        corpus that it was made from (:func:`keep_only`).
        """
        is_table = isinstance(value, pa.Table)
        path = self._folder / f"{name}.{'parquet' if is_table else 'json'}"
        self._mark(name).unlink(missing_ok=True)
        (write_table if is_table else write_json)(path, value)
        if made_from := sorted(_digest_texts(texts)):
            write_json(self._folder / f"{name}{_TEXTS}", made_from)
        _seal(self._mark(name), [path])

    def get(self, name: str) -> Any:
        """Return what was put under ``name``; None where it was never finished or is damaged."""
        if not self.has(name):
            return None
        (path,) = (self._folder / file for file in read_json(self._mark(name)))
        return read_table(path) if path.suffix == ".parquet" else read_json(path)

    def has(self, name: str) -> bool:
        """Tell whether ``name`` is finished and whole; a warning names damaged files."""
        if not self._mark(name).is_file():
            return False
        fault = _find_fault(self._mark(name))
        if fault:
            log.warning("%s: it is made again", fault)
        return not fault

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what is kept under ``name``; where there is nothing, make and keep it first."""
        if not self.has(name):
            self.put(name, make())
        return self.get(name)

    def _mark(self, name: str) -> Path:
        return self._folder / f"{name}.sha256"


def keep_only(
    parent: Path,
    names: Container[str],
    texts: Callable[[], Iterable[str]] = tuple,
    most_bytes: int = _EARLIER_BYTES,
) -> None:
    """Remove what is kept under other names, from the folders of all keys below ``parent``.

    What was made from ``texts`` alone stays, for a run that goes back to earlier settings: what was
    written last, ``most_bytes`` in all. Nothing else may, since a document that must be gone leaves
    no text behind.
    """
    others: dict[Path, list[Path]] = {}
    for path in parent.glob("*/*"):
        if path.stem not in names:
            others.setdefault(path.with_suffix(""), []).append(path)
    made_from = {entry: _read_texts(entry) for entry in others}
    known = _digest_texts(texts()) if any(made_from.values()) else set()
    written = {entry: max(path.stat().st_mtime for path in others[entry]) for entry in others}
    room = most_bytes
    for entry in sorted(others, key=written.__getitem__, reverse=True):
        size = sum(path.stat().st_size for path in others[entry])
        if made_from[entry] and made_from[entry] <= known and size <= room:
            room -= size
            continue
        for path in others[entry]:
            path.unlink(missing_ok=True)


def _digest_texts(texts: Iterable[str]) -> set[str]:
    return {fingerprint(text)[:16] for text in texts}


def _read_texts(entry: Path) -> set[str]:
    """Return digests of the texts that a value was made from; empty where they are not known."""
    try:
        return set(read_json(entry.with_suffix(_TEXTS)))
    except (PipelineError, TypeError):
        return set()


def seal_folder(folder: Path) -> None:
    """Mark a finished folder: nothing in it may change from now on."""
    mark = folder / MANIFEST
    _seal(mark, (path for path in folder.rglob("*") if path.is_file() and path != mark))


def is_whole(folder: Path) -> bool:
    """Tell whether a folder was finished and holds what was written."""
    return (folder / MANIFEST).is_file() and not _find_fault(folder / MANIFEST)


def is_still_whole(folder: Path) -> bool:
    """Do as :func:`is_whole`, but do not read again what has kept its sizes and times since.

    For folders of gigabytes that one process asks about again and again.
    """
    if not folder.is_dir():
        return False
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    if _seen_whole.get(folder) != state:
        _seen_whole.pop(folder, None)
        if not is_whole(folder):
            return False
        _seen_whole[folder] = state
    return True


def verify(path: Path) -> None:
    """Raise :class:`PipelineError` if a stage's output, or one file of it, was changed.

    Files of other origin pass. DVC restores from its cache without a check, so a damaged cache
    object is found here.
    """
    folder = path if path.is_dir() else path.parent
    if (folder / MANIFEST).is_file():
        fault = _find_fault(folder / MANIFEST, None if path == folder else path)
        if fault:
            raise PipelineError(
                f"{fault}: delete {folder}, remove damaged objects from DVC's cache with "
                "`make repair`, and run the same command again"
            )


def keep_newest(folder: Path, most: int, keep: Path | None = None) -> None:
    """Remove all but the ``most`` last changed files and folders of a folder; ``keep`` stays."""
    for old in newest_first(folder)[most:]:
        if old != keep:
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)


def newest_first(folder: Path) -> list[Path]:
    """Return the finished files and folders of a folder, the last changed one first.

    Other processes make and remove some at the same time: those are not among them.
    """
    changed = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            changed[path] = path.stat().st_mtime
    finished = (path for path in changed if path.suffix != ".partial")
    return sorted(finished, key=changed.__getitem__, reverse=True)


def _seal(mark: Path, files: Iterable[Path]) -> None:
    write_json(
        mark, {path.relative_to(mark.parent).as_posix(): sha256_file(path) for path in files}
    )


def _find_fault(mark: Path, only: Path | None = None) -> str:
    """Return the fault of the first file that differs from ``mark``, or an empty string.

    ``only`` checks one file.
    """
    try:
        digests = dict(read_json(mark))
    except (PipelineError, TypeError, ValueError):
        return f"{mark} is damaged"
    for name, digest in digests.items():
        path = mark.parent / name
        if only in (None, path) and (not path.is_file() or sha256_file(path) != digest):
            if path.is_file():
                return f"{path} is damaged (not what was written)"
            return f"{path} is missing, though {mark.name} names it"
    return f"{mark} does not name {only.name}" if only and only.name not in digests else ""
