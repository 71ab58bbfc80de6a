"""The files of a folder with their SHA-256, without parsing them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, sha256_file

#: A file's size in bytes, its time of change in nanoseconds, and the SHA-256 of its bytes.
Entry = tuple[int, int, str]
Listing = dict[str, Entry]


def list_files(corpus: Path, known: Mapping[str, Entry] | None = None) -> Listing:
    """Return name -> entry of every file below ``corpus``, or of the file itself.

    Hidden files, and links to folders, are left out, as ingest does. A file that has the size and
    the time of its entry in ``known`` is not read again.
    """
    if not corpus.exists():
        raise PipelineError(
            f"the corpus {corpus} does not exist on this machine: only folders and files of it "
            "can be listed"
        )
    listing: Listing = {}
    for path in sorted(_walk(corpus)):
        try:
            state = path.stat()
            name = os.fsencode(path.relative_to(corpus)).decode("utf-8", "backslashreplace")
            old = (known or {}).get(name)
            same = old is not None and old[:2] == (state.st_size, state.st_mtime_ns)
            digest = old[2] if same and old is not None else sha256_file(path)
        except FileNotFoundError:  # it was deleted while the folder was read
            continue
        except OSError as error:
            # Listed with its fault: ingest rejects it, and its entry changes once it can be read.
            listing[name] = (state.st_size, state.st_mtime_ns, f"unreadable: {error.strerror}")
            continue
        listing[name] = (state.st_size, state.st_mtime_ns, digest)
    return listing


def digest_listing(listing: Listing) -> str:
    """Return one SHA-256 over names and bytes, whatever the files' times are."""
    return fingerprint(*(f"{name}:{entry[2]}" for name, entry in sorted(listing.items())))


def _walk(corpus: Path) -> Iterator[Path]:
    if corpus.is_file():
        yield corpus
        return
    for folder, folders, files in os.walk(corpus):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(folder) / name for name in files if not name.startswith("."))
        yield from (path for path in paths if path.is_file())
