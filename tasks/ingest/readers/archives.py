"""ZIP and TAR archives, compressed single files and files of messages (mbox): each member is read
like a file, within limits that stop bombs.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import (
    Alive,
    Begin,
    Budget,
    Document,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    spare,
)

_COMPRESSED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}

#: Bytes that one byte of an archive unpacks to at most: zeros in bzip2 come near it.
_MOST_PACKED = 2_000_000
#: The start of a message's header, and of a line of its text that an mbox file has to quote.
_HEADER, _QUOTED = re.compile(rb"[!-9;-~]+:"), re.compile(rb">+From ")

OpenMember = Callable[[], IO[bytes]]
#: The member's place in a document's name ("" for a compressed single file), its file name, and
#: what opens it.
Member = tuple[str, str, OpenMember]


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the documents of every member; a bad member is a reject, a bad archive raises
    :class:`Unreadable`.
    """
    if options.max_depth == 0:
        raise Unreadable("nested_too_deep", "an archive inside an archive inside an archive ...")
    inner = replace(options, max_depth=options.max_depth - 1, skip=0)
    budget = options.budget or Budget.whole(options.max_bytes, options.max_members)
    with closing(_members(path, options)) as members:
        for number, (place, name, open_member) in enumerate(members, 1):
            if number > options.max_members:
                raise Unreadable("too_large", f"more than {options.max_members} members")
            budget.begin_member()
            if number <= options.skip:
                continue
            yield Begin(place, number)
            yield from _member(place, name, open_member, inner, budget)


def _members(path: Path, options: ReadOptions) -> Generator[Member, None, None]:
    with path.open("rb") as stream:
        head = stream.read(8)
    if head.startswith(b"PK"):
        yield from _zip(path)
    elif _is_tar(path):
        # A stream is read once and in order, so links cannot lead anywhere.
        most = path.stat().st_size * _MOST_PACKED
        with tarfile.open(path, "r|*") as archive:
            for entry in archive:
                # To pass over it would take hours. The holes of a sparse file are not there.
                if entry.size > most and not entry.issparse():
                    detail = f"a member is said to have {entry.size:,} bytes"
                    raise Unreadable("damaged", detail)
                open_member: OpenMember = (
                    partial(_extract, archive, entry)
                    if entry.isfile()
                    else _refuse("link", "a link or a device in an archive is not followed")
                )
                if not entry.isdir():
                    yield f"!{entry.name}", entry.name, open_member
    elif head.startswith(b"From "):
        for number, message in enumerate(_messages(path, options.max_bytes), 1):
            yield f"!{number}", f"{number}.eml", partial(io.BytesIO, message)
    else:
        opener = next(
            (opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None
        )
        if opener is None:
            raise Unreadable("damaged", "neither an archive nor a compressed file")
        yield "", path.stem, partial(opener, path, "rb")


def _messages(path: Path, most: int) -> Iterator[bytes]:
    """Yield the messages of an mbox file, of one that is longer than ``most`` the first bytes.

    A message begins with a line "From ..." at the file's start or after a blank line, if a header
    follows. Programs that write mbox files put ">" before other lines that begin so.
    """
    message = bytearray()
    begin = b""  # a line that begins a message if the next one is a header
    is_blank = True
    with path.open("rb") as stream:
        while line := stream.readline(most + 1):
            if begin and _HEADER.match(line):
                if message:
                    yield bytes(message)
                message = bytearray()
            elif begin:
                line = begin + line
            begin = line if is_blank and line.startswith(b"From ") else b""
            is_blank = not line.strip()
            if not begin and len(message) <= most:
                message += line[1:] if _QUOTED.match(line) else line
    if message or begin:
        yield bytes(message) + begin


def _is_tar(path: Path) -> bool:
    try:
        with tarfile.open(path, "r|*") as archive:
            archive.next()
            return True
    except (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError):
        return False


def _zip(path: Path) -> Generator[Member, None, None]:
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
            if entry.filename.endswith("/"):  # is_dir() fails on an empty name
                continue
            open_member: OpenMember = (
                _refuse("encrypted", "a password protects it")
                if entry.flag_bits & 1
                else partial(archive.open, entry)
            )
            yield f"!{entry.filename}", entry.filename, open_member


def _extract(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> IO[bytes]:
    stream = archive.extractfile(entry)
    if stream is None:
        raise Unreadable("damaged", "no data for this member")
    return stream


def _refuse(reason: str, detail: str) -> OpenMember:
    def raise_unreadable() -> IO[bytes]:
        raise Unreadable(reason, detail)

    return raise_unreadable


def _member(
    place: str, name: str, open_member: OpenMember, options: ReadOptions, budget: Budget
) -> Iterator[ReaderItem]:
    """Yield the documents of one member, unpacked within the limits: with all that is nested in it,
    it takes at most a quarter of a whole budget, so that a bomb leaves some to its neighbours.
    """
    limit = options.max_bytes
    size = text = 0
    path = PurePosixPath(name)
    if "__MACOSX" in path.parts:  # what macOS adds beside every file is no document
        return
    if path.name.startswith("."):
        yield Reject(place, "hidden", "its name begins with a dot")
        return
    with (
        budget.share(limit, options.max_members) as share,
        tempfile.TemporaryDirectory(prefix="member-") as folder,
    ):
        # Of the name only the suffix is used, for the format: "../../etc/x" writes nowhere else.
        target = Path(folder) / ("member" + "".join(PurePosixPath(name).suffixes[-1:])[:16])
        lost: list[Reject] = []
        with spare(lost, place):
            with open_member() as source, target.open("wb") as sink:
                while block := source.read(min(1 << 20, share.size + 1)):
                    size += len(block)
                    if size > limit:
                        raise Unreadable("too_large", f"unpacks to more than {limit >> 20} MiB")
                    share.spend(len(block))
                    sink.write(block)
            for item in detect.read(target, replace(options, budget=share)):
                if isinstance(item, Document):
                    text += len(item.text)
                    if text > limit:
                        raise Unreadable("too_large", f"holds more than {limit >> 20} MiB of text")
                # Of a nested archive only the outer member can be passed over later.
                nested = Alive() if isinstance(item, Begin) else item
                yield detect.prefix_member(nested, place)
        yield from lost
