"""Finds the files of a folder on this machine, in any order: the journal sorts them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.listing import closed_folder
from tasks.ingest.readers.document import Unreadable


@dataclass(frozen=True)
class CorpusFile:
    """A file of the corpus, or why it is not read.

    ``name`` is its path inside the corpus, with ``/``, in valid Unicode.
    """

    name: str
    #: Where the corpus fetches it: a path of this machine, or of a remote file system.
    place: str
    problem: Unreadable | None = None
    #: Changes with the content, as the remote file system promises; empty: unknown.
    version: str = ""
    #: Rows of the dataset before this piece: row ``#17`` is named by its number in the dataset.
    rows_before: int = 0

    def document(self, member: str) -> str:
        """Return the name of a document inside this file."""
        if self.rows_before and member.startswith("#"):
            member = f"#{self.rows_before + int(member[1:])}"
        return self.name + member


def discover(corpus: Path, follow_links: bool = False) -> Iterator[CorpusFile]:
    """Yield every file below the folder ``corpus``, or the file itself; linked folders are not
    entered.
    """
    if corpus.is_file():
        yield CorpusFile(readable_name(os.fsencode(corpus.name)), str(corpus))
    elif corpus.is_dir():
        yield from _walk(corpus, corpus.resolve(), follow_links)
    else:
        raise PipelineError(
            f"the corpus {corpus} does not exist: name a folder, a file, an address such "
            "as s3://bucket/folder, or hf://owner/dataset"
        )


def _walk(corpus: Path, root: Path, follow_links: bool) -> Iterator[CorpusFile]:
    errors: list[OSError] = []
    for folder, folders, files in os.walk(corpus, onerror=errors.append):
        # Hidden folders (.git, .cache) hold no documents: one reject each, not one a file.
        hidden = [name for name in folders if name.startswith(".")]
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name not in (*hidden, *links)]
        for name in (*files, *hidden, *links):
            path = Path(folder) / name
            yield _entry(corpus, path, _find_problem(path, root, follow_links))
    for error in errors:
        problem = Unreadable("unreadable", f"a folder that cannot be opened: {error.strerror}")
        yield _entry(corpus, closed_folder(corpus, error), problem)


def _entry(corpus: Path, path: Path, problem: Unreadable | None) -> CorpusFile:
    name = readable_name(os.fsencode(path.relative_to(corpus).as_posix()))
    return CorpusFile(name, str(path), problem)


def _find_problem(path: Path, root: Path, follow_links: bool) -> Unreadable | None:
    if path.name.startswith("."):
        return Unreadable("hidden", "its name begins with a dot")
    is_link = path.is_symlink()
    try:
        if is_link and (
            problem := _find_link_problem(path.resolve(strict=True), root, follow_links)
        ):
            return problem
        is_file = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError) as error:
        if is_link:
            return Unreadable("broken_link", "a symbolic link to nothing, or to itself")
        return Unreadable("unreadable", f"{error}")
    return None if is_file else Unreadable("not_a_file", "a pipe, a socket or a device")


def _find_link_problem(target: Path, root: Path, follow_links: bool) -> Unreadable | None:
    if not follow_links and not target.is_relative_to(root):
        return Unreadable(
            "link_outside",
            "a symbolic link out of the corpus: copy the file in, or set ingest.follow_links",
        )
    if target.is_dir():
        return Unreadable("link_to_folder", "a symbolic link to a folder is not entered")
    return None


def readable_name(name: bytes) -> str:
    """Return a file name as valid Unicode, different for different names: bytes that are not UTF-8
    are escaped, and backslashes doubled.
    """
    return name.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")
