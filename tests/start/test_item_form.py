"""The forms in which labelled items are published: recognised, or refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.errors import PipelineError
from tasks.scoring.datasets import load_dataset, load_items, parse_item, render
from tasks.start.item_form import HOUSE, ItemForm, recognise
from tasks.start.proposal import check_items, dataset_text
from tests.conftest import ROOT

_CONTEXT = "The north pump was stopped in May because its bearing ran hot."
_ASK = {"id": "1", "context": _CONTEXT, "question": "Which pump was stopped?"}
_SAY = {"id": "1", "context": _CONTEXT, "hypothesis": "A pump was stopped."}

Rows = list[dict[str, Any]]


def _save(folder: Path, rows: Rows, name: str = "items.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def _each(row: dict[str, Any], column: str, *values: Any) -> Rows:
    """Rows that differ in one column, and in their id."""
    return [{**row, "id": f"q{n}", column: value} for n, value in enumerate(values)]


def _without(rows: Rows, column: str) -> Rows:
    return [{name: value for name, value in row.items() if name != column} for row in rows]


def _renamed(rows: Rows, **names: str) -> Rows:
    return [{names.get(name, name): value for name, value in row.items()} for row in rows]


_SUPPORTS = ("SUPPORTS", "NOT ENOUGH INFO", "REFUTES")
_PUBMED = [
    {
        "pubid": 7000 + n,
        "question": "Does heat stop a pump?",
        "context": {"contexts": [_CONTEXT, "It was hot."], "labels": ["RESULTS", "END"]},
        "long_answer": "It does so in most works.",
        "final_decision": decision,
    }
    for n, decision in enumerate(("maybe", "no", "yes"))
]
_CHOICES = _each(_SAY, "choice", "NotMentioned", "Entailment", "Contradiction")
_SQUAD = {**_ASK, "title": "Pumps", "answers": {"text": ["north pump"], "answer_start": [4]}}
#: Name -> rows, and the printed line; empty: the form that docs/datasets.md shows.
_FORMS: dict[str, tuple[Rows, str]] = {
    "answers a list": ([{**_ASK, "answers": ["north pump"]}], ""),
    "answers a text": ([{**_ASK, "answers": "north pump"}], ""),
    "SQuAD on the hub": ([_SQUAD], "id id, context context, answers answers.text"),
    "free answers": (
        _each(_ASK, "answer", "yes", "in May", "a bearing"),
        "id id, context context, answers answer",
    ),
    "yes-no": (_each(_ASK, "answer", "yes", "no"), ""),
    "yes alone": (_each(_ASK, "answer", "yes"), ""),
    "Yes and No": (
        _each(_ASK, "label", "No", "Yes"),
        "id id, context context, label label (Yes, No)",
    ),
    "BoolQ": (
        _renamed(_each(_ASK, "answer", True, False), context="passage"),
        "id id, context passage, label answer (True, False)",
    ),
    "true and false": (
        _each(_ASK, "answer", "false", "true"),
        "id id, context context, label answer (true, false)",
    ),
    "with maybe": (
        _each(_ASK, "answer", "maybe", "no"),
        "id id, context context, label answer (yes, no, maybe)",
    ),
    "PubMedQA on the hub": (
        _PUBMED,
        "id pubid, context context.contexts, label final_decision (yes, no, maybe)",
    ),
    "inference": (_renamed(_each(_SAY, "label", "neutral"), context="premise"), ""),
    "VitaminC": (
        _renamed(
            _each(_SAY, "label", *_SUPPORTS),
            **{"id": "unique_id", "context": "evidence", "hypothesis": "claim"},
        ),
        "id unique_id, context evidence, claim claim, "
        "label label (SUPPORTS, NOT ENOUGH INFO, REFUTES)",
    ),
    "ContractNLI": (
        [{**row, "label": n, "document": "a.pdf"} for n, row in enumerate(_CHOICES)],
        "id id, context context, label choice (Entailment, NotMentioned, Contradiction), "
        "document document",
    ),
    "SNLI": (
        _renamed(_each(_SAY, "gold_label", "contradiction", "entailment"), id="uid"),
        "id uid, context context, label gold_label (entailment, neutral, contradiction)",
    ),
    "RTE": (
        _renamed(_each(_SAY, "label", "not_entailment", "entailment"), id="idx", context="premise"),
        "id idx, context premise, label label (entailment, not_entailment)",
    ),
    "two classes": (
        _renamed(_each(_SAY, "answer", "False", "True"), hypothesis="statement", context="text"),
        "id id, context text, claim statement, label answer (True, False)",
    ),
    "other words": (
        _each(_SAY, "label", "contradicted", "not mentioned", "entailed"),
        "id id, context context, label label (entailed, not mentioned, contradicted)",
    ),
    "unknown": (
        _each(_SAY, "label", "false", "unknown", "true"),
        "id id, context context, label label (true, unknown, false)",
    ),
}


@pytest.mark.parametrize("form", _FORMS)
def test_a_published_form_is_read_as_evaluate_reads_it(tmp_path: Path, form: str) -> None:
    rows, told = _FORMS[form]
    path = _save(tmp_path, rows)
    found = recognise(path, "mine")
    assert (found.describe() if found != HOUSE[found.kind] else "") == told
    assert check_items("mine", found, path, tmp_path)[0] == len(rows)


def _prompts(folder: Path, rows: Rows) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name of each template -> the first item's prompt, without its passage, and the choices."""
    path = _save(folder, rows)
    file = folder / "mine.yaml"
    file.write_text(dataset_text("mine", recognise(path, "mine")))
    dataset = load_dataset(file)
    item = load_items(dataset, path)[0]
    shown = {t.name: render(t, item).replace(item.context, "") for t in dataset.templates}
    return {t.name: (shown[t.name].strip(), t.choices) for t in dataset.templates}


def test_three_answers_are_asked_for_as_in_pubmedqa(tmp_path: Path) -> None:
    found = _prompts(tmp_path, _PUBMED)
    shipped = load_dataset(ROOT / "datasets/pubmedqa.yaml")
    item = parse_item(shipped, _PUBMED[0], "here")
    assert {name: choices for name, (_, choices) in found.items()} == {
        template.name: template.choices for template in shipped.templates
    }
    first = render(shipped.templates[0], item).replace(item.context, "").strip()
    assert found["passage_question"][0] == first
    assert found["question_answer"][0].startswith("Text: ")
    assert 'with "yes", "no", or "maybe" from the text' in found["question_answer"][0]


@pytest.mark.parametrize(
    ("labels", "asked", "choices"),
    [
        (("No", "Unknown", "Yes"), "Yes, no, or maybe?", ("Yes", "Maybe", "No")),
        (("REFUTES", "SUPPORTS"), "Yes or no?", ("Yes", "No")),
        (("NotMentioned", "Entailment"), "Yes or maybe?", ("Yes", "Maybe")),
    ],
)
def test_inference_offers_the_classes_that_there_are(
    tmp_path: Path, labels: tuple[str, ...], asked: str, choices: tuple[str, ...]
) -> None:
    rows = _renamed(_each(_SAY, "label", *labels), hypothesis="claim")
    prompt, offered = _prompts(tmp_path, rows)["justified"]
    assert prompt.endswith(f'saying that "A pump was stopped."? {asked}')
    assert offered == choices


def test_the_task_decides_where_the_form_allows_several(tmp_path: Path) -> None:
    both = _save(tmp_path, _each(_ASK, "answer", "yes", "no"))
    assert recognise(both, "mine").kind == "ynqa"
    assert recognise(both, "mine", "exqa") == ItemForm("exqa", answers="answer")
    rows = [{**row, "answers": [_CONTEXT]} for row in _each(_ASK, "label", "Yes", "No")]
    many = _save(tmp_path, rows, "many.jsonl")
    assert [recognise(many, "mine", task).kind for task in ("", "ynqa")] == ["exqa", "ynqa"]
    with pytest.raises(PipelineError, match="TASK=nli, but the items of .* the form of exqa or yn"):
        recognise(many, "mine", "nli")


def test_cells_of_a_table_are_text_or_empty(tmp_path: Path) -> None:
    table = tmp_path / "items.csv"
    table.write_text(
        "qid,context,passage,question,label\n1,,It broke.,Did it?,True\n2,,It ran.,It?,False\n"
    )
    found = recognise(table, "mine")
    assert found.describe() == "id qid, context passage, label label (True, False)"


def test_the_first_column_of_unique_ids_is_taken(tmp_path: Path) -> None:
    rows = [{**row, "id": "same"} for row in _each(_ASK, "answers", "pump", "May")]
    path = _save(tmp_path, [{**row, "qid": n, "idx": n} for n, row in enumerate(rows)])
    assert recognise(path, "mine").id == "qid"


_WAY_ON = (
    "or: make start without EVALUATION, then set the columns in datasets/mine.yaml and the file in "
    "evaluate.items of profiles/mine.yaml"
)
_NLI, _YNQA = "entailment, neutral, contradiction", "yes, no, maybe"
_TOPICS: Rows = [{"id": "1", "text": "A pump.", "label": "works"}]
#: Rows -> what is said of them before the way on.
_REFUSED: list[tuple[Rows, str]] = [
    (
        _each(_SAY, "label", 0, 2, 1),
        "label holds numbers (0, 2, 1), and nothing says which number is which class: write words "
        f"({_NLI})",
    ),
    (_each(_ASK, "label", 0, 1), f"which number is which class: write words ({_YNQA})"),
    (
        _without(_each(_ASK, "answers", "pump"), "id"),
        "no column of ids among context, question, answers: add a column id with unique values",
    ),
    (
        [{**_ASK, "answers": "pump"}, {**_ASK, "answers": "May"}],
        "rows 1 and 2 have the same id, '1': add a column id with unique values",
    ),
    ([*_each(_ASK, "answers", "a"), {**_ASK, "answers": "b", "id": None}], "row 2 has no id: add"),
    (
        _each(_ASK, "answer", "yes", "no", "Yes"),
        "answer has 'yes' (row 1) and 'Yes' (row 3), which differ only in case: write one of them",
    ),
    (
        _each(_ASK, "answer", "yes", "no", "true"),
        "'yes' (row 1) and 'true' (row 3), which mean the",
    ),
    (
        _each(_SAY, "label", "a", "b", "c", "d"),
        "label has 4 different values (a, b, c, d), more than the classes of nli: write at most 3",
    ),
    (
        _each(_ASK, "answer", "yes", "no", "yse"),
        f"row 3 has the unknown label 'yse' in answer: write words ({_YNQA})",
    ),
    (_each(_SAY, "label", "SUPPORTS", "DISPUTED"), "row 2 has the unknown label 'DISPUTED' in la"),
    (_each(_SAY, "label", "SUPPORTS"), "'SUPPORTS' alone, and macro F1 needs the other answers"),
    (_each(_ASK, "answer", "Yes", "Maybe"), "answer has 'Yes' and 'Maybe' alone, and macro F1 nee"),
    (
        [{"id": "1", "question": "Why?", "answers": "so"}],
        "no column of the passage among id, question, answers: a question is asked of the passage "
        "that answers it; add that as context",
    ),
    (
        [{**_ASK, "context": {"page": "4"}, "answers": "pump"}],
        "context is an object of page: write the passage in context as text",
    ),
    (
        [{"id": "1", "body": "a"}],
        "an item has the columns id, body; known forms have question and ",
    ),
]


@pytest.mark.parametrize(("rows", "said"), _REFUSED)
def test_what_may_mean_two_things_is_refused(tmp_path: Path, rows: Rows, said: str) -> None:
    with pytest.raises(PipelineError) as refused:
        recognise(_save(tmp_path, rows), "mine")
    told = str(refused.value)
    assert said in told and told.endswith(f"; {_WAY_ON}") and "\n" not in told


def test_topics_and_sentiment_are_written_by_hand(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="text and label without a question or a claim") as told:
        recognise(_save(tmp_path, _TOPICS), "mine")
    assert (
        "make start without EVALUATION, then write task_type topic_class or sentiment, label, "
        "labels and templates (docs/datasets.md) in datasets/mine.yaml"
    ) in str(told.value)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "id;context;question;answers\n1;a, b;Why?;a\n", "are divided by ;: save it with"),
        ("a.csv", "id\tcontext\tquestion\n1\ta, b\tWhy?\n", "are divided by a tab: save it with"),
        ("a.tsv", "id;context;question\n1;a;b\n", "line 1: its cells are divided by ;"),
        ("a.json", '[{"id": "1"}]', "of a list of items: .venv/bin/python -c "),
        ("a.json", '{\n  "data": []\n}\n', "write it as one; of a list of items: "),
        (
            "a.json",
            '{"id": "1"}\n{"id": "2"}\n',
            "each of its lines is an item, so name it a.jsonl",
        ),
        ("a.json.gz", "", "rows must be in a file of .jsonl"),
    ],
)
def test_a_file_in_another_form_says_how_to_save_it(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PipelineError) as refused:
        recognise(tmp_path / name, "mine")
    assert said in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["all of it", "the team's $HOME"])
def test_the_command_for_a_list_writes_items(tmp_path: Path, name: str) -> None:
    """It is copied from the error, and run."""
    rows = _each(_ASK, "answer", "yes", "no")
    (tmp_path / f"{name}.json").write_text(json.dumps(rows, indent=1))
    with pytest.raises(PipelineError) as refused:
        recognise(tmp_path / f"{name}.json", "mine")
    command = str(refused.value).split("items: ")[-1].replace(".venv/bin/python", sys.executable)
    subprocess.run(command, shell=True, check=True)
    assert recognise(tmp_path / f"{name}.jsonl", "mine") == HOUSE["ynqa"]


def test_answers_that_are_in_no_passage_are_told(tmp_path: Path) -> None:
    rows = _each(_ASK, "answer", "Relevant", "Irrelevant", "in May")
    path = _save(tmp_path, rows)
    _, told = check_items("mine", recognise(path, "mine"), path, tmp_path)
    assert told[0].startswith(
        "2 of them, more than half, have no answer in their passage (q0, q1):"
    )
    path = _save(tmp_path, rows[1:])
    _, told = check_items("mine", recognise(path, "mine"), path, tmp_path)
    assert told == ["1 of them have no answer in their passage: q1"]


def test_a_label_that_no_item_has_is_told(tmp_path: Path) -> None:
    path = _save(tmp_path, _each(_SAY, "label", "entailment", "contradiction"))
    _, told = check_items("mine", recognise(path, "mine"), path, tmp_path)
    assert told == [
        "no item has the label neutral: if none will have it, take it and its choices out of "
        "datasets/mine.yaml"
    ]


@pytest.mark.parametrize("kind", HOUSE)
def test_every_dataset_that_start_writes_is_valid(kind: str) -> None:
    values = yaml.safe_load(dataset_text("true", HOUSE[kind]))
    assert values["name"] == "true" and values["task_type"] == kind
