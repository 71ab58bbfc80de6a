"""What happens to one file, in a process of its own: read, mask, cut, measure.

Yields plain values that travel and are kept as JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter as Totals
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tasks.core.pool import Limits, Pool, ResultPart
from tasks.ingest import boilerplate, cleaning
from tasks.ingest.passages import Counter, Passage, cut, heading_paths, places
from tasks.ingest.readers import detect as formats
from tasks.ingest.readers.document import Alive, Document, Options, Unreadable

#: Characters of text in one part of a file's result: what is held, sent and kept at a time.
_PART = 1 << 20


@dataclass(frozen=True)
class Work:
    """Everything a file's result depends on besides the file.

    ``tokenizer`` is a tokenizers JSON; empty counts words.
    """

    tokenizer: str
    options: Options
    budget: int
    least: int
    near_duplicates: bool = False
    languages: tuple[str, ...] = ()
    mask: bool = False
    #: Whether lines are noted for counting (``tasks.ingest.boilerplate``).
    lines: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values, for the key of a result."""
        return asdict(self)


def read_files(
    jobs: Iterable[tuple[str, Path]], work: Work, workers: int, limits: Limits
) -> Iterator[ResultPart]:
    """Read the files of ``jobs`` (key, path) in processes of their own, and yield their results'
    parts as JSON text, as :meth:`Pool.run` does; the last part of a file that failed is its reject.
    """
    with Pool(_start, (work,), workers, limits) as pool:
        for result in pool.run(jobs):
            yield replace(result, value=_reject_failed(result)) if result.failure else result


def _start(work: Work) -> Callable[[Path], Iterator[str]]:
    count = counter(work.tokenizer)
    return lambda path: (json.dumps(part, ensure_ascii=True) for part in process(path, work, count))


def _reject_failed(result: ResultPart) -> str:
    if result.failure == "error":
        return reject("damaged", result.detail)
    if result.failure == "crashed":
        return reject("crashed", f"the process that read it died: {result.detail}")
    return reject(result.failure, result.detail)


def reject(reason: str, detail: str) -> str:
    """Return the whole result of a file that could not be read."""
    return json.dumps([{"member": "", "reason": reason, "detail": detail}])


def counter(tokenizer: str) -> Counter:
    """Return who counts tokens: a tokenizer given as tokenizers JSON, or words where it is
    empty.
    """
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


def process(path: Path, work: Work, count: Counter) -> Iterator[list[dict[str, Any]]]:
    """Yield the result of a file in parts: lists of documents (with passages) and rejects.

    A file that cannot be read is one reject.
    """
    part: list[dict[str, Any]] = []
    size = 0
    try:
        for item in formats.read(path, work.options):
            if isinstance(item, Alive):
                yield part
                part, size = [], 0
                continue
            if not isinstance(item, Document):
                part.append({"member": item.member, "reason": item.reason, "detail": item.detail})
                continue
            for entry in _documents(item, work, count):
                part.append(entry)
                size += sum(len(passage["text"]) for passage in entry["passages"])
                if size > _PART:
                    yield part
                    part, size = [], 0
    except Unreadable as problem:
        part.append({"member": "", "reason": problem.reason, "detail": problem.detail})
    yield part


def _documents(document: Document, work: Work, count: Counter) -> Iterator[dict[str, Any]]:
    """Yield a document's entry, a very long one in several."""
    masked: dict[str, int] = {}
    if work.mask:
        document, masked = _masked(document)
    entry: dict[str, Any] = {
        "member": document.member,
        "format": document.format,
        "encoding": document.encoding,
        "masked": masked,
        "first": True,
        "passages": [],
    }
    size = 0
    sections = heading_paths(document.headings) if work.lines else []
    for passage in cut(document, count, work.budget, work.least):
        values = judged(passage, work)
        if work.lines:
            values["lines"] = boilerplate.lines(document, passage.start, passage.end)
            values["places"] = (
                places(document, sections, passage.start, passage.end) if values["lines"] else []
            )
        entry["passages"].append(values)
        size += len(passage.text)
        if size > _PART:
            yield entry
            entry, size = {**entry, "masked": {}, "first": False, "passages": []}, 0
    yield entry


def judged(passage: Passage, work: Work) -> dict[str, Any]:
    """Return a passage's values with why it is not kept (``reason`` empty: it is), and what
    duplicates are found by.
    """
    values = asdict(passage)
    values["reason"], values["detail"] = "", ""
    if passage.tokens > work.budget:
        values["reason"], values["detail"] = (
            "too_long",
            f"{passage.tokens} tokens and no place to cut",
        )
    elif passage.tokens < work.least:
        values["reason"], values["detail"] = (
            "too_short",
            f"{passage.tokens} tokens, the least is {work.least}",
        )
    elif work.languages and (found := cleaning.language(passage.text)) not in work.languages:
        values["reason"], values["detail"] = (
            "language",
            f"{found}, wanted: {', '.join(work.languages)}",
        )
    values["same"] = hashlib.sha256(cleaning.normalised(passage.text).encode()).hexdigest()[:32]
    if work.near_duplicates and not values["reason"]:
        values["signature"] = cleaning.signature(passage.text).hex()
    return values


def shortened(
    values: dict[str, Any], start: int, end: int, work: Work, count: Counter
) -> dict[str, Any]:
    """Return the values of the part of a passage that is left at ``start:end`` (characters of the
    document), counted and judged anew.
    """
    text = values["text"][start - values["start"] : end - values["start"]]
    page, section = values["page"], values["section"]
    for place, its_page, its_section in values["places"]:
        if place <= start:
            page, section = its_page, its_section
    return judged(Passage(text, start, end, count([text])[0], page, section), work)


def _masked(document: Document) -> tuple[Document, dict[str, int]]:
    """Mask each stretch between headings and pages on its own, so that their offsets can be moved
    along.
    """
    edges = sorted(
        {
            0,
            len(document.text),
            *document.pages,
            *(edge for heading in document.headings for edge in (heading.start, heading.end)),
        }
    )
    moved, parts, length = {}, [], 0
    total: Totals[str] = Totals()
    for start, end in zip(edges, [*edges[1:], len(document.text)], strict=False):
        moved[start] = length
        text, found = cleaning.masked(document.text[start:end])
        parts.append(text)
        length += len(text)
        total.update(found)
    headings = tuple(
        replace(
            heading,
            start=moved[heading.start],
            end=moved[heading.end],
            title=cleaning.masked(heading.title)[0],
        )
        for heading in document.headings
    )
    return replace(
        document,
        text="".join(parts),
        headings=headings,
        pages=tuple(moved[page] for page in document.pages),
    ), dict(total)
