"""The base of every page: escapes, needs nothing, is written in bounded memory, and is the only one."""

from __future__ import annotations

import re
import tracemalloc
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from tasks.core.page import BASE, Page, Tile, number, percent, render, stage_links, write_page
from tests.conftest import ROOT
from tests.pages import check_page

EVIL = '<script>alert("1")</script>'
TEMPLATES = [
    path.relative_to(ROOT)
    for top in ("tasks", "flows", "bonito")
    for path in sorted((ROOT / top).rglob("*.html"))
    if path != BASE
]


def test_the_head_escapes_what_it_is_given() -> None:
    page = Page(EVIL, EVIL, [Tile(EVIL, EVIL, EVIL)], [(EVIL, EVIL)], [(EVIL, f'"{EVIL}')])
    text = "".join(render(BASE, page))
    check_page(text)
    assert text.count("&lt;script&gt;") == 10


def test_links_and_facts_are_shown_only_where_there_are_any() -> None:
    text = "".join(render(BASE, Page("Ingest")))
    check_page(text)
    assert "<nav" not in text and "<dl" not in text and 'class="tiles"' not in text
    linked = "".join(
        render(BASE, Page("Ingest", links=[("Validation", "../validate/report.html")]))
    )
    assert '<nav><a href="../validate/report.html">Validation</a></nav>' in linked


def test_the_page_of_a_stage_links_to_earlier_ones_and_tells_when_the_later_ones_come() -> None:
    assert stage_links("validate") == [
        ("Ingest", "../ingest/report.html"),
        ("Validation", ""),
        ("Verification (after verify)", "../verify/report.html"),
        ("Evaluation (after evaluate)", "../evaluate/report.html"),
    ]
    names = [name for name, _ in stage_links("evaluate")]
    assert names == ["Ingest", "Validation", "Verification", "Evaluation"]
    assert stage_links("validate", "../")[1] == ("Validation", "../../validate/report.html")
    own = "".join(render(BASE, Page("Validation", links=stage_links("validate"))))
    assert '<span aria-current="page">Validation</span>' in own and own.count("<a ") == 3


def test_a_name_that_is_not_given_is_an_error(tmp_path: Path) -> None:
    template = tmp_path / "page.html"
    template.write_text('{% extends "base.html" %}{% block main %}{{ rows }}{% endblock %}')
    with pytest.raises(UndefinedError):
        write_page(tmp_path / "out.html", template, Page("Rows"))
    assert not (tmp_path / "out.html").exists()


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    template = tmp_path / "page.html"
    template.write_text(
        '{% extends "base.html" %}{% block main %}{% for row in rows %}<p>{{ row }}</p>{% endfor %}'
        "{% endblock %}"
    )
    "".join(render(template, Page("Rows"), rows=[]))  # what Jinja keeps for itself
    tracemalloc.start()
    write_page(
        tmp_path / "out.html", template, Page("Rows"), rows=("x" * 1000 for _ in range(20_000))
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "out.html").stat().st_size > 20_000_000
    assert peak < 4_000_000


@pytest.mark.parametrize("template", TEMPLATES, ids=str)
def test_every_template_extends_the_base(template: Path) -> None:
    text = (ROOT / template).read_text(encoding="utf-8")
    assert text.startswith('{% extends "base.html" %}\n')
    assert not re.search(r"<(?:html|head|body|style|script)\b|\| *safe", text)


def test_no_page_is_built_by_strings() -> None:
    assert len(TEMPLATES) >= 6
    for path in (
        path for top in ("tasks", "flows", "bonito") for path in (ROOT / top).rglob("*.py")
    ):
        assert not re.search(r"</html>|</style>", path.read_text(), re.IGNORECASE), path


def test_numbers_as_they_are_shown() -> None:
    assert (number(12345.6), number(None), number(1.25, 1)) == ("12,346", "", "1.2")
    assert (percent(0.1234), percent(1.0, 0), percent(None)) == ("12.3 %", "100 %", "")
