"""One file in a worker process: read it, mask it, cut it into passages, check each passage.

The results are plain values, which are sent and kept as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.core.pool import Limits, Pool, ResultPart
from tasks.core.ray_cluster import Workers
from tasks.core.ray_workers import spread
from tasks.ingest import apparatus, boilerplate, cleaning, trimming
from tasks.ingest.passages import Passage, TokenCounter, cut, find_places, heading_paths
from tasks.ingest.readers import detect
from tasks.ingest.readers.document import (
    Alive,
    Begin,
    Document,
    ReadOptions,
    explain,
    printable,
)

#: Characters of text in one part of a file's result: parts bound the memory.
_PART = 1 << 20
#: Members of one file that may end their processes before the rest of it is given up.
_DEATHS = 20
#: Files that a Ray worker is given at a time.
_FILES_A_JOB = 8


@dataclass(frozen=True)
class Work:
    """All that a file's result depends on besides the file.

    ``tokenizer`` is the JSON of a tokenizer; empty: words are counted.
    """

    tokenizer: str
    options: ReadOptions
    budget: int
    least: int
    near_duplicates: bool = False
    languages: tuple[str, ...] = ()
    mask: bool = False
    #: Kinds of ``tasks.ingest.trimming`` that are taken out or joined.
    trim: tuple[str, ...] = ()
    #: Whether the lines are recorded to be counted (``tasks.ingest.boilerplate``).
    lines: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the key of a result."""
        return asdict(self)


def read_files(
    jobs: Iterable[tuple[str, Path]], work: Work, workers: int, limits: Limits, scratch: Path
) -> Iterator[ResultPart]:
    """Read the files of ``jobs`` (key, path) in processes of their own, and yield their results'
    parts as JSON text, as :meth:`Pool.run` does; the last part of a file that failed is its reject.

    Where a member of an archive or message crashes or hangs its process, reading continues with the
    next member. The ``failure`` is then the member's, or ``unreadable``: another run may succeed.
    A file that has used up ``limits.total_seconds`` ends with a reject that says so.

    ``scratch`` is a folder for what is unpacked. Killed workers leave some of it, which goes at the
    end; where this process is killed too, the next call with the same folder clears it.
    """
    with _emptied(scratch), _pool(work, workers, limits, scratch) as pool:
        yield from _read(jobs, pool)


def read_on_ray(
    jobs: Iterable[tuple[str, Path]],
    work: Work,
    workers: Workers,
    limits: Limits,
    scratch: Path,
) -> Iterator[ResultPart]:
    """Read as :func:`read_files`, by the workers of a Ray cluster. The files, and ``scratch``, must
    have the same paths on its machines.
    """

    setup = (work, limits, str(scratch.absolute()))
    left = iter(jobs)
    batches = enumerate(iter(lambda: list(islice(left, _FILES_A_JOB)), []))
    with _emptied(scratch):
        for _, parts in spread(f"{__name__}:RayReader", setup, batches, workers):
            yield from parts


class RayReader:
    """Reads files in a process of its own, for a worker of a Ray cluster."""

    def __init__(self, work: Work, limits: Limits, scratch: str) -> None:
        folder = Path(scratch) / f"{platform.node()}-{os.getpid()}"
        folder.mkdir()
        self._pool = _pool(work, 1, limits, folder)

    def __call__(self, files: Sequence[tuple[str, Path]]) -> list[ResultPart]:
        """Return the parts of the results of ``files`` (key, path)."""
        return list(_read(files, self._pool))


@contextmanager
def _emptied(scratch: Path) -> Iterator[None]:
    """Make an empty folder, which goes with the block."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _pool(work: Work, workers: int, limits: Limits, scratch: Path) -> Pool:
    return Pool(_start, (work, str(scratch.absolute())), workers, limits)


def _read(jobs: Iterable[tuple[str, Path]], pool: Pool) -> Iterator[ResultPart]:
    reading = _Reading(iter(jobs))
    for result in pool.run(reading.jobs()):
        yield reading.receive(result)


@dataclass
class _File:
    """A file that is being read: the member that it began last, and how many were passed over."""

    path: Path
    begun: int = 0
    member: str = ""
    skipped: int = 0
    deaths: int = 0
    failure: str = ""


@dataclass
class _Reading:
    """Hands out files, and those again whose member ended a process."""

    files: Iterator[tuple[str, Path]]
    _open: dict[str, _File] = field(default_factory=dict)
    _again: deque[str] = field(default_factory=deque)

    def jobs(self) -> Iterator[tuple[str, tuple[Path, int]] | None]:
        while True:
            if self._again:
                key = self._again.popleft()
            elif entry := next(self.files, None):
                key = entry[0]
                self._open[key] = _File(entry[1])
            elif self._open:
                yield None
                continue
            else:
                return
            yield key, (self._open[key].path, self._open[key].skipped)

    def receive(self, result: ResultPart) -> ResultPart:
        """Return a part with its JSON text as value."""
        file = self._open[result.key]
        if not result.failure:
            text, begun, member, retry = result.value
            if begun:
                file.begun, file.member = begun, member
            if retry:
                file.failure = "unreadable"
        elif result.failure == "total":
            rest = f"the rest, from {file.member} on," if file.member else "the rest"
            text = format_reject("timeout", f"{result.detail}: {rest} was not read")
        elif result.failure != "error" and file.begun > file.skipped and file.deaths < _DEATHS:
            file.skipped, file.failure, file.deaths = file.begun, result.failure, file.deaths + 1
            self._again.append(result.key)
            rejected = _format_failure(result, file.member)
            return replace(result, value=rejected, done=False, failure="", detail="")
        else:
            text = _format_failure(result)
        if result.done:
            del self._open[result.key]
            return replace(result, value=text, failure=result.failure or file.failure)
        return replace(result, value=text)


def _start(work: Work, scratch: str) -> Callable[[tuple[Path, int]], Iterator[list[Any]]]:
    tempfile.tempdir = scratch
    count = make_counter(work.tokenizer)

    def do(job: tuple[Path, int]) -> Iterator[list[Any]]:
        """Yield each part's JSON text, the number and place of the member that begins behind it,
        and whether it tells of a fault that may pass.
        """
        path, skip = job
        chosen = replace(work, options=replace(work.options, skip=skip))
        for part in process(path, chosen, count):
            begin = part.pop() if part and "begin" in part[-1] else {}
            retry = any(entry.get("reason") == "unreadable" for entry in part)
            yield [json.dumps(part), begin.get("begin", 0), begin.get("member", ""), retry]

    return do


def _format_failure(result: ResultPart, member: str = "") -> str:
    if result.failure == "error":
        return format_reject("damaged", result.detail)
    if result.failure == "crashed":
        detail = f"the process that read it died: {result.detail}"
        return format_reject("crashed", detail, member)
    return format_reject(result.failure, result.detail, member)


def format_reject(reason: str, detail: str, member: str = "") -> str:
    """Return the result of a file, or of a member of it, that could not be read."""
    return json.dumps([{"member": member, "reason": reason, "detail": printable(detail)}])


def make_counter(tokenizer: str) -> TokenCounter:
    """Return a function that counts tokens; words where ``tokenizer`` is empty."""
    if not tokenizer:
        return lambda texts: [len(text.split()) for text in texts]
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(tokenizer)
    backend.no_truncation()
    backend.no_padding()

    def count(texts: Sequence[str]) -> list[int]:
        return [
            len(encoding.ids)
            for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    return count


def process(path: Path, work: Work, count: TokenCounter) -> Iterator[list[dict[str, Any]]]:
    """Yield the result of a file in parts: lists of documents (with passages) and rejects.

    A file that cannot be read is one reject. A last entry ``begin`` is no document: the member of
    that number begins.
    """
    part: list[dict[str, Any]] = []
    size = 0
    try:
        for item in detect.read(path, work.options):
            if isinstance(item, Alive | Begin):
                if isinstance(item, Begin):
                    # The pool sends a part when the next one comes: all before it is safe.
                    yield [*part, {"begin": item.number, "member": printable(item.member)}]
                    part = []
                yield part
                part, size = [], 0
                continue
            if not isinstance(item, Document):
                part.append(_reject(item.member, item.reason, item.detail))
                continue
            for entry in _documents(item, work, count):
                if entry["first"] and not entry["passages"]:
                    # Otherwise it would be neither a passage nor a reject.
                    trimmed = bool(entry["edits"])
                    why = "all its text was taken out" if trimmed else "no text below its headings"
                    part.append(_reject(item.member, "empty", why))
                    if not trimmed:
                        continue
                part.append(entry)
                size += sum(len(passage["text"]) for passage in entry["passages"])
                if size > _PART:
                    yield part
                    part, size = [], 0
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  any parser error; what was read is kept
        problem = explain(error)
        part.append(_reject("", problem.reason, problem.detail))
    yield part


def _reject(member: str, reason: str, detail: str) -> dict[str, Any]:
    return {"member": printable(member), "reason": reason, "detail": printable(detail)}


def _documents(document: Document, work: Work, count: TokenCounter) -> Iterator[dict[str, Any]]:
    """Yield a document's entry; a very long document has several."""
    masked: dict[str, int] = {}
    if work.mask:
        document, masked = _mask_document(document)
    text = document.text
    document, edits = trimming.trim(document, work.trim)
    entry: dict[str, Any] = {
        "member": printable(document.member),
        "format": document.format,
        "encoding": document.encoding,
        "masked": masked,
        "left_out": dict(document.left_out),
        "edits": [
            (edit.kind, edit.start, edit.end, "" if edit.instead else text[edit.start : edit.end])
            for edit in edits
        ]
        + [(apparatus.CLAUSE, 0, 0, "")] * document.joined,
        "first": True,
        "passages": [],
    }
    size = 0
    sections = heading_paths(document.headings) if work.lines else []
    shifts = trimming.Shifts(edits)
    for passage in cut(document, count, work.budget, work.least):
        values = judge_passage(passage, work)
        if edits:
            values["shifts"] = shifts.of(passage.start, passage.end)
        if work.lines:
            values["lines"] = boilerplate.find_lines(document, passage.start, passage.end)
            values["places"] = (
                find_places(document, sections, passage.start, passage.end)
                if values["lines"]
                else []
            )
        entry["passages"].append(values)
        size += len(passage.text)
        if size > _PART:
            yield entry
            later = {"masked": {}, "left_out": {}, "edits": [], "first": False, "passages": []}
            entry, size = entry | later, 0
    yield entry


def judge_passage(passage: Passage, work: Work) -> dict[str, Any]:
    """Return a passage's values, why it is not kept (``reason``; empty: it is kept), and the keys
    of duplicates.
    """
    values = asdict(passage)
    values["reason"], values["detail"] = _find_fault(passage, work)
    values["same"] = hashlib.sha256(cleaning.normalise(passage.text).encode()).hexdigest()[:32]
    if work.near_duplicates and not values["reason"]:
        values["signature"] = cleaning.make_signature(passage.text).hex()
    return values


def _find_fault(passage: Passage, work: Work) -> tuple[str, str]:
    """Return why a passage is not kept, and the detail; two empty strings if it is kept."""
    if passage.tokens > work.budget:
        return "too_long", f"{passage.tokens} tokens and no place to cut"
    if passage.tokens < work.least:
        return "too_short", f"{passage.tokens} tokens, the least is {work.least}"
    if work.languages and (code := cleaning.detect_language(passage.text)) not in work.languages:
        return "language", f"{code}, wanted: {', '.join(work.languages)}"
    return "", ""


def shorten_passage(
    values: dict[str, Any], start: int, end: int, work: Work, count: TokenCounter
) -> dict[str, Any]:
    """Return the values of a passage cut down to ``start:end`` (characters of the document)."""
    text = values["text"][start - values["start"] : end - values["start"]]
    page, section = values["page"], values["section"]
    for place, next_page, next_section in values["places"]:
        if place <= start:
            page, section = next_page, next_section
    return judge_passage(Passage(text, start, end, count([text])[0], page, section), work)


def _mask_document(document: Document) -> tuple[Document, dict[str, int]]:
    """Mask the text between the edges of headings and pages piece by piece, so that their offsets
    can be moved.
    """
    edges = sorted(
        {
            0,
            len(document.text),
            *document.pages,
            *(edge for heading in document.headings for edge in (heading.start, heading.end)),
            *(edge for mark in document.marks for edge in mark[:2]),
        }
    )
    moved: dict[int, int] = {}
    parts: list[str] = []
    length = 0
    total: Counter[str] = Counter()
    for start, end in zip(edges, [*edges[1:], len(document.text)], strict=False):
        moved[start] = length
        text, counts = cleaning.mask(document.text[start:end])
        parts.append(text)
        length += len(text)
        total.update(counts)
    headings = tuple(
        replace(
            heading,
            start=moved[heading.start],
            end=moved[heading.end],
            title=cleaning.mask(heading.title)[0],
        )
        for heading in document.headings
    )
    return replace(
        document,
        text="".join(parts),
        headings=headings,
        pages=tuple(moved[page] for page in document.pages),
        marks=tuple((moved[start], moved[end], kind) for start, end, kind in document.marks),
    ), dict(total)
