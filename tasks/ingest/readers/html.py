"""HTML through trafilatura: the main text of a page without navigation, scripts and footers; tables
as lines of cells.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

from tasks.ingest.readers.decoding import decode, tidy
from tasks.ingest.readers.document import Builder, ReaderItem, ReadOptions, Unreadable

_DECLARED = re.compile(
    rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?([\w-]{3,20})", re.IGNORECASE
)
_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
#: A main part with less than this share of the page's text is too small: short pages have no main
#: part.
_LEAST_SHARE = 0.2
#: Characters up to which a page's headings are a better guide than its main part.
_SHORT = 1500
_FURNITURE = (
    "//script|//style|//noscript|//template|//nav|//svg|//iframe|//select|//button|//head"
    "|//body/header|//body/footer|//*[@aria-hidden='true' or @hidden]"
)
#: The part of it that is text: what of a page is left out is counted by these.
_SHOWN_FURNITURE = "//nav|//body/header|//body/footer|//*[@aria-hidden='true' or @hidden]"
#: Tags of blocks, in HTML and in trafilatura's output. All others are inline.
_BLOCKS = re.compile(
    "address|article|aside|blockquote|body|center|dd|details|div|dl|dt|fieldset|figcaption|figure"
    "|footer|form|h[1-6r]|header|html|li|main|ol|p|pre|section|summary"
    "|table|tbody|td|tfoot|th|thead|tr|ul|doc|head|list|item|quote|row|cell"
)
#: Class names of the boxes of facts and of links that wikis put beside and below their text.
_INFOBOX = re.compile(
    r"(?:^|\s)(?:infobox(?:_v\d)?|sidebar|vertical-navbox|navbox|taxobox)(?:\s|$)"
)
_LISTS = ("ul", "ol", "list")
_BREAK = "\u2028"
#: Bytes of one text that libxml2 takes.
_LONGEST_TEXT = 10_000_000
#: A picture or a font that is written into the page.
_EMBEDDED = re.compile(r"data:[\w.+/;=-]{0,100},[^\s\"'<>()]*", re.ASCII)


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the page as one document."""
    source, encoding = decode_page(path.read_bytes())
    builder = Builder()
    build(source, builder, infoboxes=options.infoboxes)
    yield builder.document("html", encoding)


def decode_page(data: bytes) -> tuple[str, str]:
    """Return a page's source and encoding: the declared one if it fits, else the detected one."""
    declared = _DECLARED.search(data[:4096])
    if declared:
        # Browsers read Latin-1 as Windows-1252, and so authors write it.
        name = declared[1].decode("ascii")
        encoding = name.lower()
        encoding = "cp1252" if encoding in ("iso-8859-1", "latin-1", "latin1") else encoding
        try:
            # What is declared in one byte a letter is not UTF-16, though its pairs may fit that.
            if declared[1].decode(encoding) == name:
                return tidy(data.decode(encoding)), encoding
        except (LookupError, UnicodeError):  # the codec "undefined" raises the latter
            pass
    return decode(data)


def build(source: str, builder: Builder, whole: bool = False, infoboxes: bool = False) -> None:
    """Add the blocks of a page's main part to ``builder``; with ``whole`` (chapters, messages) all
    but the furniture. With ``infoboxes`` those come last, marked.

    ``builder.left_out`` counts what is left out: navigation, and blocks outside the main part.
    """
    import trafilatura

    # What follows a longer text would be left out without a word.
    if _has_long_text(source):
        source = _EMBEDDED.sub("data:,", source)
    if _has_long_text(source):
        raise Unreadable("too_large", "10 million bytes of text without a tag: split it")
    source = _DECLARATION.sub("", source)
    page = trafilatura.load_html(source)
    if page is None:  # it takes a fragment without <html> for no page
        page = trafilatura.load_html(f"<html><body>{source}")
    if page is None:
        raise Unreadable("damaged", "not readable as HTML")
    boxes = _take_infoboxes(page) if infoboxes else []
    builder.left_out["navigation"] += _count_furniture(page)
    blocks = list(_blocks(_remove_furniture(page)))
    main = [] if whole else _main(page)
    if (
        main
        and _length(main) >= _LEAST_SHARE * _length(blocks)
        and not _lost_headings(main, blocks)
    ):
        shown = " ".join(" ".join(text.split()) for _, text in main)
        builder.left_out["outside_main_part"] += sum(
            " ".join(text.split()) not in shown for _, text in blocks
        )
        blocks = main
    for level, text in blocks:
        if level:
            builder.heading(level, text)
        else:
            builder.paragraph(text)
    for text in boxes:
        builder.marked(text, "infobox")


def _has_long_text(source: str) -> bool:
    return any(len(text.encode()) >= _LONGEST_TEXT for text in source.split("<"))


def _take_infoboxes(page: Any) -> list[str]:
    """Remove the infoboxes from ``page``, and return their texts."""
    found = [
        box
        for box in page.xpath("//table[@class]|//div[@class]|//aside[@class]")
        if _INFOBOX.search(box.get("class"))
    ]
    texts = []
    for box in _outermost(found):
        text = "\n".join(text for _, text in _block(_remove_furniture(box)) if text)
        box.drop_tree()
        if text:
            texts.append(text)
    return texts


def _count_furniture(page: Any) -> int:
    """Return how many elements with text are left out as furniture."""
    found = _outermost(page.xpath(_SHOWN_FURNITURE))
    return sum(bool("".join(element.itertext()).strip()) for element in found)


def _outermost(elements: list[Any]) -> list[Any]:
    """Return the elements that lie in no other of them."""
    inner = {below for element in elements for below in element.iterdescendants()}
    return [element for element in elements if element not in inner]


def _main(page: Any) -> list[tuple[int, str]]:
    """Return the blocks of a page's main part."""
    import trafilatura

    extracted = trafilatura.bare_extraction(
        page,
        include_tables=True,
        include_comments=False,
        include_formatting=True,
        favor_recall=True,
        with_metadata=False,
    )
    body = getattr(extracted, "body", None)
    return [] if body is None else list(_blocks(body))


def _remove_furniture(page: Any) -> Any:
    page = deepcopy(page)
    for element in page.xpath(_FURNITURE):
        if element.getparent() is not None:
            element.drop_tree()
    return page


def _length(blocks: list[tuple[int, str]]) -> int:
    return sum(len(text) for _, text in blocks)


def _lost_headings(main: list[tuple[int, str]], blocks: list[tuple[int, str]]) -> bool:
    """Tell whether a short page's main part lacks headings of the page: trafilatura joins blocks
    where there are few.
    """
    kept = {text for level, text in main if level}
    return _length(blocks) < _SHORT and any(level and text not in kept for level, text in blocks)


def _blocks(node: Any) -> Iterator[tuple[int, str]]:
    """Yield (heading level, 0 for a paragraph; text) of everything below ``node``."""
    run = [node.text or ""]
    for child in node:
        if isinstance(child.tag, str):
            if _is_block(child):
                yield 0, _squeeze(run)
                run = []
                yield from _block(child)
            else:
                run.append(_inline(child))
        run.append(child.tail or "")
    yield 0, _squeeze(run)


def _block(node: Any) -> Iterator[tuple[int, str]]:
    level = _heading_level(node)
    if level:
        yield level, _squeeze([_inline(node)])
    elif node.tag == "table":
        yield from _table(node)
    elif node.tag in _LISTS:
        yield 0, "\n".join(_list(node))
    elif node.tag == "pre":
        yield 0, "".join(node.itertext()).strip("\n")
    else:
        yield from _blocks(node)


def _heading_level(node: Any) -> int:
    # trafilatura writes <head rend="h2"> for <h2>.
    name = node.get("rend") or "" if node.tag == "head" else node.tag
    return int(name[1]) if re.fullmatch("h[1-6]", name) else 0


def _is_block(node: Any) -> bool:
    return any(isinstance(inner.tag, str) and _BLOCKS.fullmatch(inner.tag) for inner in node.iter())


def _inline(node: Any) -> str:
    """Return the text of an inline element, with marked line breaks."""
    if node.tag in ("br", "lb"):
        return _BREAK
    parts = [node.text or ""]
    for child in node:
        parts += [_inline(child) if isinstance(child.tag, str) else "", child.tail or ""]
    return "".join(parts)


def _squeeze(parts: list[str]) -> str:
    """Join parts: line ends of the source are spaces, marked breaks are line ends."""
    return "\n".join(
        line for line in (" ".join(part.split()) for part in "".join(parts).split(_BREAK)) if line
    )


def _table(node: Any) -> Iterator[tuple[int, str]]:
    """Yield a table's caption, and the table as one line a row, its cells divided by " | ", empty
    cells left out. A row with a table in it lays out the page: its cells are other blocks.
    """
    yield from ((0, _squeeze([_inline(caption)])) for caption in node.iterchildren("caption"))
    lines: list[str] = []
    for row in node.iter("tr", "row"):
        if next(row.iterancestors("table")) is not node:
            continue
        if row.find(".//table") is not None:
            yield 0, "\n".join(lines)
            lines = []
            yield from _blocks(row)
            continue
        cells = (
            " ".join(" ".join(cell.itertext()).split()) for cell in row if isinstance(cell.tag, str)
        )
        if line := " | ".join(cell for cell in cells if cell):
            lines.append(line)
    yield 0, "\n".join(lines)


def _list(node: Any, indent: str = "") -> Iterator[str]:
    """Yield a list's items as lines, with nested lists indented."""
    for item in node:
        if not isinstance(item.tag, str):
            continue
        parts, inner = [item.text or ""], []
        for child in item:
            if child.tag in _LISTS:
                inner.append(child)
            elif isinstance(child.tag, str):
                parts.append(_inline(child))
            parts.append(child.tail or "")
        text = " ".join("".join(parts).replace(_BREAK, " ").split())
        if text:
            yield f"{indent}- {text}"
        for child in inner:
            yield from _list(child, indent + "  ")
