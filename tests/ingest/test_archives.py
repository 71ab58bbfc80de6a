"""Archives and what is nested in them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from tasks.core import clock, pool
from tasks.ingest import file_pool, worker
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable
from tests.ingest.hostile_files import replace_rtf_parser
from tests.ingest.reading import STORY, read


def test_archives_hold_documents_and_bad_members_are_rejects(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b/two.md", "# Two\n\n" + STORY)
        archive.writestr("../../escape.txt", STORY)
        archive.writestr("bad.pdf", b"%PDF-1.4 cut short")
    found = {item.member: item for item in read(tmp_path / "a.zip")}
    assert sorted(found) == ["!../../escape.txt", "!b/two.md", "!bad.pdf"]
    assert isinstance(found["!bad.pdf"], Reject) and found["!bad.pdf"].reason == "damaged"
    assert not (tmp_path.parent / "escape.txt").exists()
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.zip", "inner/a.zip")
        link = tarfile.TarInfo("passwd.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    members = {item.member: item for item in read(tmp_path / "b.tar.gz")}
    assert isinstance(members["!inner/a.zip!b/two.md"], Document)
    assert isinstance(members["!passwd.txt"], Reject) and members["!passwd.txt"].reason == "link"


def test_bombs_and_endless_nesting_are_cut_off(tmp_path: Path) -> None:
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"\n" * (3 << 20)))
    (reject,) = read(tmp_path / "bomb.txt.gz", max_bytes=1 << 20)
    assert isinstance(reject, Reject) and reject.reason == "too_large"
    with zipfile.ZipFile(tmp_path / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", b" " * (3 << 20))
    with pytest.raises(Unreadable, match="too_large"):
        read(tmp_path / "bomb.docx", max_bytes=1 << 20)
    data = STORY.encode()
    for _ in range(6):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x.zip" if data[:2] == b"PK" else "x.txt", data)
        data = buffer.getvalue()
    (tmp_path / "nested.zip").write_bytes(data)
    (reject,) = read(tmp_path / "nested.zip")
    assert isinstance(reject, Reject) and reject.reason == "nested_too_deep"


@pytest.mark.parametrize(("name", "reason"), [("hang", "timeout"), ("crash", "crashed")])
def test_a_parser_that_misbehaves_costs_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    library = {
        "hang": "import time\ndef rtf_to_text(*a, **k): time.sleep(60)",
        "crash": "import os\ndef rtf_to_text(*a, **k): os.abort()",
    }
    replace_rtf_parser(tmp_path, monkeypatch, library[name])
    (tmp_path / "bad.rtf").write_bytes(rb"{\rtf1 x}")
    (tmp_path / "good.txt").write_text(STORY)
    monkeypatch.setattr(clock, "_RESTARTS", 1)
    work = worker.Work("", ReadOptions(), 50, 1)
    # The first file pays for the worker's start, so that the bad one's second is its own, and the
    # last shows that it was replaced.
    jobs = [
        ("first", tmp_path / "good.txt"),
        ("bad", tmp_path / "bad.rtf"),
        ("good", tmp_path / "good.txt"),
    ]
    limits = pool.Limits(1.0 if name == "hang" else 60.0, 512)
    (tmp_path / "unpacked").write_text("{}")  # of an earlier version
    outcomes = list(file_pool.read_files(jobs, work, 1, limits, tmp_path / "unpacked"))
    results = {
        outcome.key: (json.loads(outcome.value), outcome.failure)
        for outcome in outcomes
        if outcome.done
    }
    assert results["bad"][0][0]["reason"] == reason
    assert results["bad"][1] == reason
    assert [results[key][0][0]["passages"][0]["text"] for key in ("first", "good")] == [
        STORY,
        STORY,
    ]
