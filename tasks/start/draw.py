"""Chooses the files of a corpus that a survey reads: a seeded sample of those that can be read."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import shutil
import sys
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from heapq import nlargest
from itertools import chain, islice
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.core.files import row_seed
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.readers.decoding import detect
from tasks.ingest.readers.detect import STREAMED, SUFFIXES, check_size, reader_name
from tasks.ingest.readers.document import Unreadable, explain

#: The largest sample: number of files, and their bytes together.
FILES, BYTES = 200, 32 << 20
#: Bytes to read of plain text, compressed or not. To cut 30 MB of it into 47,000 passages would
#: take minutes.
TEXT_BYTES = 8 << 20
#: One file may be larger than the sample, where most of the corpus is in such files.
_ONE_FILE = 4 * BYTES
#: Bytes of a file from which its reader is chosen.
_HEAD = 4096
#: Files that are opened before any is chosen: how many of the largest; how many of each suffix that
#: no reader has; and how many of these suffixes together. To open 100,000 would take minutes.
_LARGEST, _OF_A_SUFFIX, _OPENED = 200, 20, 2000
_TEXTS = ("text", "markdown")
#: Suffix of one compressed file -> what opens it.
_OPENERS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
}
#: What these raise for a damaged file, or one that may not be read.
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError)
#: Reasons of unreadable files for which their beginning is not enough.
_WHOLE = ("too_large", "unreadable")
#: Suffixes of plain text, whose beginning can be read alone.
_TEXT_SUFFIXES = (
    *(".jsonl", ".ndjson", ".csv", ".tsv", ".tab", ".mbox", ".mbx"),
    *(suffix for suffix, name in SUFFIXES.items() if name in _TEXTS),
)


@dataclass(frozen=True)
class Draw:
    """The files that are read, and those that are not. Sizes are in bytes, of a compressed text of
    the unpacked ones.
    """

    chosen: tuple[CorpusFile, ...]
    #: Name -> bytes of a chosen file that are read: of a large text its beginning.
    read: dict[str, int]
    #: Files that no reader takes, each with its problem.
    unreadable: tuple[CorpusFile, ...]
    #: Files that would take too long, and that the sizes leave out.
    left_out: tuple[CorpusFile, ...]
    #: Of the files that can be read.
    size: int
    #: Of all files, as they lie there.
    total: int
    #: Whether all of the corpus is read.
    whole: bool
    #: Name -> bytes of a compressed text, unpacked.
    unpacked: dict[str, int] = field(default_factory=dict)

    @property
    def sampled(self) -> int:
        """Bytes that are read."""
        return sum(self.read.values())

    def needs_copy(self) -> bool:
        """Whether the files have to be read from a folder of links to them."""
        return (
            not self.whole or len(self.unreadable) > FILES or self.total - self.sampled > TEXT_BYTES
        )

    def shown(self) -> tuple[CorpusFile, ...]:
        """Return the unreadable files that are read all the same, so that the report has them."""
        return self.unreadable[:FILES] if self.needs_copy() else self.unreadable


def draw(files: list[CorpusFile], most: int, seed: int) -> Draw:
    """Choose the first files in a seeded order that are within the limits, one at least if one can
    be read. ``most``: bytes of the largest file that ingest reads.
    """
    sizes = {file.name: Path(file.place).stat().st_size for file in files}
    order = sorted(files, key=lambda file: (row_seed(seed, "file", file.name), file.name))
    kinds = _look_at(order, sizes, most)
    unpacked = _measure(order, sizes)
    for name, large in unpacked.items():
        if large > most:  # in words of ingest, which unpacks it all the same
            detail = f"unpacks to more than {most >> 20} MiB"
            kinds[name] = Unreadable("too_large", detail)
    unreadable = tuple(
        CorpusFile(file.name, file.place, kind)
        for file in order
        if isinstance(kind := kinds.get(file.name), Unreadable)
    )
    good = [file for file in order if not isinstance(kinds.get(file.name), Unreadable)]
    limits = {
        file.name: TEXT_BYTES
        for file in good
        if file.name in unpacked
        or file.name.lower().endswith(_TEXT_SUFFIXES)
        or kinds.get(file.name) in _TEXTS
    }
    full = sizes | unpacked
    reads = {file.name: min(full[file.name], limits.get(file.name, sys.maxsize)) for file in good}
    chosen, left_out = _choose(good, full, reads, limits.keys())
    names = {file.name for file in left_out}
    size = sum(full[file.name] for file in good if file.name not in names)
    read = {file.name: reads[file.name] for file in chosen}
    whole = len(chosen) == len(good) and sum(read.values()) == size
    total = sum(sizes.values())
    return Draw(tuple(chosen), read, unreadable, tuple(left_out), size, total, whole, unpacked)


def _measure(order: list[CorpusFile], sizes: Mapping[str, int]) -> dict[str, int]:
    """Return name -> unpacked bytes of the compressed texts, but for damaged ones.

    A few are unpacked, as far as a look reads; the others are taken to be packed as tightly.
    """
    texts = [(file, open_) for file in order if sizes[file.name] and (open_ := _opener(file.name))]
    found: dict[str, int] = {}
    for file, opener in texts[:_OF_A_SUFFIX]:
        with contextlib.suppress(*_DAMAGED):
            found[file.name] = _unpacked_size(Path(file.place), sizes[file.name], opener)
    if found:
        times = sum(found.values()) / sum(sizes[name] for name in found)
        for file, _ in texts[_OF_A_SUFFIX:]:
            found[file.name] = round(times * sizes[file.name])
    return found


def _unpacked_size(path: Path, size: int, opener: Callable[..., Any]) -> int:
    with path.open("rb") as packed, opener(packed, "rb") as stream:
        read = 0
        while block := stream.read(_HEAD):
            read += len(block)
            if read >= TEXT_BYTES and packed.tell() < size:
                return round(read * size / packed.tell())
        return read


def _opener(name: str) -> Callable[..., Any] | None:
    """Return what opens a compressed text of that name; None for another file."""
    stem, dot, suffix = name.lower().rpartition(".")
    return _OPENERS.get(dot + suffix) if stem.endswith(_TEXT_SUFFIXES) else None


def _choose(
    order: list[CorpusFile],
    sizes: Mapping[str, int],
    reads: dict[str, int],
    texts: Collection[str],
) -> tuple[list[CorpusFile], list[CorpusFile]]:
    """Return the files to read, and those to leave out of the sizes, as no part of them is read.

    ``reads`` has the bytes to read of each, ``texts`` the names of plain text. A text that does not
    fit is read as far as it does, where that is not little: it may be most of the corpus.
    """
    chosen: list[CorpusFile] = []
    size = text = 0
    for file in order:
        more, room = reads[file.name], TEXT_BYTES - text
        if file.name in texts and more > room >= TEXT_BYTES // 4:
            more = reads[file.name] = room
        more_text = more if file.name in texts else 0
        if len(chosen) < FILES and size + more <= BYTES and text + more_text <= TEXT_BYTES:
            chosen.append(file)
            size, text = size + more, text + more_text
    large = [file for file in order if reads[file.name] > BYTES]
    # A few tiny texts say nothing about a large PDF beside them.
    weight = sum(sizes[file.name] for file in large)
    if not large or (chosen and 2 * weight <= sum(sizes[file.name] for file in order)):
        return chosen, []
    smallest = min(large, key=lambda file: (reads[file.name], file.name))
    if chosen and reads[smallest.name] > _ONE_FILE:
        return chosen, large
    return [*chosen, smallest], []


def link(drawn: Draw, folder: Path) -> Path:
    """Make a folder of links to the files, under their names; of a text that is too large its
    beginning, up to the end of a line, or of a word where it is all one line. Of an unreadable
    file the beginning is enough to say why.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for file in chain(drawn.chosen, drawn.shown()):
        place, copy = Path(file.place), folder / PurePosixPath(file.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        packed = file.name in drawn.unpacked and not file.problem
        opener = (_opener(file.name) if packed else None) or open
        size = drawn.unpacked[file.name] if packed else place.stat().st_size
        most = _HEAD if file.problem else drawn.read[file.name]
        whole = size <= most or (file.problem and file.problem.reason in _WHOLE)
        start = b"" if whole else _read_start(place, opener, most)
        if not start:  # ingest says what is wrong with one that cannot be read
            copy.symlink_to(place.absolute())
            continue
        if not file.problem:
            start = start.rpartition(b"\n")[0] or start.rpartition(b" ")[0]
        with opener(copy, "wb") as stream:
            stream.write(start)
    return folder


def _read_start(path: Path, opener: Callable[..., Any], most: int) -> bytes:
    """Return the first bytes of a file; none where it is damaged."""
    with contextlib.suppress(*_DAMAGED), opener(path, "rb") as stream:
        return bytes(stream.read(most))
    return b""


def _look_at(
    order: list[CorpusFile], sizes: dict[str, int], most: int
) -> dict[str, str | Unreadable]:
    """Return name -> reader, or problem, of the files that weigh most, and of those without a
    suffix that a reader has. Where some of a suffix were opened and none can be read, none can.
    """
    known: dict[str, str | Unreadable] = {
        file.name: Unreadable("empty", "zero bytes") for file in order if not sizes[file.name]
    }
    heavy = {file.name for file in nlargest(_LARGEST, order, key=lambda file: sizes[file.name])}
    others: dict[str, list[CorpusFile]] = {}
    for file in order:
        if file.name in known:
            continue
        if file.name in heavy or sizes[file.name] > most:
            known[file.name] = _find_kind(file, sizes[file.name], most)
        suffix = PurePosixPath(file.name).suffix.lower()
        if suffix not in SUFFIXES:
            others.setdefault(suffix, []).append(file)
    left = _OPENED
    for alike in others.values():
        some = alike[: min(_OF_A_SUFFIX, left)]
        left -= len(some)
        for file in some:
            if file.name not in known:
                known[file.name] = _find_kind(file, sizes[file.name], most)
        problems = [kind for file in some if isinstance(kind := known[file.name], Unreadable)]
        if some and len(problems) == len(some):
            known.update((file.name, problems[0]) for file in islice(alike, len(some), None))
    return known


def _find_kind(file: CorpusFile, size: int, most: int) -> str | Unreadable:
    """Return the name of a file's reader, or why it is not read, from its first bytes."""
    path = Path(file.place)
    try:
        check_size(path, most)
        name = reader_name(path)
        if name in STREAMED and path.suffix.lower() == ".json" and size > most:
            raise Unreadable("too_large", f"{size >> 20} MiB of JSON, the most is {most >> 20}")
        if name in _TEXTS:
            with path.open("rb") as stream:
                head = stream.read(_HEAD)
            if b"\0" in head:
                detect(head)
    except (Unreadable, OSError) as problem:
        return explain(problem)
    return name
