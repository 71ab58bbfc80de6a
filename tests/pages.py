"""What every page of ours must be."""

from __future__ import annotations

import re
from pathlib import Path

#: What ``tasks/core/templates/base.html`` writes and nothing else does.
_BASE = '<meta name="generator" content="bonito-pipeline">'
_POLICY = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
)


def find_dead_links(folder: Path) -> list[str]:
    """Return "page -> address" of every relative link of our pages below ``folder`` that leads
    nowhere.
    """
    dead = []
    for page in sorted(folder.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        links = re.findall(r'href="([^"#:]+)(?:#[^"]*)?"', text) if _BASE in text else []
        dead += [
            f"{page.relative_to(folder)} -> {link}"
            for link in links
            if not (page.parent / link).exists()
        ]
    return dead


def check_page(text: str) -> None:
    """Assert that a page is our base filled in: one document, one style sheet and policy, no
    script, nothing from another place.
    """
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    assert text.count(_BASE) == text.count(_POLICY) == 1
    assert text.count("<style>") == text.count("<body>") == text.count("<h1>") == 1
    assert 'class="top"' in text and "prefers-color-scheme: dark" in text
    assert "<script" not in text and not re.search(r"\son\w+=[\"']", text)
    assert not re.search(r"<link\b|<iframe|@import|url\(|\ssrc=", text)
    assert "://" not in text
