"""OpenDocument texts."""

from __future__ import annotations

from pathlib import Path

from tests.ingest.office_files import BOMB, ODF, STORY, odt, zipped
from tests.ingest.reading import read_one, refusal


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
        f"<office:document-styles {ODF}><office:master-styles><style:master-page><style:header>"
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
        f"<manifest:manifest {ODF}><manifest:file-entry><manifest:encryption-data/>"
        "</manifest:file-entry></manifest:manifest>"
    )
    path = odt(tmp_path / "a.odt", "<text:p>x</text:p>", **{"META-INF/manifest.xml": locked})
    assert refusal(path).reason == "encrypted"
    canary = tmp_path / "secret"
    canary.write_text("CANARY")
    for head in (BOMB, f'<!DOCTYPE x [<!ENTITY l9 SYSTEM "file://{canary}">]>'):
        problem = refusal(odt(tmp_path / "b.odt", "<text:p>&l9;</text:p>", head=head))
        assert problem.reason == "damaged" and "CANARY" not in problem.detail
    old = odt(
        tmp_path / "c.odt", f"<text:p>{STORY}</text:p>", head='<!DOCTYPE x PUBLIC "a" "b.dtd">'
    )
    assert STORY in read_one(old).text
    assert refusal(zipped(tmp_path / "d.odt", {"content.xml": "<a/>"})).reason == "damaged"
    deep = odt(tmp_path / "e.odt", "<text:section>" * 5000 + "</text:section>" * 5000)
    assert refusal(deep).reason in ("damaged", "nested_too_deep")
