"""PowerPoint files."""

from __future__ import annotations

from pathlib import Path

from tests.ingest.office_files import (
    BOMB,
    SPACES,
    STORY,
    parts_of,
    relations,
    shape,
    slide,
    slides,
    zipped,
)
from tests.ingest.reading import read_one, refusal


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
            "ppt/slides/c.xml": f"<p:cmLst {SPACES}><p:cm/><p:cm/></p:cmLst>",
            "ppt/d.xml": f"<dgm:dataModel {SPACES}><dgm:ptLst>"
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
    bomb = slides(tmp_path / "b.pptx", slide(shape("x")), head=BOMB)
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
