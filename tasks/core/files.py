"""Files that are whole or absent: atomic writes, staged folders, hashes, Parquet shards."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import heapq
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.errors import PipelineError

#: In every stage's output: what each of its files hashes to. Whoever reads the output later checks
#: it, see :func:`verify`.
MANIFEST = "manifest.sha256.json"
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
#: Rows of a Parquet file's row group.
GROUP = 4096


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is fsynced and renamed over it, on
    failure removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
    except ValueError as error:
        raise PipelineError(f"{path} is not valid JSON: {error}") from error


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, whole or not at all.

    The bytes depend on the rows alone: also where they were read from such a file.
    """
    with atomic_path(path) as partial:
        pq.write_table(
            table.cast(_as_made(table.schema)),
            partial,
            compression="zstd",
            row_group_size=GROUP,
            write_page_checksum=True,
        )


def _as_made(schema: pa.Schema) -> pa.Schema:
    """Return the schema with Arrow's own name for what lists hold: read back from Parquet it is
    another one, and it is written into the file.
    """
    return pa.schema(
        [
            field.with_type(pa.list_(field.type.value_type))
            if pa.types.is_list(field.type)
            else field
            for field in schema
        ],
        schema.metadata,
    )


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, its checksums verified; a missing or damaged one is a
    :class:`PipelineError` that names it.
    """
    with readable(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what reading a missing or damaged Parquet file raises into a :class:`PipelineError` that
    names it.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise PipelineError(f"{path} is missing: run the stage that writes it") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(
            f"{path} cannot be read as Parquet ({error}): delete it and run its stage again"
        ) from error


def write_sealed(path: Path, table: pa.Table) -> None:
    """Write a Parquet file that :func:`read_sealed` takes only if not one bit of it has changed.

    Parquet's own checksums cover its pages, not its footer. The digest is a file beside it, written
    last: without it the table does not count.
    """
    _seal_of(path).unlink(missing_ok=True)
    write_table(path, table)
    write_text(_seal_of(path), sha256_file(path) + "\n")


def read_sealed(path: Path) -> pa.Table | None:
    """Return the table, or None where it was never finished; a damaged one is a
    :class:`PipelineError` that names it.
    """
    seal = _seal_of(path)
    if not path.is_file() or not seal.is_file():
        return None
    if seal.read_bytes() != (sha256_file(path) + "\n").encode():
        raise PipelineError(
            f"{path} is damaged (its bytes are not those that were written): delete it "
            "and run its stage again"
        )
    return read_table(path)


def _seal_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


@contextlib.contextmanager
def staged_folder(final: Path, scratch: Path) -> Iterator[Path]:
    """Yield an empty folder under ``scratch``; on success it takes the place of ``final`` in one
    step, also where there is one already.

    ``scratch`` must lie on the same file system. On failure ``final`` is as it was.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for path in (*scratch.rglob("*"), scratch):
            _sync(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():
            _exchange(scratch, final)
        else:
            os.replace(scratch, final)
        _sync(final.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _exchange(one: Path, other: Path) -> None:
    """Let two folders change places in one step, so that a kill leaves the old or the new one,
    never neither.
    """
    if sys.platform == "linux":
        done = ctypes.CDLL(None, use_errno=True).renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        if done == 0:
            return
        if (number := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS):
            raise OSError(number, os.strerror(number), str(other))
    # Two steps where the file system knows no exchange: a kill between them loses the old folder,
    # which its stage makes again.
    shutil.rmtree(other)
    os.replace(one, other)


def write_manifest(folder: Path) -> None:
    """Write down what every file of a finished output hashes to."""
    write_json(
        folder / MANIFEST,
        {
            path.relative_to(folder).as_posix(): sha256_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )


def verify(path: Path) -> None:
    """Raise :class:`PipelineError` if a stage's output, or one file of it, is not what the stage
    wrote. Files of other origin pass.

    DVC puts back what its cache holds without looking at it, so this is where a damaged cache
    object is found.
    """
    folder = path if path.is_dir() else path.parent
    if not (folder / MANIFEST).is_file():
        return
    try:
        expected = dict(read_json(folder / MANIFEST))
    except (PipelineError, TypeError, ValueError) as error:
        raise PipelineError(f"{folder / MANIFEST} is damaged: {_repair(folder)}") from error
    for name, digest in expected.items():
        file = folder / name
        if path in (folder, file) and (not file.is_file() or sha256_file(file) != digest):
            raise PipelineError(
                f"{file} is {'damaged' if file.is_file() else 'missing'} (not what its "
                f"stage wrote): {_repair(folder)}"
            )
    if path != folder and path.name not in expected:
        raise PipelineError(f"{folder / MANIFEST} does not name {path.name}: {_repair(folder)}")


def _repair(folder: Path) -> str:
    return (
        f"delete {folder}, remove damaged objects from DVC's cache with `make repair`, and "
        "run the same command again"
    )


def sweep(folder: Path) -> None:
    """Remove what killed writers left half-written below ``folder``.

    Only for who holds the lock on it.
    """
    for partial in folder.rglob(".*.partial"):
        partial.unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sha256_folder(path: Path) -> str:
    """Return one SHA-256 over the relative names and bytes of every file below ``path``."""
    return fingerprint(
        *(
            f"{p.relative_to(path).as_posix()}:{sha256_file(p)}"
            for p in sorted(path.rglob("*"))
            if p.is_file()
        )
    )


def fingerprint(*parts: object) -> str:
    """Return 64 hex digits that depend on the parts' values and order, not on hash seeds or
    platforms.
    """
    digest = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, str) else json.dumps(part, sort_keys=True, default=str)
        digest.update(f"{len(text)}:{text};".encode())
    return digest.hexdigest()


def row_seed(seed: int, *key: object) -> int:
    """Return a seed in [0, 2**31) that depends on the run's seed and the row's key, never on its
    position.
    """
    return int(fingerprint(seed, *key)[:8], 16) & 0x7FFFFFFF


def choose(keys: Iterable[str], most: int, seed: int, kind: str) -> pa.Array:
    """Return the positions (int64, ascending) of a seeded choice of at most ``most`` of ``keys``;
    0: all. It depends on the keys, not on their order.
    """
    if not most:
        return pa.array(range(sum(1 for _ in keys)), pa.int64())
    chosen = heapq.nsmallest(most, enumerate(keys), key=lambda pair: row_seed(seed, kind, pair[1]))
    return pa.array(sorted(place for place, _ in chosen), pa.int64())


def concat(tables: Iterable[pa.Table], schema: pa.Schema) -> pa.Table:
    """Concatenate tables of one schema; no tables give an empty table."""
    return pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_newest(folder: Path, most: int, keep: Path | None = None) -> None:
    """Remove all but the ``most`` entries of a folder that were changed last, files and folders
    alike; ``keep`` stays whatever its age.
    """
    entries = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
    for old in entries[: max(0, len(entries) - most)]:
        if old != keep:
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink(missing_ok=True)
