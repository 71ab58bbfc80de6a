"""Evaluation sets: bad files are one clear error before anything is trained."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tasks.core.errors import PipelineError
from tasks.scoring.datasets import (
    asked_columns,
    find_misplaced,
    load_dataset,
    load_items,
    render,
)
from tests.conftest import ROOT

_FILES = sorted((ROOT / "datasets").glob("*.yaml"))
_YESNO: dict[str, Any] = {
    "name": "notices",
    "task_type": "ynqa",
    "label": "answer",
    "labels": ["yes", "no"],
    "templates": [
        {"name": "plain", "instruction": "{{ context }} {{ question }}", "choices": ["Yes", "No"]}
    ],
}
_ITEM = {"id": "1", "context": "A passage.", "question": "Is it?", "answer": "yes"}


def _write(folder: Path, spec: dict[str, Any], items: list[Any]) -> tuple[Path, Path]:
    (folder / "set.yaml").write_text(yaml.safe_dump(spec))
    (folder / "items.jsonl").write_text(
        "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items)
    )
    return folder / "set.yaml", folder / "items.jsonl"


def test_there_are_dataset_files() -> None:
    assert _FILES


@pytest.mark.parametrize("path", _FILES, ids=lambda path: path.stem)
def test_every_shipped_dataset_is_sound(path: Path) -> None:
    dataset = load_dataset(path)
    assert dataset.name == path.stem and len(dataset.templates) == 5


def test_gold_is_the_index_of_the_label(tmp_path: Path) -> None:
    spec, items = _write(tmp_path, _YESNO, [_ITEM, {**_ITEM, "id": "2", "answer": "no"}])
    dataset = load_dataset(spec)
    loaded = load_items(dataset, items)
    assert [item.gold for item in loaded] == [0, 1]
    assert render(dataset.templates[0], loaded[0]) == "A passage. Is it?"


def test_a_column_named_choices_is_shown_where_the_answer_is_free_text(tmp_path: Path) -> None:
    """Without labels a template has no choices of its own: an empty list hid the item's."""
    spec = {
        "name": "exam",
        "task_type": "mcqa",
        "answers": "answer",
        "templates": [
            {"name": "a", "instruction": "{{ context }} {{ question }} {{ choices | join(', ') }}"}
        ],
    }
    item = {**_ITEM, "choices": ["a pump", "a valve"], "answer": "a valve"}
    dataset = load_dataset(_write(tmp_path, spec, [item])[0])
    (loaded,) = load_items(dataset, tmp_path / "items.jsonl")
    assert render(dataset.templates[0], loaded) == "A passage. Is it? a pump, a valve"
    assert asked_columns(dataset) == ("choices", "question")
    _write(tmp_path, spec, [{**_ITEM, "answer": "a valve"}])
    with pytest.raises(PipelineError, match="'choices' is undefined"):
        load_items(dataset, tmp_path / "items.jsonl")


def test_an_item_is_drawn_with_its_document_or_with_its_passage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    items = [
        {**_ITEM, "id": str(number), "context": f"Passage {number}.", "file": file}
        for number, file in enumerate(["a.pdf", "a.pdf", None, 7])
    ]
    spec, path = _write(tmp_path, {**_YESNO, "document": "file"}, [*items, {**_ITEM, "id": "9"}])
    loaded = load_items(load_dataset(spec), path)
    assert [item.cluster for item in loaded] == ["a.pdf", "a.pdf", "Passage 2.", "7", "A passage."]
    spec, path = _write(tmp_path, _YESNO, items)
    assert [item.cluster for item in load_items(load_dataset(spec), path)][:2] == [
        "Passage 0.",
        "Passage 1.",
    ], "the dataset file names no column"
    assert "has no column" not in caplog.text
    spec, path = _write(tmp_path, {**_YESNO, "document": "fiel"}, items)
    load_items(load_dataset(spec), path)
    assert "has no column 'fiel': intervals draw passages" in caplog.text


def test_nested_columns_and_lists(tmp_path: Path) -> None:
    spec = {
        **_YESNO,
        "task_type": "exqa",
        "label": "",
        "labels": [],
        "context": "context.parts",
        "answers": "answers.text",
        "templates": [{"name": "plain", "instruction": "{{ context }} {{ question }}"}],
    }
    item = {
        "id": 7,
        "context": {"parts": ["One.", "Two."]},
        "question": "?",
        "answers": {"text": ["One", "One", "Two"]},
    }
    loaded = load_items(
        load_dataset(_write(tmp_path, spec, [])[0]), _write(tmp_path, spec, [item])[1]
    )
    assert (loaded[0].id, loaded[0].context, loaded[0].golds) == ("7", "One.\nTwo.", ("One", "Two"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [], "label": ""}, "give either answers"),
        ({"label": ""}, "add label"),
        (
            {"templates": [{"name": "a", "instruction": "{{context}}", "choices": ["Yes"]}]},
            "1 choices for 2 labels",
        ),
        (
            {"templates": [{"name": "a", "instruction": "{{context}}", "choices": ["Yes", "Yes"]}]},
            "same choice twice",
        ),
        ({"templates": [_YESNO["templates"][0]] * 2}, "same name"),
        ({"labls": ["yes"]}, "did you mean 'labels'"),
    ],
)
def test_a_contradictory_file_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        load_dataset(_write(tmp_path, {**_YESNO, **change}, [])[0])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "has no items"),
        ([_ITEM, _ITEM], "row 2: the id '1' was there before"),
        ([{**_ITEM, "answer": "yess"}], "unknown label 'yess'.*did you mean 'yes'"),
        ([{**_ITEM, "context": " "}], "is empty"),
        ([{**_ITEM, "question": None}], "item '1': question is empty, there is nothing to ask"),
        ([{**_ITEM, "question": "  "}], "item '1': question is empty"),
        ([{"id": "1", "context": "x"}], "no column 'answer'"),
        (["{not json"], "line 1 is not valid JSON"),
        (["[1]"], "not a JSON object"),
    ],
)
def test_bad_items_are_refused_by_row(tmp_path: Path, items: list[Any], message: str) -> None:
    spec, path = _write(tmp_path, _YESNO, items)
    with pytest.raises(PipelineError, match=message):
        load_items(load_dataset(spec), path)


def test_a_column_that_is_null_beside_a_question_shows_nothing(tmp_path: Path) -> None:
    template = {**_YESNO["templates"][0], "instruction": "{{ context }} {{ hint }}{{ question }}"}
    spec, path = _write(tmp_path, {**_YESNO, "templates": [template]}, [{**_ITEM, "hint": None}])
    dataset = load_dataset(spec)
    assert render(dataset.templates[0], load_items(dataset, path)[0]) == "A passage. Is it?"


def test_an_image_beside_the_items_is_no_fault(tmp_path: Path) -> None:
    spec, _ = _write(tmp_path, _YESNO, [])
    rows = [{**_ITEM, "image": {"bytes": b"\x89PNG", "path": "a.png"}, "raw": b"\x89"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "items.parquet")
    (item,) = load_items(load_dataset(spec), tmp_path / "items.parquet")
    assert "image" not in item.columns and "raw" not in item.columns
    item.model_dump(mode="json")  # as the scorer's journal does


def test_answers_of_a_table_are_the_texts_that_were_meant(tmp_path: Path) -> None:
    dataset = load_dataset(ROOT / "datasets/incidents.yaml")
    (tmp_path / "a.csv").write_text(
        'id,context,question,answers\n1,The cat sat.,Who?,"[""cat"", ""the cat""]"\n'
        "2,The cat sat.,Who?,[sic] cat\n"
    )
    assert [item.golds for item in load_items(dataset, tmp_path / "a.csv")] == [
        ("cat", "the cat"),
        ("[sic] cat",),
    ]
    row = {"id": 1.0, "context": "It took 12 hours.", "question": "How long?", "answers": 12.0}
    (tmp_path / "b.jsonl").write_text(json.dumps(row))
    (item,) = load_items(dataset, tmp_path / "b.jsonl")
    assert (item.id, item.golds) == ("1", ("12",))
    (tmp_path / "c.csv").write_text("id,context,question,answers,answers\n1,a,b,c,d\n")
    with pytest.raises(PipelineError, match="line 1 has the column 'answers' twice"):
        load_items(dataset, tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("cell", "golds"),
    [
        ("['a cat', \"the cat's\"]", ("a cat", "the cat's")),
        ('["a cat", \'the "cat"\']', ("a cat", 'the "cat"')),
        ("['a cat','the cat',]\n", ("a cat", "the cat")),
        ("['a cat", ("['a cat",)),
        ("['a cat', 1]", ("['a cat', 1]",)),
        ("['a' * 99999999]", ("['a' * 99999999]",)),
        ("['a', " + "[" * 9999, ("['a', " + "[" * 9999,)),
    ],
)
def test_a_list_as_pandas_writes_it_is_a_list(
    tmp_path: Path, cell: str, golds: tuple[str, ...]
) -> None:
    dataset = load_dataset(ROOT / "datasets/incidents.yaml")
    path = _table(tmp_path, cell)
    assert [item.golds for item in load_items(dataset, path)] == [golds]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("{'text': ['a cat'], 'answer_start': [3]}", "name a part of it.*as in answers.text"),
        ("['a cat' 'the cat']", "list without commas.*in JSON"),
        ("['a cat'\n 'the cat']", "list without commas"),
        ("[]", "no gold answer"),
    ],
)
def test_what_python_prints_is_no_answer(tmp_path: Path, cell: str, message: str) -> None:
    dataset = load_dataset(ROOT / "datasets/incidents.yaml")
    with pytest.raises(PipelineError, match=rf"a\.csv row 1: .*{message}"):
        load_items(dataset, _table(tmp_path, cell))


def _table(folder: Path, answers: str) -> Path:
    with (folder / "a.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["id", "context", "question", "answers"])
        table.writerow(["1", "The cat sat.", "Who?", answers])
    return folder / "a.csv"


def test_a_missing_question_is_named_with_its_row_and_the_columns(tmp_path: Path) -> None:
    other = {"id": "2", "context": "A passage.", "answer": "yes"}
    spec, path = _write(tmp_path, _YESNO, [_ITEM, other])
    with pytest.raises(
        PipelineError,
        match=r"items\.jsonl row 2: template 'plain', item '2': 'question' is undefined; "
        "the item has the columns id, context, answer$",
    ):
        load_items(load_dataset(spec), path)


def test_a_columns_own_name_comes_before_a_path(tmp_path: Path) -> None:
    change = {"label": "gold.answer", "context": "doc.text", "document": "doc.name"}
    row = {"id": "1", "question": "?", "gold.answer": "yes", "doc.text": "One.", "doc.name": "a"}
    row |= {"doc": {"text": "Two.", "name": "b"}}
    spec, path = _write(tmp_path, {**_YESNO, **change}, [row])
    (item,) = load_items(load_dataset(spec), path)
    assert (item.context, item.golds, item.document) == ("One.", ("yes",), "a")


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        ("{{ question }}", "does not show the passage"),
        ("{{ context }} {{ quest }}", "'quest' is undefined"),
        ("{{ context }} {{ ''.__class__ }}", "unsafe|undefined"),
        ("{{ context ", "template 'a'"),
    ],
)
def test_bad_templates_are_refused_by_name(tmp_path: Path, instruction: str, message: str) -> None:
    spec, path = _write(
        tmp_path,
        {
            **_YESNO,
            "templates": [{"name": "a", "instruction": instruction, "choices": ["Yes", "No"]}],
        },
        [_ITEM],
    )
    with pytest.raises(PipelineError, match=message):
        load_items(load_dataset(spec), path)


def test_an_answer_that_is_not_in_its_passage_is_found(tmp_path: Path) -> None:
    dataset = load_dataset(ROOT / "datasets/incidents.yaml")
    rows = [
        {"context": "Iwan Wyn  Roberts scored.", "answers": ["iwan wyn roberts"]},
        {"context": "Iwan Wyn Roberts scored.", "answers": ["Iwan Roberts", "scored"]},
        {"context": "Iwan Wyn Roberts scored.", "answers": ["Iwan Roberts"]},
        {"context": "Iwan Wyn Roberts scored.", "answers": "Roberts"},
        {"context": "It ran for 15 hours.", "answers": ["5"]},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text(
        "".join(
            json.dumps({"id": str(n), "question": "Who?", **row}) + "\n"
            for n, row in enumerate(rows)
        )
    )
    items = load_items(dataset, path)
    assert find_misplaced(dataset, items) == ["2", "4"], "whole words"
    assert items[3].golds == ("Roberts",), "a text is a list of one"


def test_a_choice_of_items_is_seeded_and_keeps_file_order(tmp_path: Path) -> None:
    spec, path = _write(tmp_path, _YESNO, [{**_ITEM, "id": str(number)} for number in range(30)])
    chosen = [
        [int(item.id) for item in load_items(load_dataset(spec), path, most=5, seed=seed)]
        for seed in (1, 1, 2)
    ]
    assert chosen[0] == chosen[1] == sorted(chosen[0]) and chosen[0] != chosen[2]


@pytest.mark.parametrize(
    "change",
    [
        {"context": None},
        {"context": {"text": "A passage."}},
        {"context": ["A passage.", None]},
        {"context": float("nan")},
        {"id": None},
        {"id": ["1"]},
        {"answer": None},
        {"answer": {"text": ["yes"]}},
    ],
)
@pytest.mark.parametrize("kind", ["labels", "answers"])
def test_a_value_that_is_no_text_is_refused(
    tmp_path: Path, change: dict[str, Any], kind: str
) -> None:
    """Taken as Python prints it, the passage would be "None" and the gold "{'text': ..."."""
    spec = _YESNO
    if kind == "answers":
        templates = [{"name": "plain", "instruction": "{{ context }}"}]
        extraction = {"task_type": "exqa", "answers": "answer", "templates": templates}
        spec = {**_YESNO, **extraction, "label": "", "labels": []}
    file, items = _write(tmp_path, spec, [{**_ITEM, **change}])
    dataset = load_dataset(file)
    with pytest.raises(PipelineError, match=r"items\.jsonl row 1: ") as refused:
        load_items(dataset, items)
    assert str(next(iter(change))) in str(refused.value)


@pytest.mark.parametrize("labels", [["yes"], ["yes", "yes"]])
def test_labels_are_two_or_more_and_different(tmp_path: Path, labels: list[str]) -> None:
    templates = [
        {"name": "a", "instruction": "{{ context }}", "choices": ["A", "B"][: len(labels)]}
    ]
    file, _ = _write(tmp_path, {**_YESNO, "labels": labels, "templates": templates}, [])
    with pytest.raises(PipelineError, match="labels must be two or more, all different"):
        load_dataset(file)


@pytest.mark.parametrize("chance", ["{{ [1, 2] | random }}", "{{ lipsum() }}"])
def test_a_prompt_does_not_differ_by_chance(tmp_path: Path, chance: str) -> None:
    templates = [{"name": "a", "instruction": "{{ context }}" + chance, "choices": ["A", "B"]}]
    file, items = _write(tmp_path, {**_YESNO, "templates": templates}, [_ITEM])
    with pytest.raises(PipelineError, match="template 'a'"):
        load_items(load_dataset(file), items)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"a": 1}'.encode("utf-16")),
        ("a.jsonl", '{"a": "é"}'.encode("latin-1")),
        ("a.csv", b"a,b\n1,2,3\n"),
        ("a.jsonl.gz", b"\x1f\x8b broken"),
        ("a.parquet", b"PAR1 broken"),
        ("a.csv", b'a,b\n"' + b"x" * 200_000 + b'",2,3\n'),
    ],
)
def test_damaged_items_are_one_line_with_their_place(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    dataset = load_dataset(_write(tmp_path, _YESNO, [])[0])
    with pytest.raises(PipelineError, match=name) as refused:
        load_items(dataset, tmp_path / name)
    assert "\n" not in str(refused.value)
