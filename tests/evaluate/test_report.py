"""The page of evaluation: wrong answers first, hostile text as text, a bounded number of items."""

from __future__ import annotations

import html
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.runs.request import make_command
from tasks.core.rows import EVALUATIONS
from tasks.evaluate.report import why_command, write_report
from tasks.scoring.datasets import load_dataset, parse_item
from tasks.scoring.questions import Questions
from tests.browser import Browser, chromium
from tests.conftest import ROOT
from tests.pages import check_page, find_dead_links
from tests.review.checkout import EVIL

RUN = "0123456789ab"


def make_questions(items: int) -> Questions:
    """Yes-no items on three documents; the first passage, question and id are hostile."""
    dataset = load_dataset(ROOT / "datasets/privacy.yaml")
    rows = [
        {
            "id": f"q{n}" if n else EVIL,
            "context": f"Pump {n} failed at noon. {'' if n else EVIL}",
            "question": f"Did pump {n} fail? {'' if n else EVIL}",
            "answer": "yes" if n % 2 else "no",
            "held_out": {"document": f"report-{n % 3}.md"},
        }
        for n in range(items)
    ]
    parsed = [parse_item(dataset, row, "row") for row in rows]
    return Questions(dataset, dataset.templates[:2], parsed)


def make_answers(questions: Questions, model: str, right: Any) -> pa.Table:
    """``right(item number)`` tells whether the model answers it right under both templates."""
    rows = []
    for template in questions.templates:
        for number, item in enumerate(questions.items):
            place = item.gold if right(number) else 1 - item.gold
            rows.append(
                {
                    **{"model": model, "dataset": "privacy", "template": template.name},
                    **{"item_id": item.id, "prompt": "?", "prediction": template.choices[place]},
                    **{"golds": [template.choices[item.gold]], "choices": template.choices},
                    **{"scores": [-1.0, -2.0], "f1": float(right(number))},
                }
            )
    return pa.Table.from_pylist(rows, schema=EVALUATIONS)


def write(path: Path, items: int = 12, most: int = 2000, start: bool = True) -> str:
    questions = make_questions(items)
    told = {
        "zero_shot": make_answers(questions, "zero_shot", lambda _: False),
        "start": make_answers(questions, "start", lambda n: n % 4 == 0),
        "adapted": make_answers(questions, "adapted", lambda n: n % 2 == 1),
    }
    if not start:
        del told["start"]
    task = {"dataset": "general", "template": "exqa", "item_id": "q1", "prompt": "General? " + EVIL}
    general = {
        name: pa.Table.from_pylist(
            [{**task, "model": name, "prediction": name, "golds": ["seal"], "f1": 0.25}],
            schema=EVALUATIONS,
        )
        for name in told
    }
    write_report(path, questions, told, general, RUN, most)
    return path.read_text()


def test_wrong_answers_come_first_and_hostile_text_is_text(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html")
    assert EVIL not in page and html.escape(EVIL) in page
    check_page(page.replace(html.escape(EVIL), ""))
    order = re.findall(r'<section class="card item d?\w+ t\d (\w+)(?: \w+)?"', page)
    assert order == ["wrong"] * 7 + ["right"] * 6
    for tile in ('<b class="good">6</b>', '<b class="bad">3</b>'):
        assert tile in page, "mended 6, broken 3"
    assert "13 of 13" in page and "start alone" in page and "General? " in page
    assert page.count(f"make why RUN={RUN} ITEM=") == 12
    page = write(tmp_path / "report.html", start=False)
    assert "start alone" not in page and "zero-shot: wrong" in page


def test_documents_are_those_that_the_dataset_file_names(tmp_path: Path) -> None:
    questions = make_questions(4)
    dataset = questions.dataset.model_copy(update={"document": "doc_id"})
    rows = [
        item.columns | {"doc_id": f"lease-{number % 2}", "held_out": False}
        for number, item in enumerate(questions.items)
    ]
    items = [parse_item(dataset, row, "row") for row in rows]
    questions = Questions(dataset, questions.templates, items)
    answers = {
        name: make_answers(questions, name, lambda n: n < 2) for name in ("zero_shot", "adapted")
    }
    empty = {name: EVALUATIONS.empty_table() for name in answers}
    write_report(tmp_path / "report.html", questions, answers, empty, RUN)
    page = (tmp_path / "report.html").read_text()
    assert "lease-0" in page and "lease-1" in page


def test_a_page_has_some_thousand_items_at_most_and_counts_the_rest(tmp_path: Path) -> None:
    page = write(tmp_path / "report.html", items=300, most=20)
    assert page.count('class="card item ') == 20
    assert "20 of 301" in page and "281 more items are not shown" in page


def test_each_item_has_its_command_and_leads_to_its_page(tmp_path: Path) -> None:
    """The page of `make why` leads back: it is there once the command has run."""
    page = write(tmp_path / "evaluate/report.html")
    assert f"<code>make why RUN={RUN} ITEM=q7</code>" in page
    why = tmp_path / "why"
    assert len(find_dead_links(tmp_path)) == 3 + 12, "those of the other stages, and each item's"
    why.mkdir()
    for link in re.findall(r'href="\.\./why/([^"]+)"', page):
        (why / link).write_text("")
        assert f' id="{link.removesuffix(".html")}">' in page
    assert len(find_dead_links(tmp_path)) == 3


def test_the_page_does_not_depend_on_who_starts_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC restores it in runs of other names: its commands are right in all of them."""
    alone = write(tmp_path / "report.html")
    monkeypatch.setenv("PIPELINE_FLOW_RUN", "run 1")
    assert write(tmp_path / "report.html") == alone
    monkeypatch.setenv("PIPELINE_COMMAND", make_command("mine", ["generate.seed=2"]))
    assert write(tmp_path / "report.html") == alone


@pytest.mark.parametrize(
    "name", ["q1", "a b", "it's", "$(touch stolen)", "`touch stolen`", "a;b#c", "$HOME"]
)
def test_the_command_of_any_id_reaches_the_program_as_it_is(tmp_path: Path, name: str) -> None:
    """With the lines of our Makefile that take values: others would need another `$`."""
    ours = (ROOT / "Makefile").read_text()
    values = ours[ours.index("VALUES :=") : ours.index("\n.DEFAULT_GOAL")]
    (tmp_path / "Makefile").write_text(f"{values}\nwhy:\n\t@printf '%s' \"$$ITEM\"\n")
    command = why_command(RUN, name)
    # `make test` is a make as well: the inner one would say which folder it enters.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == name and not (tmp_path / "stolen").exists()
    assert shlex.split(command)[:2] == ["make", "why"]


@pytest.mark.browser
@pytest.mark.skipif(not chromium(), reason="no Chromium here (Debian: apt install chromium)")
def test_a_person_filters_the_items_without_a_script(tmp_path: Path) -> None:
    from tests.review.test_browser import shoot

    write(tmp_path / "report.html")
    visible = (
        "[...document.querySelectorAll('.item')].filter(e => e.getClientRects().length).length"
    )
    choose = "document.querySelectorAll('select')[%d].selectedIndex = %d"
    with Browser(tmp_path / "profile", patience=30) as browser:
        browser.open((tmp_path / "report.html").as_uri())
        browser.see("Evaluation", "mended", "broken", "alert(1)")
        assert browser.js(visible) == 13
        for place, (chosen, count) in enumerate([(1, 7), (2, 6), (3, 6), (4, 3)]):
            browser.js(choose % (0, chosen))
            assert browser.js(visible) == count, place
        browser.js(choose % (0, 0))
        browser.js(choose % (2, 1))
        assert browser.js(visible) == 1, "the general task"
        browser.js(choose % (2, 0))
        browser.js(choose % (1, 2))
        assert browser.js(visible) == 4
        browser.js(choose % (1, 0))
        shoot(browser, "evaluation")
        assert browser.elsewhere() == []
