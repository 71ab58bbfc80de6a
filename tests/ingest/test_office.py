"""Excel, PowerPoint and OpenDocument files: what is read, with its place; what is left out, and
counted; those that are broken, locked or out to hurt.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Sequence
from datetime import datetime
from datetime import time as clock
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable

STORY = "The pump was stopped at noon. Its bearing had run hot since Monday."
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
_BOMB = f'<!DOCTYPE x [<!ENTITY l0 "ha">{_LAUGHS}]>'


def read(path: Path, **options: Any) -> list[Document | Reject]:
    items = detect.read(path, ReadOptions(**options))
    return [item for item in items if isinstance(item, Document | Reject)]


def read_one(path: Path, **options: Any) -> Document:
    (document,) = read(path, **options)
    assert isinstance(document, Document)
    return document


def refusal(path: Path, **options: Any) -> Unreadable:
    with pytest.raises(Unreadable) as problem:
        read(path, **options)
    return problem.value


def zipped(path: Path, members: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def parts_of(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def relations(*entries: tuple[str, str]) -> str:
    """Return the XML of relations r1, r2, ... of (kind, target)."""
    lines = (
        f'<Relationship Id="r{number}" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        for number, (kind, target) in enumerate(entries, 1)
    )
    return f"<Relationships>{''.join(lines)}</Relationships>"


# --- workbooks


def book(path: Path, **sheets: Sequence[Sequence[Any]]) -> Path:
    file = openpyxl.Workbook()
    file.remove(file.active)
    for title, rows in sheets.items():
        sheet = file.create_sheet(title)
        for row in rows:
            sheet.append(row)
    file.save(path)
    return path


def sheet_xml(path: Path, rows: str, head: str = "", strings: str = "") -> Path:
    """Write a workbook whose one sheet has these rows, in XML, and declares a million."""
    parts = parts_of(book(path, Sheet=[["a"]]))
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    parts["xl/worksheets/sheet1.xml"] = (
        f'{head}<worksheet {space}><dimension ref="A1:XFD1048576"/><sheetData>{rows}</sheetData>'
        "</worksheet>"
    )
    if strings:
        parts["xl/sharedStrings.xml"] = f"<sst {space}><si><t>{strings}</t></si></sst>"
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
        parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(
            "</Types>",
            f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>',
        )
    return zipped(path, parts)


def text_cell(place: str, text: str = STORY) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def test_rows_of_a_sheet_are_those_of_a_csv_file(tmp_path: Path) -> None:
    rows = [["Pump", "Hours"], ["P-3", 410], [None, None], ["P-4\nnew", 7.5]]
    document = read_one(book(tmp_path / "a.xlsx", Costs=rows))
    (tmp_path / "a.csv").write_text('Pump,Hours\nP-3,410\n,\n"P-4\nnew",7.5\n')
    assert document.text == "Costs\n" + read_one(tmp_path / "a.csv").text
    assert document.text == "Costs\nPump: P-3 | Hours: 410\nPump: P-4 new | Hours: 7.5\n"
    assert (document.member, document.format) == ("!Costs", "xlsx")
    assert [heading.title for heading in document.headings] == ["Costs"]


def test_values_are_shown_as_excel_shows_them(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", S=[["Kind", "Value"]])
    file = openpyxl.load_workbook(path)
    shown = {
        "share": (0.07, "0.0%"),
        "literal": (3, '0"%"'),
        "sum": (0.1 + 0.2, "General"),
        "day": (datetime.fromisoformat("2024-03-01"), "dd/mm/yy"),
        "moment": (datetime.fromisoformat("2024-03-01 14:30"), "dd/mm/yy hh:mm"),
        "hour": (clock(3, 4), "hh:mm"),
        "truth": (True, "General"),
        "escaped": ("two_x000D_\nlines", "General"),
    }
    for name, (value, form) in shown.items():
        file.active.append([name, value])
        file.active.cell(file.active.max_row, 2).number_format = form
    file.save(path)
    lines = read_one(path).text.splitlines()[1:]
    assert [line.partition("Value: ")[2] for line in lines] == [
        "7%",
        "3",
        "0.3",
        "2024-03-01",
        "2024-03-01 14:30",
        "03:04:00",
        "TRUE",
        "two lines",
    ]


def test_titles_stand_above_the_header_and_columns_without_a_name_keep_their_letter(
    tmp_path: Path,
) -> None:
    rows = [["Budget"], [], ["Pump", "Cost", "Cost", None], ["P-3", 1, 2, "spare"]]
    assert read_one(book(tmp_path / "a.xlsx", S=rows)).text == (
        "S\nBudget\nPump: P-3 | Cost (B): 1 | Cost (C): 2 | column D: spare\n"
    )
    (tmp_path / "a.xlsx").unlink()
    assert read_one(book(tmp_path / "a.xlsx", S=[[1, 2], [3, 4]])).text == "S\n1 | 2\n3 | 4\n"
    (tmp_path / "a.xlsx").unlink()
    lines = [[f"Line {number}"] for number in range(50)]
    text = read_one(book(tmp_path / "a.xlsx", S=lines)).text
    assert text.splitlines() == ["S", *(line for (line,) in lines)]


def test_a_column_of_texts_gives_a_document_a_row(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", S=[["id", "text"], [1, STORY], [2, None]], T=[["b"], ["x"]])
    first, second, third = read(path)
    assert isinstance(first, Document) and (first.member, first.text) == ("!S#2", STORY)
    assert isinstance(second, Reject) and (second.member, second.reason) == ("!S#3", "empty")
    assert third.member == "!T"
    other = read(path, text_column="b")
    assert [item.member for item in other] == ["!S", "!T#2"]
    assert isinstance(other[0], Reject) and other[0].reason == "no_text_column"
    assert "there are: id, text" in other[0].detail


def test_hidden_empty_and_broken_sheets_are_rejects(tmp_path: Path) -> None:
    path = book(tmp_path / "a.xlsx", Good=[["a", "b"], [1, 2]], Secret=[["x", "y"]], Blank=[])
    file = openpyxl.load_workbook(path)
    file["Secret"].sheet_state = "veryHidden"
    file.create_sheet("Broken").append(["a", "b"])
    file.save(path)
    parts = parts_of(path)
    parts["xl/worksheets/sheet4.xml"] = parts["xl/worksheets/sheet4.xml"][:-40]
    found = read(zipped(path, parts))
    assert [(item.member, getattr(item, "reason", "")) for item in found] == [
        ("!Good", ""),
        ("!Secret", "hidden"),
        ("!Blank", "empty"),
        ("!Broken", "damaged"),
    ]


def test_formulas_without_a_value_errors_and_comments_are_counted(tmp_path: Path) -> None:
    from openpyxl.comments import Comment

    path = book(tmp_path / "a.xlsx", S=[["a", "b"], [1, "=A2*2"], ["#DIV/0!", 4]])
    file = openpyxl.load_workbook(path)
    file.active["A1"].comment = Comment("Is that so?", "Ann")
    file.save(path)
    document = read_one(path)
    assert document.text == "S\na: 1\nb: 4\n"
    assert dict(document.left_out) == {"comment": 1, "error_value": 1, "formula": 1}
    cells = f'<row r="1">{text_cell("A1", "a")}{text_cell("B1", "b")}</row>'
    cells += '<row r="2"><c r="A2"><f>1+1</f><v>2</v></c><c r="B2"><f>cmd</f><v>3</v></c></row>'
    saved = read_one(sheet_xml(tmp_path / "b.xlsx", cells))
    assert saved.text == "Sheet\na: 2 | b: 3\n" and not saved.left_out
    alone = sheet_xml(tmp_path / "c.xlsx", '<row r="1"><c r="A1"><f>1+1</f></c></row>')
    (reject,) = read(alone)
    assert isinstance(reject, Reject) and reject.reason == "empty"
    assert reject.detail.startswith("1 formulas without a saved value")


def test_a_long_sheet_is_read_in_parts_that_name_their_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.ingest.readers import tables

    monkeypatch.setattr(tables, "_TABLE_CHARS", 40)
    rows = [["a", "b"], *([number, "some text here"] for number in range(6))]
    found = read(book(tmp_path / "a.xlsx", S=rows))
    assert [item.member for item in found] == ["!S#2-3", "!S#4-5", "!S#6-7"]
    assert all(isinstance(item, Document) and item.text.startswith("S\na: ") for item in found)


def test_a_million_empty_rows_cost_little(tmp_path: Path) -> None:
    """The sheet has one cell, in the last column of the last row that Excel allows."""
    rows = '<row r="1048576">' + text_cell("XFD1048576") + "</row>"
    began = time.process_time()
    document = read_one(sheet_xml(tmp_path / "a.xlsx", rows))
    assert document.text == f"Sheet\n{STORY}\n" and time.process_time() - began < 20
    beyond = sheet_xml(tmp_path / "b.xlsx", f'<row r="4000000000">{text_cell("A1")}</row>')
    (reject,) = read(beyond)
    assert isinstance(reject, Reject) and reject.reason == "damaged"
    assert "1,048,576 rows" in reject.detail


def test_one_text_in_very_many_cells_is_a_bomb(tmp_path: Path) -> None:
    """Some kilobytes that hold gigabytes of text, in cells or as the name of a column."""
    cells = "".join(f'<row r="{n}"><c t="s"><v>0</v></c></row>' for n in range(1, 5000))
    path = sheet_xml(tmp_path / "a.xlsx", cells, strings="long text " * 20_000)
    assert path.stat().st_size < 100_000
    (reject,) = read(path, max_bytes=2 << 20)
    assert isinstance(reject, Reject) and reject.reason == "too_large"
    cells = '<row r="1"><c t="s"><v>0</v></c><c t="inlineStr"><is><t>b</t></is></c></row>'
    cells += "".join(f'<row r="{n}"><c><v>1</v></c></row>' for n in range(2, 12_000))
    found = read(
        sheet_xml(tmp_path / "b.xlsx", cells, strings="long text " * 29), max_bytes=2 << 20
    )
    assert isinstance(found[-1], Reject) and found[-1].reason == "too_large"
    assert sum(len(item.text) for item in found if isinstance(item, Document)) < 4 << 20


def test_entities_of_a_workbook_are_not_expanded(tmp_path: Path) -> None:
    canary = tmp_path / "secret"
    canary.write_text("CANARY")
    path = tmp_path / "a.xlsx"
    for head in (_BOMB, f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "file://{canary}">]>'):
        row = f'<row r="1">{text_cell("A1", "&l9;")}</row>'
        (reject,) = read(sheet_xml(path, row, head))
        assert isinstance(reject, Reject) and "EntitiesForbidden" in reject.detail
        for name in ("xl/sharedStrings.xml", "xl/workbook.xml"):
            parts = parts_of(sheet_xml(path, '<row><c t="s"><v>0</v></c></row>', strings="x"))
            parts[name] = head + parts[name].replace("<t>x</t>", "<t>&l9;</t>")
            assert refusal(zipped(path, parts)).reason == "damaged"


# --- presentations

_SPACES = (
    'xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main" '
    'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main" '
    'xmlns:dgm="http://schemas.openxmlformats.org/drawingml/2006/diagram" '
    'xmlns:c="http://schemas.openxmlformats.org/drawingml/2006/chart" '
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" '
    f'xmlns:r="{_OFFICE}"'
)


def shape(*lines: str, kind: str = "") -> str:
    place = f'<p:nvSpPr><p:nvPr><p:ph type="{kind}"/></p:nvPr></p:nvSpPr>' if kind else ""
    paragraphs = "".join(f"<a:p><a:r><a:t>{line}</a:t></a:r></a:p>" for line in lines)
    return f"<p:sp>{place}<p:txBody>{paragraphs}</p:txBody></p:sp>"


def slide(*shapes: str, show: str = "1", name: str = "sld") -> str:
    tree = f"<p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld>"
    return f'<p:{name} {_SPACES} show="{show}">{tree}</p:{name}>'


def slides(path: Path, *parts: str, head: str = "", **more: str) -> Path:
    """Write a presentation of these slides; ``more`` are other parts by the name of their file."""
    entries = "".join(f'<p:sldId r:id="r{number}"/>' for number in range(1, len(parts) + 1))
    root = f"<p:presentation {_SPACES}><p:sldIdLst>{entries}</p:sldIdLst></p:presentation>"
    targets = [("slide", f"slides/s{number}.xml") for number in range(1, len(parts) + 1)]
    return zipped(
        path,
        {
            "_rels/.rels": relations(("officeDocument", "ppt/presentation.xml")),
            "ppt/presentation.xml": head + root,
            "ppt/_rels/presentation.xml.rels": relations(*targets),
            **{f"ppt/slides/s{number}.xml": part for number, part in enumerate(parts, 1)},
            **more,
        },
    )


def test_a_slide_is_a_section_and_a_page_with_its_notes_behind_it(tmp_path: Path) -> None:
    table = "".join(
        f"<a:tr><a:tc><a:txBody><a:p><a:r><a:t>{left}</a:t></a:r></a:p></a:txBody></a:tc>"
        f"<a:tc><a:txBody><a:p><a:r><a:t>{right}</a:t></a:r></a:p></a:txBody></a:tc></a:tr>"
        for left, right in (("Pump", "Hours"), ("P-3", "410"))
    )
    frame = (
        "<p:graphicFrame><a:graphic><a:graphicData>{}</a:graphicData></a:graphic></p:graphicFrame>"
    )
    choice = (
        f"<mc:AlternateContent><mc:Choice>{shape('New.')}</mc:Choice>"
        f"<mc:Fallback>{shape('New, drawn.')}</mc:Fallback></mc:AlternateContent>"
    )
    path = slides(
        tmp_path / "a.pptx",
        slide(
            shape("First.", "Second."),
            shape("Works report", kind="title"),
            f"<p:grpSp>{shape('In a group.')}</p:grpSp>",
            choice,
            shape("Northern Works", kind="ftr"),
            shape("1", kind="sldNum"),
        ),
        slide(shape("Hidden."), show="0"),
        slide(
            frame.format(f"<a:tbl>{table}</a:tbl>"),
            frame.format('<dgm:relIds r:dm="r2"/>'),
            frame.format('<c:chart r:id="r9"/>'),
        ),
        slide(),
        **{
            "ppt/slides/_rels/s3.xml.rels": relations(
                ("notesSlide", "../notes/n.xml"),
                ("diagramData", "/ppt/d.xml"),
                ("comments", "c.xml"),
            ),
            "ppt/notes/n.xml": slide(
                shape("3", kind="sldNum"),
                shape("Say this.", "", "And that.", kind="body"),
                name="notes",
            ),
            "ppt/slides/c.xml": f"<p:cmLst {_SPACES}><p:cm/><p:cm/></p:cmLst>",
            "ppt/d.xml": f"<dgm:dataModel {_SPACES}><dgm:ptLst>"
            + "".join(
                f'<dgm:pt type="{kind}"><dgm:t><a:p><a:r><a:t>{text}</a:t></a:r></a:p></dgm:t></dgm:pt>'
                for kind, text in (("node", "Stop"), ("pres", "Stop"), ("node", "Cool"))
            )
            + "</dgm:ptLst></dgm:dataModel>",
        },
    )
    document = read_one(path)
    assert document.text == (
        "Works report\n\nFirst.\nSecond.\n\nIn a group.\n\nNew.\n\n"
        "Slide 3\n\nPump | Hours\nP-3 | 410\n\nStop\nCool\n\nNotes\n\nSay this.\n\nAnd that.\n\n"
    )
    assert [(heading.level, heading.title) for heading in document.headings] == [
        (1, "Works report"),
        (1, "Slide 3"),
        (2, "Notes"),
    ]
    assert [document.page(document.text.index(text)) for text in ("First", "P-3", "Say")] == [
        1,
        3,
        3,
    ]
    assert dict(document.left_out) == {
        "chart": 1,
        "comment": 2,
        "hidden_slide": 1,
        "running_head": 2,
    }


def test_a_slide_that_is_named_often_is_read_once(tmp_path: Path) -> None:
    path = slides(tmp_path / "a.pptx", slide(shape(STORY)))
    parts = parts_of(path)
    entry = '<p:sldId r:id="r1"/>'
    parts["ppt/presentation.xml"] = parts["ppt/presentation.xml"].replace(entry, entry * 100_000)
    assert read_one(zipped(path, parts)).text.count(STORY) == 1


def test_presentations_that_are_none(tmp_path: Path) -> None:
    good = slides(tmp_path / "a.pptx", slide(shape(STORY)))
    assert STORY in read_one(good).text
    bomb = slides(tmp_path / "b.pptx", slide(shape("x")), head=_BOMB)
    assert "declares entities" in refusal(bomb).detail
    strict = slides(tmp_path / "c.pptx", slide(shape("x")))
    parts = parts_of(strict)
    parts["ppt/presentation.xml"] = (
        '<p:presentation xmlns:p="http://purl.oclc.org/ooxml/presentationml/main"/>'
    )
    assert refusal(zipped(strict, parts)).reason == "unsupported_format"
    deep = slides(tmp_path / "d.pptx", slide("<p:grpSp>" * 5000 + "</p:grpSp>" * 5000))
    assert refusal(deep).reason in ("damaged", "nested_too_deep")
    gone = slides(tmp_path / "e.pptx", slide(shape(STORY)))
    parts = parts_of(gone)
    del parts["ppt/slides/s1.xml"]
    assert refusal(zipped(gone, parts)).reason == "damaged"
    outside = tmp_path / "f.pptx"
    zipped(outside, {"_rels/.rels": relations(("officeDocument", "../../etc/passwd"))})
    assert refusal(outside).reason == "damaged"


# --- OpenDocument texts

_ODF = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{long}:1.0"'
    for name, long in (
        ("office", "office"),
        ("text", "text"),
        ("table", "table"),
        ("style", "style"),
        ("draw", "drawing"),
        ("manifest", "manifest"),
    )
)


def odt(path: Path, body: str, styles: str = "", head: str = "", **more: str) -> Path:
    content = (
        f"{head}<office:document-content {_ODF}><office:automatic-styles>{styles}"
        f"</office:automatic-styles><office:body><office:text>{body}</office:text></office:body>"
        "</office:document-content>"
    )
    return zipped(
        path,
        {"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": content, **more},
    )


def test_an_odt_has_headings_lists_tables_and_notes(tmp_path: Path) -> None:
    body = """
<text:tracked-changes><text:changed-region><text:deletion><text:p>Gone.</text:p></text:deletion>
</text:changed-region></text:tracked-changes>
<text:p text:style-name="P1">Pumps</text:p>
<text:table-of-content><text:index-body><text:p>Works report 2</text:p></text:index-body>
</text:table-of-content>
<text:h text:outline-level="2">Works <text:span>report</text:span></text:h>
<text:p>It  stopped
at<text:s text:c="999999999"/>noon.<office:annotation><text:p>Is that so?</text:p></office:annotation>
<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>By the clock.</text:p>
</text:note-body></text:note> It ran<text:line-break/>hot.<draw:frame><draw:text-box><text:p>In a box.
</text:p></draw:text-box></draw:frame></text:p>
<text:list><text:list-item><text:p>One</text:p><text:list><text:list-item><text:p>Inner</text:p>
</text:list-item></text:list></text:list-item></text:list>
<table:table><table:table-header-rows><table:table-row><table:table-cell><text:p>Pump</text:p>
</table:table-cell><table:table-cell><text:p>Hours</text:p></table:table-cell></table:table-row>
</table:table-header-rows><table:table-row table:number-rows-repeated="999999999"><table:table-cell>
<text:p>P-3</text:p><table:table><table:table-row><table:table-cell><text:p>inner</text:p>
</table:table-cell></table:table-row></table:table></table:table-cell><table:table-cell>
<text:p>410<office:annotation><text:p>Much.</text:p></office:annotation></text:p></table:table-cell>
</table:table-row></table:table>
<text:section text:display="none"><text:p>Not shown.</text:p></text:section>
<text:section><text:p>Shown.<draw:frame><draw:object/></draw:frame></text:p></text:section>"""
    style = '<style:style style:name="P1" style:parent-style-name="Title"/>'
    masters = (
        f"<office:document-styles {_ODF}><office:master-styles><style:master-page><style:header>"
        "<text:p>Northern Works</text:p></style:header><style:footer/></style:master-page>"
        "</office:master-styles></office:document-styles>"
    )
    document = read_one(odt(tmp_path / "a.odt", body, style, **{"styles.xml": masters}))
    assert document.text == (
        "Pumps\n\nWorks report\n\nIt stopped at noon. It ran\nhot.\n\nNote 1: By the clock.\n\n"
        "In a box.\n\nOne\n\nInner\n\nPump | Hours\nP-3 inner | 410\n\nShown.\n\n"
    )
    assert [(heading.level, heading.title) for heading in document.headings] == [
        (1, "Pumps"),
        (2, "Works report"),
    ]
    assert dict(document.left_out) == {
        "comment": 2,
        "contents": 1,
        "deleted_text": 1,
        "hidden_section": 1,
        "object": 1,
        "running_head": 1,
    }


def test_odts_that_are_none(tmp_path: Path) -> None:
    locked = (
        f"<manifest:manifest {_ODF}><manifest:file-entry><manifest:encryption-data/>"
        "</manifest:file-entry></manifest:manifest>"
    )
    path = odt(tmp_path / "a.odt", "<text:p>x</text:p>", **{"META-INF/manifest.xml": locked})
    assert refusal(path).reason == "encrypted"
    canary = tmp_path / "secret"
    canary.write_text("CANARY")
    for head in (_BOMB, f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "file://{canary}">]>'):
        problem = refusal(odt(tmp_path / "b.odt", "<text:p>&l9;</text:p>", head=head))
        assert problem.reason == "damaged" and "CANARY" not in problem.detail
    old = odt(
        tmp_path / "c.odt", f"<text:p>{STORY}</text:p>", head='<!DOCTYPE x PUBLIC "a" "b.dtd">'
    )
    assert STORY in read_one(old).text
    assert refusal(zipped(tmp_path / "d.odt", {"content.xml": "<a/>"})).reason == "damaged"
    deep = odt(tmp_path / "e.odt", "<text:section>" * 5000 + "</text:section>" * 5000)
    assert refusal(deep).reason in ("damaged", "nested_too_deep")


# --- all of them


@pytest.mark.parametrize("suffix", [".xlsx", ".pptx", ".odt"])
def test_broken_and_locked_files_have_one_reason(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".xlsx":
        book(path, S=[["a", "b"], ["some", STORY]])
    elif suffix == ".pptx":
        slides(path, slide(shape(STORY)))
    else:
        odt(path, f"<text:p>{STORY}</text:p>")
    whole = path.read_bytes()
    assert STORY in read_one(path).text
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).reason == "damaged"
    path.write_bytes(b"not a ZIP file")
    assert refusal(path).reason == "damaged"
    path.write_bytes(_OLE)
    assert refusal(path).reason == ("unsupported_format" if suffix == ".odt" else "encrypted")
    path.write_bytes(whole)
    assert refusal(path, max_bytes=len(whole)).reason == "too_large"
    parts = parts_of(path)
    assert refusal(zipped(path, parts | {"bomb": " " * (5 << 20)}), max_bytes=1 << 20).reason == (
        "too_large"
    )
    assert refusal(zipped(path, {"a.xml": "<a/>"})).reason == "damaged"
    locked = bytearray(whole)
    locked[6] |= 1  # bit 0 of a member's flags: it is encrypted
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(locked)
    assert refusal(path).reason == "encrypted"


@pytest.mark.parametrize("name", ["a.doc", "b.xls", "c.ppt"])
def test_old_office_files_are_told_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(_OLE)
    problem = refusal(tmp_path / name)
    assert problem.reason == "unsupported_format" and ".xlsx, .pptx or PDF" in problem.detail
    other = zipped(tmp_path / "a.ods", {"content.xml": "<a/>"})
    assert "save it as .docx, .xlsx" in refusal(other).detail


def test_members_of_archives_keep_their_places(tmp_path: Path) -> None:
    book(tmp_path / "b.xlsx", Costs=[["a", "b"], [1, 2]])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "b.xlsx", "in/b.xlsx")
    assert [item.member for item in read(tmp_path / "a.zip")] == ["!in/b.xlsx!Costs"]
