"""PowerPoint files: a section a slide with its title, text, tables and diagrams, then its notes;
without hidden slides, comments, footers and charts.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.ingest.readers.document import (
    Builder,
    ReaderItem,
    ReadOptions,
    Reject,
    Unreadable,
    spare,
)
from tasks.ingest.readers.office import (
    FALLBACK,
    A,
    R,
    Relation,
    find_main_part,
    open_package,
    parse_part,
    read_relations,
    refuse_long,
    table_lines,
    text_of,
)

_P = "{http://schemas.openxmlformats.org/presentationml/2006/main}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_CHART = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_TITLES, _FURNITURE = ("title", "ctrTitle"), ("dt", "ftr", "hdr", "sldNum")
#: Kinds of a diagram's points that hold no text of their own: copies of others, and lines.
_NO_TEXT = ("pres", "parTrans", "sibTrans")


@dataclass
class _Slide:
    """What is on a slide, or on the page of its notes, in the order of its shapes."""

    archive: zipfile.ZipFile
    relations: dict[str, Relation]
    builder: Builder
    #: Its place in the file, and what of it cannot be read.
    member: str
    rejects: list[Reject]
    title: str = ""
    body: list[str] = field(default_factory=list)

    def add_shapes(self, parent: Any) -> None:
        for shape in parent:
            if shape.tag == f"{_P}sp":
                self._add_text(shape)
            elif shape.tag == f"{_P}graphicFrame":
                self._add_frame(shape)
            elif shape.tag != FALLBACK:  # a group, or what only newer programs know
                self.add_shapes(shape)

    def _add_text(self, shape: Any) -> None:
        place = shape.find(f"{_P}nvSpPr/{_P}nvPr/{_P}ph")
        kind = place.get("type", "") if place is not None else ""
        text = "\n".join(_lines(shape.find(f"{_P}txBody")))
        if kind in _FURNITURE:
            self.builder.left_out["running_head"] += bool(text)
        elif kind in _TITLES and not self.title:
            self.title = text
        else:
            self.body.append(text)

    def _add_frame(self, frame: Any) -> None:
        for table in frame.iter(f"{A}tbl"):
            self.body.append("\n".join(table_lines(table, A)))
        for diagram in frame.iter(f"{_DIAGRAM}relIds"):
            data = self.relations.get(diagram.get(f"{R}dm"))
            with spare(self.rejects, f"{self.member} diagram"):
                points = parse_part(self.archive, data.target).iter(f"{_DIAGRAM}pt") if data else ()
                texts = (
                    line
                    for point in points
                    if point.get("type") not in _NO_TEXT
                    for line in _lines(point.find(f"{_DIAGRAM}t"))
                )
                self.body.append("\n".join(texts))
        self.builder.left_out["chart"] += sum(1 for _ in frame.iter(f"{_CHART}chart"))


def read(path: Path, options: ReadOptions) -> Iterator[ReaderItem]:
    """Yield the file as one document, and a reject for each slide, or part of one, that cannot be
    read. A page is a slide; a hidden or broken one has a number, too.

    Raises :class:`Unreadable` where no slide can be read.
    """
    builder = Builder()
    rejects: list[Reject] = []
    unread = 0
    with open_package(path, options, "a PowerPoint file") as archive:
        slides = _slides(archive)
        for number, name in enumerate(slides, 1):
            builder.page()
            broken: list[Reject] = []
            with spare(broken, f"!slide {number}"):
                _add_slide(archive, name, number, builder, rejects)
            rejects += broken
            unread += len(broken)
            refuse_long(builder, options)
    if unread and unread == len(slides):
        raise Unreadable(rejects[0].reason, f"no slide can be read: {rejects[0].detail}")
    yield from rejects
    yield builder.document("pptx")


def _slides(archive: zipfile.ZipFile) -> list[str]:
    """Return the parts of the slides in their order, each once. A slide without a part has its id
    in place of a name, which no part has.
    """
    main = find_main_part(archive)
    relations = read_relations(archive, main)
    root = parse_part(archive, main)
    if root.tag != f"{_P}presentation":
        raise ValueError(f"{main} is no presentation")
    ids = [entry.get(f"{R}id", "") for entry in root.iterfind(f"{_P}sldIdLst/{_P}sldId")]
    return list(dict.fromkeys(relations[id].target if id in relations else id for id in ids))


def _add_slide(
    archive: zipfile.ZipFile, name: str, number: int, builder: Builder, rejects: list[Reject]
) -> None:
    root = parse_part(archive, name)
    if root.get("show") in ("0", "false"):
        builder.left_out["hidden_slide"] += 1
        return
    member = f"!slide {number}"
    relations: dict[str, Relation] = {}
    with spare(rejects, f"{member} relations"):
        relations = read_relations(archive, name)
    slide = _Slide(archive, relations, builder, member, rejects)
    slide.add_shapes(root.iterfind(f"{_P}cSld/{_P}spTree"))
    notes: list[str] = []
    for relation in relations.values():
        if relation.kind == "notesSlide":
            with spare(rejects, f"{member} notes"):
                notes += _notes(parse_part(archive, relation.target))
        elif relation.kind == "comments":
            with spare(rejects, f"{member} comments"):
                comments = parse_part(archive, relation.target)
                builder.left_out["comment"] += sum(1 for _ in comments.iter("{*}cm"))
    if slide.title or any(slide.body) or any(notes):
        # Without a heading of its own it would belong to the slide before it.
        builder.heading(1, slide.title or f"Slide {number}")
    for text in slide.body:
        builder.paragraph(text)
    if any(notes):
        builder.heading(2, "Notes")
        builder.paragraph("\n\n".join(notes))


def _notes(root: Any) -> Iterator[str]:
    """Yield the paragraphs of a slide's notes; beside them are a small slide and furniture."""
    for shape in root.iter(f"{_P}sp"):
        place = shape.find(f"{_P}nvSpPr/{_P}nvPr/{_P}ph")
        if place is not None and place.get("type") == "body":
            yield from _lines(shape.find(f"{_P}txBody"))


def _lines(text: Any) -> Iterator[str]:
    """Yield the paragraphs of a shape that are not blank."""
    for paragraph in () if text is None else text.iterfind(f"{A}p"):
        line = text_of(paragraph).strip()
        if line:
            yield line
