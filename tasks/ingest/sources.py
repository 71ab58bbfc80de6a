"""A corpus on this machine, at an fsspec address (``s3://``, ``gs://``, ``https://``...), or on the
Hugging Face hub.

Remote files are read through a staging folder, which holds only the files in use and is deleted at
the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qsl

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.files import fingerprint, sha256_file
from tasks.core.secrets import first_line, hide, hub_token
from tasks.core.sections.ingest import Ingest
from tasks.core.setting_paths import ADDRESS, POINTER, read_pointer
from tasks.ingest.discovery import CorpusFile, discover, readable_name
from tasks.ingest.http_client import guard
from tasks.ingest.readers import detect
from tasks.ingest.readers.columns import find_column
from tasks.ingest.readers.document import Unreadable, printable

#: Facts about a remote file that change with its content.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "crc32c",
    "CRC",
    "checksum",
    "version_id",
    "Content-MD5",
    "Digest",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)
#: Folders within folders of a remote corpus: a server can make up more without end.
_DEPTH = 64
#: How much larger a remote file may be that is streamed by its reader: the disk has to hold it.
_STREAMED_MORE = 64
#: Rows of a dataset that are staged as one file.
_ROWS = 1000
_OPTIONS = ("config", "split", "revision", "rows")


class Corpus:
    """A corpus: its files, and how to read each on this machine."""

    def files(self) -> Iterator[CorpusFile]:
        """Yield all files, in any order."""
        raise NotImplementedError

    def state(self) -> str:
        """Return a digest of the files' names, sizes and times; empty where others look after that:
        what changes at an address is read by the next run that reads it.
        """
        return ""

    def version(self, file: CorpusFile) -> str:
        """Return a string that changes with the file's content: part of its result's key."""
        return sha256_file(Path(file.place))

    def fetch(self, place: str) -> Path:
        """Return a local path of the file; may be called from several threads."""
        return Path(place)

    def release(self, path: Path) -> None:
        """Delete the local copy of a fetched file, if there is one."""


def open_corpus(address: str, staging: Path, params: Ingest) -> Corpus:
    """Return the corpus at ``address``, or at the address in a file named ``*.address``.

    ``params.max_file_mb`` is the largest file that is held in memory (:func:`detect.check_size`).
    Of a remote table or archive, which are streamed, 64 times as much is fetched.

    Raises :class:`PipelineError` where it cannot be reached, or a package is missing.
    """
    shutil.rmtree(staging, ignore_errors=True)
    max_bytes = params.max_file_mb << 20
    if address.endswith(POINTER) and Path(address).is_file():
        address = read_pointer(Path(address))
    if address.startswith("hf://"):
        return HubCorpus(address, staging, params.text_column or "text")
    if address.startswith("file://"):
        address = address.removeprefix("file://")
    if ADDRESS.match(address):
        return RemoteCorpus(address, staging, max_bytes)
    return LocalCorpus(Path(address), params.follow_links, max_bytes)


class LocalCorpus(Corpus):
    """A folder or file of this machine, read in place. Others may write to it meanwhile."""

    def __init__(self, path: Path, follow_links: bool, max_bytes: int) -> None:
        self._path, self._follow_links, self._max_bytes = path, follow_links, max_bytes

    def files(self) -> Iterator[CorpusFile]:
        return discover(self._path, self._follow_links)

    def state(self) -> str:
        digest = hashlib.sha256()
        for file in self.files():
            if file.problem is None:
                try:
                    facts = os.stat(file.place)
                    told = f"{facts.st_size} {facts.st_mtime_ns}"
                except OSError:  # it is gone
                    told = ""
                digest.update(f"{file.name}: {told}\n".encode())
        return digest.hexdigest()

    def version(self, file: CorpusFile) -> str:
        # Before it is hashed: a sparse file of a terabyte takes hours.
        detect.check_size(Path(file.place), self._max_bytes)
        return super().version(file)


class RemoteCorpus(Corpus):
    """A folder or file at an address of any of fsspec's file systems."""

    def __init__(self, address: str, staging: Path, max_bytes: int) -> None:
        self._address, self._staging, self._max_bytes = address, staging, max_bytes
        self._system, self._root = _connect(address)

    def files(self) -> Iterator[CorpusFile]:
        with _one_line_errors(self._address):
            if self._root and self._system.isfile(self._root):
                yield self._describe(PurePosixPath(self._root).name, self._system.info(self._root))
                return
            unlisted: set[str] = set()
            for path, folders, files in self._system.walk(self._root, _DEPTH, detail=True):
                unlisted.discard(str(path).rstrip("/"))
                strip = self._system._strip_protocol
                unlisted |= {str(strip(info["name"])).rstrip("/") for info in folders.values()}
                for info in files.values():
                    yield self._describe(_inside(info["name"], self._root), info)
            # fsspec leaves a folder out that it cannot list.
            problem = Unreadable("unreadable", "a folder that cannot be listed")
            for folder in sorted(unlisted):
                name = printable(_inside(folder, self._root))
                yield CorpusFile(name, folder, problem)

    def _describe(self, name: str, info: dict[str, Any]) -> CorpusFile:
        problem = None
        if any(part.startswith(".") for part in PurePosixPath(name).parts):
            problem = Unreadable("hidden", "its name begins with a dot")
        facts = {key: str(info[key]) for key in _VERSIONS if info.get(key) is not None}
        version = fingerprint(self._address, name, info.get("size"), facts) if facts else ""
        return CorpusFile(
            readable_name(name.encode(errors="surrogatepass")), info["name"], problem, version
        )

    def version(self, file: CorpusFile) -> str:
        if file.version:
            return file.version
        # The file system gives names only: hash the content.
        path = self.fetch(file.place)
        try:
            return sha256_file(path)
        finally:
            self.release(path)

    def fetch(self, place: str) -> Path:
        # Only the suffix is used, for the format: remote names may not be valid file names here.
        folder = self._staging / fingerprint(place)[:24]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / ("file" + "".join(PurePosixPath(place).suffixes[-2:])[-24:])
        streamed = detect.SUFFIXES.get(path.suffix.lower()) in detect.STREAMED
        most = self._max_bytes * (_STREAMED_MORE if streamed else 1)
        try:
            self._system.get_file(place, str(path), callback=_limit_bytes(most))
        except BaseException:
            self.release(path)
            raise
        return path

    def release(self, path: Path) -> None:
        shutil.rmtree(path.parent, ignore_errors=True)


class HubCorpus(Corpus):
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
                    f"{hide(address)}: unknown option {option!r}{did_you_mean(option, _OPTIONS)}: "
                    f"there are {', '.join(_OPTIONS)}"
                )
        rows = self._options.get("rows", "0")
        if not rows.isdecimal():
            raise PipelineError(f"{hide(address)}: rows={rows} is not a number")
        self._rows = int(rows) or None

    def files(self) -> Iterator[CorpusFile]:
        self._staging.mkdir(parents=True, exist_ok=True)
        with _one_line_errors(f"hf://{self._name}"):
            for split, rows in self._splits():
                yield from self._stage_rows(split, self._select_column(rows))

    def _splits(self) -> Iterator[tuple[str, Any]]:
        """Yield the split of the address; else train, where there is one; else all."""
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        from datasets import load_dataset  # type: ignore[attr-defined]

        split = self._options.get("split")
        dataset = load_dataset(
            self._name,
            self._options.get("config"),
            split=split,
            revision=self._options.get("revision"),
            streaming=True,
            token=hub_token(),
        )
        if split:
            yield split, dataset
        else:
            yield from [("train", dataset["train"])] if "train" in dataset else dataset.items()

    def _select_column(self, rows: Any) -> Any:
        """Return the rows with the text column alone, where the columns are known: pictures and
        sound would be decoded for nothing.
        """
        names = list(rows.column_names or [])
        column = find_column(names, self._column)
        if names and not column:
            raise PipelineError(
                f"hf://{self._name} has no column {self._column!r}: there are "
                f"{', '.join(names[:20])}; set ingest.text_column"
            )
        return rows.select_columns([column]) if names else rows

    def _stage_rows(self, split: str, rows: Any) -> Iterator[CorpusFile]:
        stream, before = iter(islice(rows, self._rows)), 0
        while batch := list(islice(stream, _ROWS)):
            path = self._staging / f"{re.sub(r'[^A-Za-z0-9_-]', '_', split)}-{before:012}.jsonl"
            path.write_text(
                "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in batch),
                encoding="utf-8",
                errors="replace",
            )
            yield CorpusFile(f"hf://{self._name}/{split}", str(path), rows_before=before)
            before += len(batch)

    def release(self, path: Path) -> None:
        path.unlink(missing_ok=True)


def _limit_bytes(most: int) -> Any:
    """Return fsspec's callback of a fetch, which ends it behind ``most`` bytes: an HTTP body may be
    endless, whatever its header says.
    """
    from fsspec.callbacks import Callback

    class Limit(Callback):  # type: ignore[misc]
        def call(self, *_: Any, **__: Any) -> None:
            if max(self.size or 0, self.value) > most:
                raise Unreadable(
                    "too_large", f"more than {most >> 20} MiB to fetch: raise ingest.max_file_mb"
                )

    return Limit()


def _connect(address: str) -> tuple[Any, str]:
    import fsspec

    protocol = address.partition("://")[0].rpartition("::")[2]
    try:
        system, root = fsspec.core.url_to_fs(address, **guard(address))
    except ImportError as error:
        package = re.search(r"[Ii]nstall (?:the )?[\"'`]?([\w.-]+)", str(error))
        raise PipelineError(
            f"{hide(address)}: {protocol}:// needs a package that is not here: pip install "
            f"{package[1] if package else error}"
        ) from error
    except ValueError as error:
        raise PipelineError(
            f"{hide(f'{address}: {error}')}: addresses are those of fsspec, such as s3:// or "
            "gs://, or hf://owner/dataset"
        ) from error
    except Exception as error:
        raise _unreachable(address, error) from error
    return system, str(root)


@contextmanager
def _one_line_errors(address: str) -> Iterator[None]:
    """Turn any error of a remote file system or of the hub into a :class:`PipelineError`."""
    try:
        yield
    except PipelineError:
        raise
    except Exception as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> PipelineError:
    why = f"{type(error).__name__}: {first_line(error)}"
    return PipelineError(f"{hide(address)} cannot be reached: {why}")


def _inside(name: str, root: str) -> str:
    root = root.rstrip("/")
    return name.removeprefix(root).lstrip("/") if root else name.lstrip("/")
