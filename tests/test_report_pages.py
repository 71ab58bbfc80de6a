"""The pages that a run and a matrix leave, as a person meets them in a real browser: whole on a
screen and on a phone, worked by keyboard, no link into nothing.

`make browser` leaves pictures of them in artifacts/browser.
"""

from __future__ import annotations

import html
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from flows.matrix.run_cell import write_results
from tasks.core.page import STAGE_PAGES
from tasks.ingest import stage as ingest
from tests.browser import Browser, chromium
from tests.evaluate.test_report import write as write_evaluation
from tests.flows.test_matrix import finished  # noqa: F401 - a fixture
from tests.ingest.conftest import corner  # noqa: F401 - a fixture
from tests.ingest.corner import SENTENCES
from tests.pages import check_page
from tests.review.checkout import EVIL
from tests.review.test_browser import shoot
from tests.validate.test_validate import FAILING, GOOD, NLI, YNQA
from tests.validate.test_validate import run as run_validate  # noqa: F401 - a fixture
from tests.verify.conftest import COUNT, make_row
from tests.verify.conftest import run as run_verify  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not chromium(), reason="no Chromium here (Debian: apt install chromium)"),
    pytest.mark.timeout(900),
]

#: The longest word without a place to break that a page meets: a row's id, a digest, an address.
_LONG = "x" * 90


def make_ingest(folder: Path) -> None:
    """Leave the page on a corpus: two documents that are read, three that are not."""
    corpus = folder / "corpus"
    (corpus / "b.md").write_text(f"# Works\n\n{' '.join(SENTENCES[:9])}\n")
    (corpus / f"{_LONG}.txt").write_text(f"{' '.join(SENTENCES[20:23])} {_LONG}")
    (corpus / "empty.txt").write_text("")
    (corpus / "cut-short.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<<")
    (corpus / "drawing.dwg").write_bytes(b"AC1032" + bytes(range(256)))
    arguments = ["--params", "params.yaml", "--corpus", "corpus", "--items", "items.jsonl"]
    assert ingest.main([*arguments, "--out", "artifacts/ingest"]) == 0


@pytest.fixture
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The pages of the stages, made by the stages, in the places where a run leaves them."""
    make_ingest(request.getfixturevalue("corner"))
    hostile = ("exqa", f"Question: When? {{{{title}}}} {EVIL} {_LONG}", "15 March")
    rows = [GOOD, ("ynqa", YNQA, "Yes."), ("nli", NLI, "False"), *FAILING.values(), hostile]
    assert request.getfixturevalue("run_validate")(rows)[0] == 0
    read = [make_row(number) for number in range(COUNT)]
    read[5] |= {"document": f"{_LONG}.md", "response": f"{EVIL} {_LONG}"}
    assert request.getfixturevalue("run_verify")(read) == 0
    folder = tmp_path / "artifacts"
    (folder / "evaluate").mkdir()
    write_evaluation(folder / "evaluate/report.html")
    return folder


def check_in_browser(browser: Browser, page: Path, name: str, *words: str) -> None:
    """Open a page; assert what every page of ours must do for a person."""
    browser.faults.clear()
    browser.open(page.as_uri())
    browser.see(*words)
    assert browser.tab_through() == [], f"{name}: not reached by keyboard, or without a mark"
    assert browser.js("document.querySelectorAll('script, img').length") == 0
    for address in browser.js("[...document.links].map(link => link.href)"):
        if "/artifacts/why/" not in address:  # written by `make why`, as the page says
            check_link(browser, address, page)
    browser.js("scrollTo(0, 0)")
    shoot(browser, name)
    assert browser.faults == [] and browser.elsewhere() == []


def check_link(browser: Browser, address: str, page: Path) -> None:
    """Assert that a link leads to a file of ours, and to a place in it."""
    parts = urllib.parse.urlsplit(address)
    assert parts.scheme == "file", f"{page}: {address}"
    file = Path(urllib.request.url2pathname(parts.path))
    assert file.is_file(), f"{page}: {address} is not there"
    if parts.fragment and file == page:
        assert browser.js(f"document.getElementById({parts.fragment!r}) !== null"), address


def test_the_pages_of_a_run(artifacts: Path, tmp_path: Path) -> None:
    words = {
        "ingest": ("Ingest", "damaged", "unsupported_format", "empty"),
        "validate": ("Validation", "no_leftover_placeholder", "Not kept, by first reason"),
        "verify": ("Verification", "reader_disagrees", "24 of 30 kept"),
        "evaluate": ("Evaluation", "mended", "broken"),
    }
    with Browser(tmp_path / "profile", patience=30) as browser:
        for stage, shown in words.items():
            page = artifacts / stage / "report.html"
            check_page(page.read_text().replace(html.escape(EVIL), ""))
            check_in_browser(browser, page, stage, *shown)
            named = browser.js("[...document.querySelectorAll('nav > *')].map(e => e.innerText)")
            assert [name.split(" (")[0] for name in named][:4] == [name for name, _ in STAGE_PAGES]
        docs = artifacts / "validate/data_docs"
        for page in sorted(docs.rglob("*.html")):
            name = "-".join(page.relative_to(docs.parent).with_suffix("").parts)
            check_in_browser(browser, page, name, "Great Expectations")


def test_details_open_by_keyboard(artifacts: Path, tmp_path: Path) -> None:
    """What a page folds away is opened with Tab and Enter; a row's passage is then seen."""
    with Browser(tmp_path / "profile", patience=30) as browser:
        browser.open((artifacts / "verify/report.html").as_uri())
        browser.see("Verification")
        assert "past noon because" not in browser.text()
        browser.js("document.querySelector('.row.failed summary').focus()")
        for kind, text in (("keyDown", {"text": "\r"}), ("keyUp", {})):
            key = {"key": "Enter", "windowsVirtualKeyCode": 13, **text}
            browser.send("Input.dispatchKeyEvent", type=kind, **key)
        browser.see("past noon because seal-")


def test_the_page_of_a_matrix(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    matrix, results = request.getfixturevalue("finished")
    write_results(matrix, results, tmp_path, final=True)
    page = tmp_path / "artifacts/matrix/toy/report.html"
    with Browser(tmp_path / "profile", patience=30) as browser:
        check_in_browser(browser, page, "matrix", "the machine is tired", "F1 by supervision")
