"""The passage is found however a template writes it, and nothing else is taken for it."""

import pytest

from bonito.templating.metatemplate import MARK, PLACEHOLDER, Unconvertible, convert
from bonito.templating.sandbox import Sandbox
from bonito.templating.templates import PromptTemplate

CONTEXT = "The harbour was closed in 1931. Its ferries moved to the north pier."
ROW = {
    "context": CONTEXT,
    "question": "When?",
    "answer": "1931",
    "items": ["Corran Point is a cape.", "It has a lighthouse."],
    "doc": {"text": CONTEXT},
}


def rendered(jinja: str, passage: str = "{{ context }}") -> str:
    meta = convert(PromptTemplate("toy", "", "t", jinja), passage, Sandbox())
    return meta.body.render(ROW).replace(MARK, PLACEHOLDER)


@pytest.mark.parametrize(
    "inserted",
    [
        "{{context}}",
        "{{  context  }}",
        "{{- context -}}",
        "{{ context | upper }}",
        "{{ context|trim|capitalize }}",
        "{{ context.strip() }}",
        "{{ context.strip().lower() }}",
        "{{ context | replace('\\n', ' ') }}",
        "{{ context[0] | upper }}{{ context[1:] | trim('.') }}",
        "{% for word in context.split() %}{{ word }} {% endfor %}",
        "{% for word in context.split() %}{{ loop.index }}: {{ word | lower }} {% endfor %}",
        "{{ context.split() | join(' ') }}",
        "{% set text = context %}{{ text }}",
        "{% set words = context.split() | list %}{% for word in words %}{{ word }}{% endfor %}",
        "{% set text %}{{ context }}{% endset %}{{ text }}",
        "{% filter upper %}{{ context }}{% endfilter %}",
        "{% if context %}{{ context }}{% endif %}",
        "{{ context if context else 'nothing' }}",
        "{% macro show(x) %}{{ x }}{% endmacro %}{{ show(context) }}",
        "{% with text = context %}{{ text }}{% endwith %}",
    ],
)
def test_the_passage_becomes_the_placeholder(inserted: str) -> None:
    assert (
        rendered(f"Read: {inserted} {{{{ question }}}} ||| x")
        .replace(" ", "")
        .startswith("Read:{{context}}When?")
    )


@pytest.mark.parametrize(
    ("jinja", "expected"),
    [
        ("{{ context + ' Q: ' + question }}", "{{context}} Q: When?"),
        ("{{ context ~ ' ' ~ question }}", "{{context}} When?"),
        ("{{ (context ~ ' ' ~ question) | upper }}", "{{context}} WHEN?"),
        ("{{ [question, context] | join(': ') }}", "When?: {{context}}"),
        ("{{ ' '.join([context, question]) }}", "{{context}} When?"),
        ("{{ context | length }} {{ context }}", f"{len(CONTEXT)} {{{{context}}}}"),
        ("{% if 'ferries' in context %}yes {{ context }}{% endif %}", "yes {{context}}"),
    ],
)
def test_what_stands_around_the_passage_stays(jinja: str, expected: str) -> None:
    assert rendered(jinja) == expected


@pytest.mark.parametrize(
    ("jinja", "expected"),
    [
        (
            "{% for context in items %}- {{ context }} {% endfor %}{{ context }}",
            "- a - b {{context}}",
        ),
        ("{{ context }} {% set context = question %}{{ context }}", "{{context}} When?"),
        (
            "{{ context }} {% set context %}{{ question }}{% endset %}{{ context }}",
            "{{context}} When?",
        ),
        ("{% with context = answer %}{{ context }}{% endwith %} {{ context }}", "1931 {{context}}"),
        (
            "{% macro show(context) %}- {{ context }}{% endmacro %}{{ show(answer) }} {{ context }}",
            "- 1931 {{context}}",
        ),
        (
            "{% set t = question %}{% for x in items %}{% set t = context %}{% endfor %}{{ t }} "
            "{{ context }}",
            "When? {{context}}",
        ),
        (
            "{% set t = question %}{% if not items %}{% set t = context %}{% endif %}{{ t }} "
            "{{ context }}",
            "When? {{context}}",
        ),
        (
            "{% if items %}{% set t = question %}{% else %}{% set t = context %}{% endif %}{{ t }} "
            "{{ context }}",
            "When? {{context}}",
        ),
        (
            "{% if items %}{% set t = context %}{% else %}{% set t = context | trim %}{% endif %}"
            "{{ t }} Q",
            "{{context}} Q",
        ),
    ],
)
def test_a_variable_is_the_passage_only_where_it_holds_it(jinja: str, expected: str) -> None:
    """A variable with the column's name was taken for the passage, and so was one that holds it in
    another branch or in a loop: other texts became the placeholder.
    """
    row = ROW | {"items": ["a", "b"]}
    meta = convert(PromptTemplate("toy", "", "t", jinja), "{{ context }}", Sandbox())
    assert " ".join(meta.body.render(row).replace(MARK, PLACEHOLDER).split()) == expected


def test_a_passage_in_the_response_becomes_the_placeholder_too() -> None:
    assert (
        rendered("Write a text that answers {{ question }} ||| {{ context }}")
        == "Write a text that answers When? ||| {{context}}"
    )


@pytest.mark.parametrize(
    "passage", ["{% for item in items %}\n- {{ item }}\n{% endfor %}", "{{ items | join('\n\n') }}"]
)
@pytest.mark.parametrize(
    "inserted",
    ["{% for x in items %}* {{ x }}\n{% endfor %}", "{{ items | join(' ') }}", "{{ items }}"],
)
def test_a_list_of_texts_is_one_passage(passage: str, inserted: str) -> None:
    assert rendered(f"{inserted}Q", passage) == "{{context}}Q"


@pytest.mark.parametrize("inserted", ["{{ doc.text }}", "{{ doc['text'] | trim }}"])
def test_a_column_inside_a_column_is_found_by_either_spelling(inserted: str) -> None:
    assert rendered(f"{inserted} Q", "{{ doc.text }}") == "{{context}} Q"


def test_a_head_and_tail_passage_is_found_with_other_filters() -> None:
    assert (
        rendered(
            "{{ context[0]|lower }}{{ context[1:] }}, so",
            "{{ context[0]|capitalize }}{{ context[1:]|trim('.') }}",
        )
        == "{{context}}, so"
    )


@pytest.mark.parametrize(
    ("jinja", "status"),
    [
        ("{{ question }} ||| {{ answer }}", "no_passage"),
        ("{{ context | length }} ||| x", "no_passage"),
        ("{{ context[:20] }} ||| x", "part"),
        ("{{ context.split('.')[0] }} ||| x", "part"),
        ("{{ context | truncate(20) }} ||| x", "part"),
        ("{{ context | replace(answer, '_') }} ||| x", "part"),
        ("{% for word in context.split()[:3] %}{{ word }}{% endfor %} ||| x", "part"),
        ("{% for word in context.split() if word != 'the' %}{{ word }}{% endfor %} ||| x", "part"),
        ("{% for word in context.split() %}{{ word }}{{ question }}{% endfor %} ||| x", "part"),
        ("{% set first = context.split()[0] %}{{ first }} ||| x", "part"),
        ("{{ context.__class__ }} ||| x", "refused"),
        ("{{ context }}{{ ''['__class__'] }} ||| x", "refused"),
        ("{{ context ||| x", "syntax"),
        ("{{ context | no_such_filter }} ||| x", "syntax"),
    ],
)
def test_what_cannot_be_converted_says_why(jinja: str, status: str) -> None:
    with pytest.raises(Unconvertible) as caught:
        rendered(jinja)
    assert caught.value.status == status
    assert str(caught.value)


def test_a_variable_that_no_longer_holds_the_passage_is_not_taken_for_it() -> None:
    assert (
        rendered("{% set x = context %}{{ x }}{% set x = question %}{{ x }}") == "{{context}}When?"
    )
