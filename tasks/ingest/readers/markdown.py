"""Markdown: the source is kept as it is written, so that spans lead to it; headings and front
matter are found in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Document, Heading, ReaderItem, ReadOptions

_FRONT = re.compile(r"\A---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
#: Without such a line there is no heading, and nothing to parse: most rows of a table are plain
#: text.
_LIKELY = re.compile(r"^ {0,3}(?:#{1,6}(?:[ \t]|$)|=+[ \t]*$|-+[ \t]*$)", re.MULTILINE)
#: CommonMark's blocks that a heading can stand in or be mistaken for; what is inside a line is not
#: parsed.
_PARSER = (
    MarkdownIt("zero")
    .enable(["blockquote", "code", "fence", "heading", "hr", "lheading", "list"])
    .disable("inline")
)


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document."""
    text, encoding = decode(path.read_bytes())
    yield Document(text, "markdown", headings=find_headings(text), encoding=encoding)


def find_headings(text: str) -> tuple[Heading, ...]:
    """Return the headings of Markdown source, those inside code, quotations and lists left out.

    Front matter counts as a heading with its title, so that it starts no passage.
    """
    found = list(_front_matter(text))
    offset = found[0].end if found else 0
    if not _LIKELY.search(text, offset):
        return tuple(found)
    lines = text[offset:].split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=offset))
    for opening, inline in pairwise(_PARSER.parse(text[offset:])):
        if opening.type != "heading_open" or opening.level or not inline.content:
            continue
        first, end = opening.map or (0, 0)
        # Only a paragraph of one line becomes a heading by an underline: below longer ones it is
        # far more often a rule.
        if end - first <= 2:
            found.append(
                Heading(
                    starts[first],
                    starts[end - 1] + len(lines[end - 1].rstrip()),
                    int(opening.tag[1]),
                    inline.content,
                )
            )
    return tuple(found)


def _front_matter(text: str) -> Iterator[Heading]:
    if match := _FRONT.match(text):
        title = _TITLE.search(match[0])
        yield Heading(0, match.end(), 1, title[1] if title else "")
