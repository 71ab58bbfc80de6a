"""Files that are whole or absent: atomic writes, staged folders, hashes."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.errors import PipelineError

_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` on success and is removed on failure.

    The file is fsynced before it is renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys (same value, same bytes), whole or not at all."""
    write_text(
        path,
        json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n",
    )


def read_json(path: Path) -> Any:
    """Read JSON; a missing or broken file is a :class:`PipelineError` that names it."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing: run the stage that writes it") from error
    except (ValueError, RecursionError) as error:
        raise PipelineError(f"{path} is not valid JSON: {error}") from error


def read_if_there(path: Path) -> Any:
    """Read JSON, as :func:`read_json`; None where the file is missing."""
    return read_json(path) if path.exists() else None


@contextlib.contextmanager
def staged_folder(final: Path, scratch: Path) -> Iterator[Path]:
    """Yield the empty folder ``scratch``; on success it replaces ``final`` in one step.

    Both must be on one disk, else :class:`PipelineError` says so before the block. On failure
    ``final`` is unchanged.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _refuse_two_disks(scratch.parent, final.parent)
        yield scratch
        for path in (*scratch.rglob("*"), scratch):
            _sync(path)
        if final.exists():
            _exchange(scratch, final)
        else:
            os.replace(scratch, final)
        _sync(final.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Keep this process's temporary files in ``folder``, which is removed before and after.

    A process that is killed leaves them there, where the next one finds them, and not in the
    system's folder. For libraries that let nobody choose; other threads are moved along.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder.absolute())
    try:
        yield
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_two_disks(one: Path, other: Path) -> None:
    """Raise :class:`PipelineError` where nothing can be renamed from one folder into the other.

    The kernel compares their mounts before it looks for the file, which there is not: one disk that
    is mounted twice counts as two. Parts of a disk (btrfs) only differ in their numbers.
    """
    library, missing = ctypes.CDLL(None, use_errno=True), ".is-it-one-disk"
    library.rename(os.fsencode(one / missing), os.fsencode(other / missing))
    if ctypes.get_errno() == errno.EXDEV or one.stat().st_dev != other.stat().st_dev:
        raise PipelineError(
            f"{other} and {one} lie on different disks, or on one that is mounted twice, and an "
            "output takes its place by a rename: put both on one disk under one mount"
        )


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step, so that a kill leaves the old or the new one, never neither."""
    done = ctypes.CDLL(None, use_errno=True).renameat2(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
    )
    if done == 0:
        return
    if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(number, os.strerror(number), str(other))
    # Two steps if the file system cannot swap: a kill between them loses the old folder, which its
    # stage makes again.
    shutil.rmtree(other)
    os.replace(one, other)


def sweep(folder: Path) -> None:
    """Remove the partial files of killed writers below ``folder``, whose lock the caller holds."""
    for partial in folder.rglob(".*.partial"):
        partial.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def folder_size(folder: Path) -> int:
    """Return the bytes of all files below a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def sha256_folder(path: Path, digest: Callable[[Path], str] = sha256_file) -> str:
    """Return one SHA-256 over the relative names and bytes of every file below ``path``.

    A ``README.md`` at the top does not count, as in .dvcignore: a model's card is not the model.
    ``digest`` is for large ones: :func:`tasks.core.digests.kept_sha256`.
    """
    card = path / "README.md"
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file != card]
    return fingerprint(*(f"{f.relative_to(path).as_posix()}:{digest(f)}" for f in files))


def fingerprint(*parts: object) -> str:
    """Return 64 hex digits of the parts' values and order, equal on every platform."""
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, str) else json.dumps(part, sort_keys=True, default=str)
        digest.update(f"{len(text)}:{text};".encode())
    return digest.hexdigest()


def row_seed(seed: int, *key: object) -> int:
    """Return a seed in [0, 2**31) of the run's seed and the row's key, not its position."""
    return int(fingerprint(seed, *key)[:8], 16) & 0x7FFFFFFF


def choose(keys: Iterable[str], most: int, seed: int, kind: str) -> pa.Array:
    """Return the positions (int64, ascending) of a seeded choice of ``most`` keys; 0: all.

    The choice depends on the keys, not on their order. ``keys`` may be an iterator: eight bytes a
    key are held.
    """
    if not most:
        return pa.array(np.arange(sum(1 for _ in keys)), pa.int64())
    seeds = np.fromiter((row_seed(seed, kind, key) for key in keys), np.int64)
    return pa.array(np.sort(np.argsort(seeds, kind="stable")[:most]), pa.int64())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
