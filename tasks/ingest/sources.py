"""Where a corpus lies: on this machine, at an address that fsspec reaches (``s3://``, ``gs://``,
``https://``...), or on the Hugging Face hub.

Whatever is elsewhere is read through a staging folder that holds no more than what is being worked
on, and is deleted in the end.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import parse_qsl

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.files import fingerprint, sha256_file
from tasks.ingest.discovery import Found, discover
from tasks.ingest.readers.document import Unreadable

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://|.*::[a-z][a-z0-9+.-]*://", re.IGNORECASE)
#: What stores say of an object that changes when its content does.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "crc32c",
    "CRC",
    "checksum",
    "version_id",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)
#: DVC watches files of this machine: a pipeline names a corpus that is elsewhere by a file that
#: holds its address.
_POINTER = ".address"
#: Rows of a dataset that are staged as one file.
_ROWS = 1000
_OPTIONS = ("config", "split", "revision", "rows")


class Source(Protocol):
    """A corpus: what files it has, and how each gets on this machine."""

    def files(self) -> Iterator[Found]:
        """Yield all files, in any order."""
        ...

    def version(self, found: Found) -> str:
        """Return what a file's result is kept under: it changes when the content does."""
        ...

    def fetch(self, place: str) -> Path:
        """Return where the file can be read; may be called from several threads."""
        ...

    def release(self, path: Path) -> None:
        """Tell that a fetched file has been read."""
        ...


def open_source(address: str, staging: Path, text_column: str, follow_links: bool) -> Source:
    """Return the corpus at ``address``, or at the one that a file named ``*.address`` holds.

    Raises :class:`PipelineError` where nothing can be reached there, or a package is missing.
    """
    shutil.rmtree(staging, ignore_errors=True)
    if address.endswith(_POINTER) and Path(address).is_file():
        address = Path(address).read_text(encoding="utf-8").strip()
    if address.startswith("hf://"):
        return Hub(address, staging, text_column)
    if address.startswith("file://"):
        address = address.removeprefix("file://")
    if _ADDRESS.match(address):
        return Store(address, staging)
    return Local(Path(address), follow_links)


class Local:
    """A folder or file of this machine, read where it lies."""

    def __init__(self, path: Path, follow_links: bool) -> None:
        self._path, self._follow_links = path, follow_links

    def files(self) -> Iterator[Found]:
        return discover(self._path, self._follow_links)

    def version(self, found: Found) -> str:
        return sha256_file(Path(found.place))

    def fetch(self, place: str) -> Path:
        return Path(place)

    def release(self, path: Path) -> None:
        """Nothing was staged."""


class Store:
    """A folder or file at an address of any of fsspec's file systems."""

    def __init__(self, address: str, staging: Path) -> None:
        self._address, self._staging = address, staging
        self._system, self._root = _reached(address)

    def files(self) -> Iterator[Found]:
        with _as_one_line(self._address):
            if self._root and self._system.isfile(self._root):
                yield self._found(PurePosixPath(self._root).name, self._system.info(self._root))
                return
            for _, _, files in self._system.walk(self._root, detail=True):
                for info in files.values():
                    yield self._found(_inside(info["name"], self._root), info)

    def _found(self, name: str, info: dict[str, Any]) -> Found:
        problem = None
        if any(part.startswith(".") for part in PurePosixPath(name).parts):
            problem = Unreadable("hidden", "its name begins with a dot")
        known = {key: str(info[key]) for key in _VERSIONS if info.get(key) is not None}
        version = fingerprint(self._address, name, info.get("size"), known) if known else ""
        return Found(
            name.encode(errors="backslashreplace").decode(), info["name"], problem, version
        )

    def version(self, found: Found) -> str:
        if found.version:
            return found.version
        # A store that says nothing but names: the content has to be looked at.
        path = self.fetch(found.place)
        try:
            return sha256_file(path)
        finally:
            self.release(path)

    def fetch(self, place: str) -> Path:
        # Only the name's end is used, as it says the format; a store's names may be no file names
        # here.
        folder = self._staging / fingerprint(place)[:24]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("file" + "".join(PurePosixPath(place).suffixes[-2:])[-24:])
        self._system.get_file(place, str(path))
        return path

    def release(self, path: Path) -> None:
        shutil.rmtree(path.parent, ignore_errors=True)


class Hub:
    """A dataset of the Hugging Face hub, or a folder in its form:
    ``hf://owner/name?config=c&split=train&revision=main&rows=1000``.
    """

    def __init__(self, address: str, staging: Path, text_column: str) -> None:
        name, _, options = address.removeprefix("hf://").removeprefix("datasets/").partition("?")
        self._name, self._staging, self._column = name, staging, text_column
        self._options = dict(parse_qsl(options, keep_blank_values=True))
        for option in self._options:
            if option not in _OPTIONS:
                raise PipelineError(
                    f"{address}: unknown option "
                    f"{option!r}{did_you_mean(option, _OPTIONS)}: there are "
                    f"{', '.join(_OPTIONS)}"
                )
        rows = self._options.get("rows", "0")
        if not rows.isdecimal():
            raise PipelineError(f"{address}: rows={rows} is not a number")
        self._rows = int(rows) or None

    def files(self) -> Iterator[Found]:
        self._staging.mkdir(parents=True, exist_ok=True)
        with _as_one_line(f"hf://{self._name}"):
            for split, rows in self._splits():
                yield from self._staged(split, self._columns(rows))

    def _splits(self) -> Iterator[tuple[str, Any]]:
        """Yield the split that was asked for, else train where there is one, else all."""
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        from datasets import load_dataset  # type: ignore[attr-defined]

        asked = self._options.get("split")
        found = load_dataset(
            self._name,
            self._options.get("config"),
            split=asked,
            revision=self._options.get("revision"),
            streaming=True,
            token=os.environ.get("HF_TOKEN"),
        )
        if asked:
            yield asked, found
        else:
            yield from [("train", found["train"])] if "train" in found else found.items()

    def _columns(self, rows: Any) -> Any:
        """Leave out the other columns where the columns are known: pictures and sound would be
        decoded for nothing.
        """
        known = list(rows.column_names or [])
        column = self._column if self._column in known else self._column.partition(".")[0]
        if known and column not in known:
            raise PipelineError(
                f"hf://{self._name} has no column {self._column!r}: there are "
                f"{', '.join(known[:20])}; set ingest.text_column"
            )
        return rows.select_columns([column]) if known else rows

    def _staged(self, split: str, rows: Any) -> Iterator[Found]:
        stream, before = iter(islice(rows, self._rows)), 0
        while batch := list(islice(stream, _ROWS)):
            path = self._staging / f"{re.sub(r'[^A-Za-z0-9_-]', '_', split)}-{before:012}.jsonl"
            path.write_text(
                "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in batch),
                encoding="utf-8",
                errors="replace",
            )
            yield Found(f"hf://{self._name}/{split}", str(path), rows_before=before)
            before += len(batch)

    def version(self, found: Found) -> str:
        return sha256_file(Path(found.place))

    def fetch(self, place: str) -> Path:
        return Path(place)

    def release(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def _reached(address: str) -> tuple[Any, str]:
    import fsspec

    protocol = address.partition("://")[0].rpartition("::")[2]
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError as error:
        package = re.search(r"[Ii]nstall (?:the )?[\"'`]?([\w.-]+)", str(error))
        raise PipelineError(
            f"{address}: {protocol}:// needs a package that is not here: pip install "
            f"{package[1] if package else error}"
        ) from error
    except ValueError as error:
        raise PipelineError(
            f"{address}: {error}: addresses are those of fsspec, such as s3:// or gs://, "
            "or hf://owner/dataset"
        ) from error
    except Exception as error:
        raise PipelineError(f"{address} cannot be reached: {_first_line(error)}") from error
    return system, str(root)


class _as_one_line:
    """Errors of stores and of the hub are of countless kinds; all say that the corpus cannot be
    reached.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, PipelineError):
            raise PipelineError(
                f"{self._address} cannot be reached: {_first_line(error)}"
            ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def _inside(name: str, root: str) -> str:
    root = root.rstrip("/")
    return name.removeprefix(root).lstrip("/") if root else name.lstrip("/")
