"""PDF pages that are images, and broken ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.core.params import Params
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.readers import detect, ocr
from tasks.ingest.readers.document import Document, ReadOptions, Reject, Unreadable
from tasks.ingest.sources import LocalCorpus
from tasks.ingest.stage import _make_key, _make_work
from tests.ingest.pdf_files import make_scan, pdf, text_of
from tests.ingest.reading import STORY


def test_scans_are_named_and_their_pages_too(tmp_path: Path) -> None:
    scan = make_scan(["A scanned line"])
    with pytest.raises(
        Unreadable, match="no_text_layer: 2 pages of images without text: set ingest.ocr"
    ):
        text_of(tmp_path / "a.pdf", pdf([[], []], scan))
    (tmp_path / "b.pdf").write_bytes(pdf([[], [(72, 500, STORY, 10)], []], scan))
    document, reject = detect.read(tmp_path / "b.pdf", ReadOptions())
    assert (
        isinstance(document, Document)
        and document.text.startswith("The pump")
        and document.page(0) == 2
    )
    assert isinstance(reject, Reject) and (reject.reason, reject.detail) == (
        "no_text_layer",
        "pages without text: 1, 3",
    )


def test_a_broken_page_costs_itself(tmp_path: Path) -> None:
    data = pdf([[(72, 500, f"{STORY} {number}", 10)] for number in range(3)])
    second = data.index(b"/Type /Page ", data.index(b"/Type /Page ") + 1)
    (tmp_path / "a.pdf").write_bytes(data[:second] + b"/Type /Pagx " + data[second + 12 :])
    document, reject = detect.read(tmp_path / "a.pdf", ReadOptions())
    assert isinstance(document, Document) and isinstance(reject, Reject)
    assert document.page(document.text.index("2")) == 3 and "1" not in document.text
    assert reject.reason == "damaged" and reject.detail.startswith("pages that cannot be read: 2 ")


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_scans_are_recognised_on_request(tmp_path: Path) -> None:
    lines = ["The pump was stopped at noon because", "its bearing had run hot since Monday."]
    (tmp_path / "a.pdf").write_bytes(pdf([[], [(72, 500, STORY, 10)]], make_scan(lines)))
    assert ocr.check_languages("eng") == "eng"
    found = [
        item
        for item in detect.read(tmp_path / "a.pdf", ReadOptions(ocr="eng"))
        if isinstance(item, Document)
    ]
    assert found[0].encoding == "ocr"
    assert found[0].text == f"{' '.join(lines)}\n\n{STORY}\n\n"
    assert [found[0].page(found[0].text.index(part)) for part in ("because", "fitter")] == [1, 2]
    with pytest.raises(
        PipelineError, match="ingest.ocr_languages names 'xyz', and tesseract has data for: .*eng"
    ):
        ocr.check_languages("xyz")


def test_recognition_without_tesseract_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        PipelineError, match="ingest.ocr is set, and there is no program tesseract here"
    ):
        ocr.check_languages("eng")


def test_what_another_tesseract_read_is_read_again(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin" / "tesseract"
    program.parent.mkdir()
    (tmp_path / "scan.pdf").write_bytes(b"%PDF a scan")
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    keys = []
    for version in ("5.3.0", "5.4.1", "5.3.0"):
        program.write_text(f"#!/bin/sh\necho 'tesseract {version}'\necho eng\n")
        program.chmod(0o755)
        work = _make_work(params.ingest.model_copy(update={"ocr": True}), "{}")
        key_of = _make_key(LocalCorpus(tmp_path, False, 1 << 20), work)
        keys.append(key_of(CorpusFile("scan.pdf", str(tmp_path / "scan.pdf"))))
    assert keys[0] == keys[2] != keys[1]
