"""Markdown: the source is kept as it is written, so that spans lead to it; headings and front
matter are found in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Document, Heading, Item, Options

_FRONT = re.compile(r"\A---[ \t]*\n(.*?\n)?---[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.+?)[\"']?[ \t]*$", re.MULTILINE)
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+(.+?)[ \t#]*$")
_SETEXT = re.compile(r"^ {0,3}(=+|-{2,})[ \t]*$")


def read(path: Path, options: Options) -> Iterator[Item]:
    """Yield the file as one document."""
    text, encoding = decode(path.read_bytes())
    yield Document(text, "markdown", headings=headings(text), encoding=encoding)


def headings(text: str) -> tuple[Heading, ...]:
    """Return the headings of Markdown source, those inside fenced code left out.

    Front matter counts as a heading with its title, so that it starts no passage.
    """
    found = list(_front_matter(text))
    offset = found[0].end if found else 0
    fence = ""
    paragraph: list[tuple[int, str]] = []
    for line in text[offset:].splitlines(keepends=True):
        bare = line.rstrip()
        marker, atx, under = _FENCE.match(bare), _ATX.match(bare), _SETEXT.match(bare)
        if fence or marker:
            # A fence closes at a marker of its own kind that is at least as long.
            fence = (
                (marker[1] if marker else "")
                if not fence
                else ""
                if marker and marker[1].startswith(fence)
                else fence
            )
            paragraph = []
        elif atx:
            found.append(Heading(offset, offset + len(bare), len(atx[1]), atx[2]))
            paragraph = []
        elif under and len(paragraph) == 1:
            # Only a paragraph of one line becomes a heading by an underline: below longer ones it
            # is far more often a rule.
            start, title = paragraph[0]
            found.append(
                Heading(start, offset + len(bare), 1 if under[1][0] == "=" else 2, title.strip())
            )
            paragraph = []
        else:
            paragraph = [*paragraph, (offset, bare)] if bare else []
        offset += len(line)
    return tuple(found)


def _front_matter(text: str) -> Iterator[Heading]:
    if match := _FRONT.match(text):
        title = _TITLE.search(match[0])
        yield Heading(0, match.end(), 1, title[1] if title else "")
