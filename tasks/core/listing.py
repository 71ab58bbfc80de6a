"""The files of a folder with their SHA-256, without parsing them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, sha256_file

#: A file's size in bytes, its time of change in nanoseconds, and the SHA-256 of its bytes; or in
#: place of that why it cannot be read.
Entry = tuple[int, int, str]
Listing = dict[str, Entry]
_UNREADABLE = "unreadable: "


def list_files(corpus: Path, known: Mapping[str, Entry] | None = None) -> Listing:
    """Return name -> entry of every file below ``corpus``, or of the file itself.

    Hidden files, and links to folders, are left out, as ingest does. A file that has the size and
    the time of its entry in ``known`` is not read again. A file or folder that cannot be opened is
    listed with its fault, as ingest rejects it: its entry changes once it can be.

    Raises :class:`PipelineError` where ``corpus`` is not here, or cannot be opened.
    """
    if not corpus.exists():
        raise PipelineError(
            f"the corpus {corpus} does not exist on this machine: only folders and files of it "
            "can be listed"
        )
    listing: Listing = {}
    closed: list[OSError] = []
    for path in sorted(_walk(corpus, closed)):
        name = _name(path, corpus)
        with contextlib.suppress(FileNotFoundError):  # it was deleted while the folder was read
            listing[name] = _read_entry(path, (known or {}).get(name))
    for problem in closed:
        path = closed_folder(corpus, problem)
        if not isinstance(problem, FileNotFoundError):
            listing[_name(path, corpus)] = (0, 0, f"{_UNREADABLE}{problem.strerror}")
    return listing


def _read_entry(path: Path, known: Entry | None) -> Entry:
    state = path.stat()
    size, changed = state.st_size, state.st_mtime_ns
    if known and known[:2] == (size, changed) and not known[2].startswith(_UNREADABLE):
        return known
    try:
        return size, changed, sha256_file(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        return size, changed, f"{_UNREADABLE}{error.strerror}"


def closed_folder(corpus: Path, error: OSError) -> Path:
    """Return the path that ``os.walk`` below ``corpus`` could not open.

    Raises :class:`PipelineError` where it is the corpus itself.
    """
    path = Path(error.filename)
    if path == corpus:
        raise PipelineError(
            f"the corpus folder {corpus} cannot be opened: {error.strerror}"
        ) from error
    return path


def digest_listing(listing: Listing) -> str:
    """Return one SHA-256 over names and bytes, whatever the files' times are."""
    return fingerprint(*(f"{name}:{entry[2]}" for name, entry in sorted(listing.items())))


def _name(path: Path, corpus: Path) -> str:
    return os.fsencode(path.relative_to(corpus)).decode("utf-8", "backslashreplace")


def _walk(corpus: Path, closed: list[OSError]) -> Iterator[Path]:
    """Yield the files; the error of each path that cannot be opened goes to ``closed``."""
    if corpus.is_file():
        yield corpus
        return
    for folder, folders, files in os.walk(corpus, onerror=closed.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(folder) / name
            try:
                if not name.startswith(".") and path.is_file():
                    yield path
            except PermissionError as error:
                closed.append(error)
