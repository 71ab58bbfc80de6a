"""Markdown: the text is the unchanged source, so that spans lead to it, with its headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

from markdown_it import MarkdownIt

from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Document, Heading, ReaderItem, ReadOptions

#: Keys with values between two rules; between others there is text.
_FRONT = re.compile(
    r"\A---[ \t]*\n(?:(?:[ \t]*(?:#[^\n]*)?\n)*[\"']?[\w.-]+[\"']?[ \t]*:(?=[ \t\n]).*?\n)?"
    r"---[ \t]*(?:\n|\Z)",
    re.DOTALL,
)
#: A block of code, its edges included; without an end it goes to the end of the text.
FENCED = r"^[ ]{0,3}(```|~~~)[^\n]*\n(?s:.*?)(?:^[ ]{0,3}\1|\Z)"
_FENCED = re.compile(FENCED, re.MULTILINE)
#: What is searched for comments: code hides the beginning of one.
_CODE_OR_COMMENT = re.compile(rf"{FENCED}|`[^`\n]+`|<!--", re.MULTILINE)
_TITLE = re.compile(r"^title:(.*)$", re.MULTILINE)
#: Without such a line there is no heading to parse: most rows of a table are plain text.
_LIKELY = re.compile(r"^ {0,3}(?:#{1,6}(?:[ \t]|$)|=+[ \t]*$|-+[ \t]*$)", re.MULTILINE)
#: CommonMark's blocks that can hold a heading or look like one; inline syntax is not parsed.
_PARSER = (
    MarkdownIt("zero")
    .enable(["blockquote", "code", "fence", "heading", "hr", "lheading", "list"])
    .disable("inline")
)


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document."""
    text, encoding = decode(path.read_bytes())
    marks = tuple(_find_comments(text))
    yield Document(text, "markdown", headings=find_headings(text), encoding=encoding, marks=marks)


def find_fences(document: Document) -> list[tuple[int, int]]:
    """Return the places of fenced code in a document's text, in order."""
    if document.format not in ("markdown", "notebook"):
        return []
    return [match.span() for match in _FENCED.finditer(document.text)]


def _find_comments(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the comments of HTML, which no page shows; an open one is none, nor is one in code."""
    position, last = 0, text.rfind("-->")
    while mark := _CODE_OR_COMMENT.search(text, position, last):
        position = mark.end()
        if mark[0] == "<!--":
            position = text.index("-->", position) + 3
            yield mark.start(), position, "comment"


def find_headings(text: str) -> tuple[Heading, ...]:
    """Return the headings of Markdown source, except those in code, quotations and lists.

    Front matter counts as a heading with its title, so that no passage starts with it.
    """
    headings = list(_front_matter(text))
    offset = headings[0].end if headings else 0
    if not _LIKELY.search(text, offset):
        return tuple(headings)
    lines = text[offset:].split("\n")
    starts = list(accumulate((len(line) + 1 for line in lines), initial=offset))
    for opening, inline in pairwise(_PARSER.parse(text[offset:])):
        if opening.type != "heading_open" or opening.level or not inline.content:
            continue
        first, end = opening.map or (0, 0)
        # An underline makes a heading of one line only: below longer paragraphs it is most often a
        # rule.
        if end - first <= 2:
            headings.append(
                Heading(
                    starts[first],
                    starts[end - 1] + len(lines[end - 1].rstrip()),
                    int(opening.tag[1]),
                    inline.content,
                )
            )
    return tuple(headings)


def _front_matter(text: str) -> Iterator[Heading]:
    if match := _FRONT.match(text):
        title = _TITLE.search(match[0])
        words = title[1].strip(" \t").strip("\"'") if title else ""
        yield Heading(0, match.end(), 1, words)
