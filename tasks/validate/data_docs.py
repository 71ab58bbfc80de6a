"""Great Expectations' pages in our page base: no scripts, no network, same rows same bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from markupsafe import Markup

from tasks.core.page import Page, stage_links, write_page

_TEMPLATES = Path(__file__).parent / "templates"
_NAME = "Great Expectations"
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
#: Its results lie four folders deep, ours two.
_LINK = re.compile(r'href="(?:\.\./)+expectations/')
#: Great Expectations stamps its pages with the time and with random ids.
_STAMP = re.compile(r"\b\d{8}T\d{6}\.\d{6}Z\b")
_RANDOM_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\b")


def write_pages(docs: Path, pages: Mapping[str, str]) -> None:
    """Write Great Expectations' pages (address below ``docs`` -> HTML) in our base, and
    ``index.html``, since its own builds its tables by script.
    """
    rows = []
    for address, text in sorted(pages.items()):
        folder, *names = PurePosixPath(address).with_suffix("").parts
        kind = "Expectation suite" if folder == "expectations" else "Validation result"
        name, up = " / ".join(names), "../" * len(names)
        links = [*stage_links("validate", f"{up}../"), (_NAME, f"{up}index.html")]
        path = docs / address
        path.parent.mkdir(parents=True, exist_ok=True)
        body = _body(_fix_stamps(_LINK.sub(f'href="{up}expectations/', text)), address)
        write_page(path, _TEMPLATES / "docs.html", Page(name, kind, links=links), body=body)
        rows.append((kind, name, address))
    page = Page(
        _NAME,
        "The suites of expectations, and what they found, as Great Expectations shows them.",
        links=[*stage_links("validate", "../"), (_NAME, "")],
    )
    write_page(docs / "index.html", _TEMPLATES / "docs_index.html", page, rows=rows)


def _body(text: str, address: str) -> Markup:
    """Return the content of a page; Great Expectations has escaped its values."""
    body = _BODY.search(text)
    if not body:
        raise RuntimeError(
            f"{address} is not a page of Great Expectations in the form of its pinned version"
        )
    return Markup(_FOREIGN.sub("", body[1]))  # noqa: S704


def _fix_stamps(text: str) -> str:
    """Replace random ids by numbers in order of appearance, and all times by one time: the same
    rows must give the same bytes.
    """
    numbers = {
        random_id: f"id-{number:06d}"
        for number, random_id in enumerate(dict.fromkeys(_RANDOM_ID.findall(text)))
    }
    text = _RANDOM_ID.sub(lambda match: numbers[match[0]], text)
    return _STAMP.sub("20000101T000000.000000Z", text)
