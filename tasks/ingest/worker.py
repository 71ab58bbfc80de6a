"""One file in a worker process: read it, mask it, cut it into passages, check each passage.

The results are plain values, which are sent and kept as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.languages import detect_language
from tasks.ingest import apparatus, boilerplate, cleaning, personal_data, trimming
from tasks.ingest.passages import Passage, TokenCounter, cut, find_places, heading_paths
from tasks.ingest.readers import detect
from tasks.ingest.readers.document import (
    Alive,
    Begin,
    Document,
    ReadOptions,
    Reject,
    printable,
    spare,
)

#: Characters of text in one part of a file's result: parts bound the memory.
_PART = 1 << 20


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


def format_reject(reason: str, detail: str, member: str = "") -> str:
    """Return the result of a file, or of a member of it, that could not be read."""
    return json.dumps([_reject(member, reason, detail)])


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
    lost: list[Reject] = []
    with spare(lost, ""):  # what was read is kept
        for item in _read_items(path, work, count):
            if isinstance(item, Begin):
                # The pool sends a part when the next one comes: all before it is safe.
                yield [*part, {"begin": item.number, "member": printable(item.member)}]
                part = []
            if isinstance(item, Alive | Begin):
                yield part
                part, size = [], 0
                continue
            part.append(item)
            size += sum(len(passage["text"]) for passage in item.get("passages", ()))
            if size > _PART:
                yield part
                part, size = [], 0
    yield part + [_explain(item, work) for item in lost]


def _read_items(
    path: Path, work: Work, count: TokenCounter
) -> Iterator[dict[str, Any] | Alive | Begin]:
    """Yield the documents (with passages) and rejects of a file, and its reader's signs."""
    for item in detect.read(path, work.options):
        if isinstance(item, Alive | Begin):
            yield item
        elif isinstance(item, Document):
            yield from _with_reject(item, _documents(item, work, count))
        else:
            yield _explain(item, work)


def _with_reject(document: Document, entries: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a document; where it has no passage, a reject that says why."""
    for entry in entries:
        is_empty = entry["first"] and not entry["passages"]
        if is_empty:
            why = "all its text was taken out" if entry["edits"] else "no text below its headings"
            yield _reject(document.member, "empty", why)
        if entry["edits"] or not is_empty:
            yield entry


def _explain(item: Reject, work: Work) -> dict[str, Any]:
    """Return the entry of a reader's reject, whose detail may quote the file."""
    detail = personal_data.mask(item.detail)[0] if work.mask else item.detail
    return _reject(item.member, item.reason, detail)


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
            place = passage.start, passage.end
            values["lines"] = boilerplate.find_lines(document, *place)
            values["places"] = find_places(document, sections, *place) if values["lines"] else []
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
    if work.languages and (code := detect_language(passage.text)) not in work.languages:
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
        text, counts = personal_data.mask(document.text[start:end])
        parts.append(text)
        length += len(text)
        total.update(counts)
    headings = tuple(
        replace(
            heading,
            start=moved[heading.start],
            end=moved[heading.end],
            title=personal_data.mask(heading.title)[0],
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
