"""A hostile template is cut off with one line, and the others are none the worse for it."""

from __future__ import annotations

import pytest

from bonito.templating.render import leaks
from bonito.templating.templates import PromptTemplate
from bonito.templating.workers import Renderers, RenderJob, RenderLimits

LIMITS = RenderLimits(seconds=0.5, megabytes=128)
PASSAGE = "The harbour was closed in 1931. Its ferries moved to the north pier."
GOOD = "{{ text }} When? ||| {{ answer }}"
HOSTILE = {
    "for ever": (
        (
            "{{ text }}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% "
            "endfor %} ||| x"
        ),
        "timeout",
    ),
    "long string": ("{{ text }}{{ '%1000000000d' | format(1) }} ||| x", "memory"),
    "long constant": ("{{ text }}{{ 'x' | center(1000000000) }} ||| x", "memory"),
    "product": ("{{ text }}{{ 'x' * 1000000000 }} ||| x", "refused"),
    "attribute": ("{{ text }}{{ text.__class__.__mro__ }} ||| x", "refused"),
    "attribute by filter": ("{{ text }}{{ text | attr('__cla' ~ 'ss__') }} ||| x", "refused"),
    "endless macro": ("{% macro m() %}{{ m() }}{% endmacro %}{{ text }}{{ m() }} ||| x", "memory"),
    # One instruction that runs for minutes: no timer gets a word in, the kernel has to end the
    # process.
    "one instruction": (
        "{{ text }}{{ ([[0] * 10] * 100000) | sum(start=[]) | length }} ||| x",
        "timeout",
    ),
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[tuple[str, str]]]:
    templates = [
        PromptTemplate("toy", "", "good", GOOD),
        *(PromptTemplate("toy", "", name, jinja) for name, (jinja, _) in HOSTILE.items()),
    ]
    row = {"text": PASSAGE, "answer": "1931"}
    batches = [
        [RenderJob(0, "a", row), RenderJob(index, "a", row), RenderJob(0, "b", row)]
        for index in range(1, len(templates))
    ]
    with Renderers(templates, {("toy", ""): "{{ text }}"}, LIMITS, 1, 2) as renderers:
        found = list(renderers.map(batches))
    return {
        name: [(outcome.status, outcome.detail) for outcome in batch]
        for name, batch in zip(HOSTILE, found, strict=True)
    }


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_cut_off(
    outcomes: dict[str, list[tuple[str, str]]], name: str
) -> None:
    before, hostile, after = outcomes[name]
    assert before[0] == after[0] == "ok"
    assert hostile[0] == HOSTILE[name][1]
    assert hostile[1]
    assert "\n" not in hostile[1]


def statuses(
    jinja: str, *rows: dict[str, object], choices: str = "", task_type: str = ""
) -> list[str]:
    template = PromptTemplate("toy", "", "t", jinja, choices, task_type)
    with Renderers([template], {("toy", ""): "{{ text }}"}, LIMITS, 1, 1) as renderers:
        return [
            outcome.status
            for batch in renderers.map(
                [[RenderJob(0, str(index), dict(row)) for index, row in enumerate(rows)]]
            )
            for outcome in batch
        ]


def test_every_row_has_a_reason() -> None:
    jinja = (
        "{% if label != 9 %}{{ text }} {{ note }} Good? ||| {{ answer_choices[label] }}{% endif %}"
    )
    row = {"text": PASSAGE, "note": "N", "label": 1}
    changes: list[tuple[dict[str, object], str]] = [
        ({}, "ok"),
        ({"label": 2}, "bad_label"),
        ({"label": -1}, "bad_label"),
        ({"label": 9}, "no_response"),
        ({"text": " "}, "empty_context"),
        ({"label": 0}, "empty_response"),
        ({"note": PASSAGE.upper()}, "passage_leak"),
        ({"note": "{{context}}"}, "placeholder_in_row"),
        ({"label": "one"}, "missing_column"),
        ({"answer_choices": []}, "error"),
    ]
    assert statuses(jinja, *(row | change for change, _ in changes), choices=" ||| Yes") == [
        status for _, status in changes
    ]
    assert statuses(jinja, {"text": PASSAGE, "label": 1}, choices=" ||| Yes") == ["missing_column"]


def test_a_short_quotation_is_no_leak() -> None:
    assert leaks(PASSAGE, f"Is this so: {PASSAGE}")
    assert leaks(PASSAGE, "Its ferries moved\nto the NORTH pier. When?")
    assert not leaks(PASSAGE, "He said: The harbour was closed in 1931.")
    assert not leaks("Yes.", "Yes. No.")
