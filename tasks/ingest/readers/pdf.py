"""PDF through pdfium: reads lines, which ``page`` orders and ``paragraphs`` joins."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.ingest.readers import ocr
from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.document import (
    Alive,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    explain,
)
from tasks.ingest.readers.page import (
    Line,
    PdfPage,
    join_numbers,
    join_rows,
    order_columns,
    remove_furniture,
)
from tasks.ingest.readers.paragraphs import SOFT_HYPHEN, build_document

#: A gap in a line, in letter heights, that divides columns or cells.
_GAP = 1.1
_LIGATURE = re.compile("[\ufb00-\ufb06]")
#: Some writers map the ligature ff to an arrow.
_ARROW = re.compile(r"(?<=[^\W\d_])\u21b5(?=[^\W\d_])")
_UNREADABLE = re.compile("[\ufffd\ue000-\uf8ff]")


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document, and a reject for its pages that are images without text, for
    those that are broken, and for those that could not be recognised.
    """
    pages: list[PdfPage] = []
    recognised: dict[int, list[str]] = {}
    broken: dict[int, str] = {}
    failed: dict[int, str] = {}
    for number, page, handle in _pages(path, options.clause_numbers):
        if isinstance(page, str):
            broken[number] = page
            pages.append(PdfPage((), 0.0, False))  # keeps the numbers of the others
            continue
        pages.append(page)
        if options.ocr and page.images:
            try:
                recognised[number] = ocr.paragraphs(handle, options.ocr)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  the page cannot be drawn, or not recognised
                failed[number] = explain(error).detail
            yield Alive()
    text = "".join(line.text for page in pages for line in page.lines)
    if not text.strip() and not any(recognised.values()):
        raise _explain_no_text(len(pages), broken, failed, is_asked=bool(options.ocr))
    if len(_UNREADABLE.findall(text)) > 0.1 * len(text):
        raise Unreadable(
            "unknown_encoding",
            "its fonts do not say which characters they show: recognise it again (OCR)",
        )
    cleaned = remove_furniture(pages)
    left_out = sum(len(page.lines) for page in pages) - sum(len(page.lines) for page in cleaned)
    document = build_document(cleaned, recognised)
    yield replace(
        document,
        left_out=(("running_head", left_out),) if left_out else (),
        joined=sum(page.joined for page in pages),
    )
    blank = [
        number
        for number, page in enumerate(pages, 1)
        if page.images and not recognised.get(number) and number not in failed
    ]
    if broken:
        detail = f"pages that cannot be read: {_list(broken)} ({next(iter(broken.values()))})"
        yield Reject("", "damaged", detail)
    if failed:
        why = next(iter(failed.values()))
        yield Reject("", "ocr_failed", f"pages that were not recognised: {_list(failed)} ({why})")
    if blank:
        yield Reject("", "no_text_layer", f"pages without text: {_list(blank)}")


def _explain_no_text(
    count: int, broken: dict[int, str], failed: dict[int, str], is_asked: bool
) -> Unreadable:
    """Return why no page has text; ``is_asked``: tesseract was asked for it."""
    if broken:
        return Unreadable("damaged", f"a page cannot be read: {next(iter(broken.values()))}")
    if failed:
        number, why = next(iter(failed.items()))
        return Unreadable("ocr_failed", f"page {number}: {why}")
    hint = (
        "tesseract found no text either"
        if is_asked
        else "set ingest.ocr, or recognise it first (such as with ocrmypdf)"
    )
    return Unreadable("no_text_layer", f"{count} pages of images without text: {hint}")


def _list(numbers: Iterable[int]) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown[:20]) + (" ..." if len(shown) > 20 else "")


def _pages(path: Path, numbers: bool) -> Iterator[tuple[int, PdfPage | str, Any]]:
    """Yield number, lines (or why there are none) and pdfium's page, which is closed before the
    next one.
    """
    import pypdfium2

    try:
        file = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower() or "security" in str(error).lower():
            raise Unreadable("encrypted", "a password protects it: save it without one") from error
        raise Unreadable("damaged", f"not readable as PDF: {error}") from error
    with file:
        for number in range(len(file)):
            try:
                handle = file[number]
                page: PdfPage | str = _page(handle, numbers)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  whatever a broken page raises costs the page
                is_known = isinstance(error, pypdfium2.PdfiumError)
                yield number + 1, str(error) if is_known else explain(error).detail, None
                continue
            yield number + 1, page, handle
            handle.close()


def _page(page: Any, numbers: bool) -> PdfPage:
    import pypdfium2.raw as pdfium

    text = page.get_textpage()
    try:
        lines = _keep_upright(list(_lines(text)))
        single = join_numbers(lines) if numbers else lines
        joined = len(lines) - len(single)
        lines = join_rows(order_columns(single))
        images = not lines and any(
            True for _ in page.get_objects(filter=[pdfium.FPDF_PAGEOBJ_IMAGE], max_depth=3)
        )
        return PdfPage(tuple(lines), page.get_height(), images, joined)
    finally:
        text.close()


def _lines(text: Any) -> Iterator[Line]:
    """Yield pdfium's lines, which end where the writing position jumps, divided at wide gaps."""
    import pypdfium2.raw as pdfium

    run: list[tuple[int, str]] = []
    total = text.count_chars()
    for place in range(total + 1):
        character = chr(pdfium.FPDFText_GetUnicode(text.raw, place)) if place < total else "\n"
        if character not in "\r\n":
            run.append((place, character))
        elif run:
            yield from _split_run(text, run)
            run = []


def _split_run(text: Any, run: list[tuple[int, str]]) -> Iterator[Line]:
    """Yield a run of characters as lines, divided at gaps between columns or cells."""
    begin = 0
    for place in range(1, len(run) - 1):
        if run[place][1].isspace() and not run[place - 1][1].isspace():
            after = next(
                (later for later in range(place + 1, len(run)) if not run[later][1].isspace()), 0
            )
            if after and _gap(text, run[place - 1][0], run[after][0]):
                yield from _line(text, run[begin:place])
                begin = after
    yield from _line(text, run[begin:])


def _gap(text: Any, left: int, right: int) -> bool:
    before, after = text.get_charbox(left, loose=True), text.get_charbox(right, loose=True)
    size = max(before[3] - before[1], 1.0)
    return after[0] - before[2] > _GAP * size and min(before[3], after[3]) > max(
        before[1], after[1]
    )


def _line(text: Any, run: list[tuple[int, str]]) -> Iterator[Line]:
    places = [place for place, character in run if not character.isspace()]
    if places:
        first, last = (
            text.get_charbox(places[0], loose=True),
            text.get_charbox(places[-1], loose=True),
        )
        size, upright = _font(text, places[len(places) // 2])
        characters = _clean("".join(character for _, character in run))
        yield Line(
            characters,
            first[0],
            last[2],
            min(first[1], last[1]),
            max(first[3], last[3]),
            size,
            upright,
            first[1],
        )


def _font(text: Any, place: int) -> tuple[float, bool]:
    """Return a character's size on the page, its font's times the matrix's scale, and whether it is
    upright.
    """
    import pypdfium2.raw as pdfium

    matrix = pdfium.FS_MATRIX()
    size = float(pdfium.FPDFText_GetFontSize(text.raw, place))
    if not pdfium.FPDFText_GetMatrix(text.raw, place, matrix):
        return max(size, 1.0), True
    # Some writers leave the font at size 1 and put the size into the matrix.
    return max(size * math.hypot(matrix.c, matrix.d), 1.0), abs(matrix.b) <= abs(matrix.a)


def _keep_upright(lines: list[Line]) -> list[Line]:
    """Remove sideways lines, such as a stamp in the margin, from an upright page."""
    upright = [line for line in lines if line.upright]
    return upright if 2 * len(upright) >= len(lines) else lines


def _clean(line: str) -> str:
    line = (
        _LIGATURE.sub(lambda match: unicodedata.normalize("NFKC", match[0]), _ARROW.sub("ff", line))
        .replace("\u00ad", SOFT_HYPHEN)
        .replace("\x02", SOFT_HYPHEN)
    )
    return " ".join(tidy(line).split())
