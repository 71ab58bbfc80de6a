"""Great Expectations' pages in our page base: no scripts, no network, same rows same bytes."""

from __future__ import annotations

import datetime
import re
import shutil
from pathlib import Path

from markupsafe import Markup

from tasks.core.page import Page, write_page

_TEMPLATES = Path(__file__).parent / "templates"
#: Parts of Great Expectations' body that are removed: scripts, pictures and styles from other
#: sites, its header and advertising footer, and the switches that need scripts.
_FOREIGN = re.compile(
    r"<script\b.*?</script>|<link\b[^>]*>|<img\b[^>]*>|<footer>.*?</footer>"
    r"|<nav class=\"navbar navbar-expand-md.*?</nav>\s*</div>\s*</nav>"
    r"|<div class=\"card mb-3\">\s*<div class=\"card-header "
    r"p-2\">\s*<strong>Actions</strong>.*?(?=<div class=\"card d-md-block)",
    re.DOTALL,
)
_BODY = re.compile(r"<body[^>]*>(.*)</body>", re.DOTALL)
#: Great Expectations stamps its pages with the time and with random ids.
_STAMP = re.compile(r"\b\d{8}T\d{6}\.\d{6}Z\b")
_RANDOM_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b")


def restyle(docs: Path, time: datetime.datetime) -> None:
    """Rewrite the pages below ``docs`` in our base and add ``index.html``.

    ``time`` replaces every time in them.
    """
    paths = sorted(docs.rglob("*.html"))
    if not paths:
        raise RuntimeError(f"Great Expectations built no Data Docs in {docs}")
    shutil.rmtree(docs / "static", ignore_errors=True)  # its fonts, pictures and style sheets
    for path in paths:
        text = _fix_stamps(path.read_text(encoding="utf-8"), time)
        up = "../" * (len(path.relative_to(docs).parts) - 1)
        links = (("Validation", f"{up}../report.html"), ("Great Expectations", f"{up}index.html"))
        page = Page(_name(path.relative_to(docs)), _kind(path.relative_to(docs)), links=links)
        write_page(path, _TEMPLATES / "docs.html", page, body=_body(text, path))
    _write_index(docs, paths)


def _write_index(docs: Path, paths: list[Path]) -> None:
    """Write the index page: Great Expectations' own builds its tables by script."""
    pages = [path.relative_to(docs) for path in paths]
    page = Page(
        "Great Expectations",
        "The suites of expectations, and what they found, as Great Expectations shows them.",
        links=[("Validation", "../report.html")],
    )
    rows = [(_kind(path), _name(path), path.as_posix()) for path in pages]
    write_page(docs / "index.html", _TEMPLATES / "docs_index.html", page, rows=rows)


def _kind(path: Path) -> str:
    return "Expectation suite" if path.parts[0] == "expectations" else "Validation result"


def _name(path: Path) -> str:
    """Return the suite; for a result also the chunk of rows."""
    return f"{path.parts[1]} / {path.stem}" if len(path.parts) > 2 else path.stem


def _body(text: str, path: Path) -> Markup:
    """Return the content of a page; Great Expectations has escaped its values."""
    body = _BODY.search(text)
    if not body:
        raise RuntimeError(
            f"{path} is not a page of Great Expectations in the form of its pinned version"
        )
    return Markup(_FOREIGN.sub("", body[1]))  # noqa: S704


def _fix_stamps(text: str, time: datetime.datetime) -> str:
    """Replace random ids by numbers in order of appearance, and all times by one time."""
    numbers = {
        random_id: f"id-{number:06d}"
        for number, random_id in enumerate(dict.fromkeys(_RANDOM_ID.findall(text)))
    }
    text = _RANDOM_ID.sub(lambda match: numbers[match[0]], text)
    return _STAMP.sub(time.strftime("%Y%m%dT%H%M%S.%fZ"), text)
