"""Excel, PowerPoint and OpenDocument files: what is read, with its place; what is left out, and
counted; those that are broken, locked or out to hurt.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tests.ingest.office_files import OLE, STORY, book, odt, parts_of, shape, slide, slides, zipped
from tests.ingest.reading import read, read_one, refusal


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
    path.write_bytes(OLE)
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
    (tmp_path / name).write_bytes(OLE)
    problem = refusal(tmp_path / name)
    assert problem.reason == "unsupported_format" and ".xlsx, .pptx or PDF" in problem.detail
    other = zipped(tmp_path / "a.ods", {"content.xml": "<a/>"})
    assert "save it as .docx, .xlsx" in refusal(other).detail


def test_members_of_archives_keep_their_places(tmp_path: Path) -> None:
    book(tmp_path / "b.xlsx", Costs=[["a", "b"], [1, 2]])
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "b.xlsx", "in/b.xlsx")
    assert [item.member for item in read(tmp_path / "a.zip")] == ["!in/b.xlsx!Costs"]
