"""The remix end to end: real files, real processes."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bonito.params import GeneratorParams
from bonito.remix.draw import Draw
from bonito.remix.output import REMIXED
from bonito.remix.stage import remix_datasets
from tasks.core.errors import PipelineError
from tasks.core.params import parse_params
from tasks.core.stage import run_stage
from tests.conftest import assert_pages_are_checked

TEMPLATES = {
    "what is it": (
        "{{ text }}\nWhat kind is it? ||| {{ answer_choices[label] }}",
        "bad ||| good",
        "sentiment",
    ),
    "ask": ("Ask about: {{ text | trim }} ||| {{ question }}", "", "question generation"),
    "write": ("Write a text that answers {{ question }} ||| {{ text }}", "", "text generation"),
    "without": ("{{ question }} ||| {{ answer_choices[label] }}", "bad ||| good", ""),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one dataset, ``toy``, of 200 rows in two files."""
    monkeypatch.chdir(tmp_path)
    write_templates(TEMPLATES)
    Path("datasets.yaml").write_text(
        yaml.safe_dump(
            {"datasets": [{"dataset": "toy", "passage": "{{ text }}", "licence": "cc0"}]}
        )
    )
    rows = [row(number) for number in range(200)]
    with gzip.open("rows.jsonl.gz", "wt") as handle:
        handle.writelines(json.dumps(each) + "\n" for each in rows[:120])
    pq.write_table(pa.Table.from_pylist(rows[120:]), "rows.parquet")
    write_sources(
        {"dataset": "toy", "path": "rows.jsonl.gz"}, {"dataset": "toy", "path": "rows.parquet"}
    )
    return tmp_path


def row(number: int) -> dict[str, Any]:
    return {
        "text": f"Passage {number // 2} tells of a harbour that was closed.",
        "question": f"Why was harbour {number} closed?",
        "label": number % 2,
    }


def write_templates(templates: dict[str, tuple[str, str, str]]) -> None:
    lines = ["dataset_name,dataset_config_name,template_name,task_type"]
    lines += [
        f"toy,,{name},{task_type}" for name, (_, _, task_type) in templates.items() if task_type
    ]
    Path("types.csv").write_text("\n".join(lines) + "\n")
    entries = {
        name: {"name": name, "jinja": jinja, "answer_choices": choices or None}
        for name, (jinja, choices, _) in templates.items()
    }
    Path("templates/toy").mkdir(parents=True, exist_ok=True)
    Path("templates/toy/templates.yaml").write_text(
        yaml.safe_dump({"dataset": "toy", "templates": entries})
    )


def write_sources(*sources: dict[str, Any]) -> None:
    Path("sources.yaml").write_text(yaml.safe_dump({"sources": list(sources)}))


def remix(out: str = "out", **settings: Any) -> int:
    values = {
        "datasets": ["datasets.yaml"],
        "task_types": ["types.csv"],
        "seed": 1,
        "workers": 1,
        "trial_rows": 5,
        "render_seconds": 0.5,
        **settings,
    }
    Path("bonito.yaml").write_text(yaml.safe_dump({"remix": values}))
    arguments = [
        "--params",
        "bonito.yaml",
        "--templates",
        "templates",
        "--sources",
        "sources.yaml",
        "--out",
        out,
    ]
    return run_stage(
        "remix", remix_datasets, ("templates", "sources"), arguments, GeneratorParams, "bonito"
    )


def rows_of(name: str, out: str = "out") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(f"{out}/{name}.parquet").to_pylist()
    return found


def summary(out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "summary.json").read_text())
    return found


def test_rows_become_instructions_with_the_placeholder(home: Path) -> None:
    assert remix(held_out=0.2) == 0
    train, held_out = rows_of("train"), rows_of("heldout")
    assert pq.read_schema("out/train.parquet").names == REMIXED.names
    assert_pages_are_checked(Path("out/train.parquet"))
    assert len(train) + len(held_out) == 200
    assert {entry["template"] for entry in train} == set(TEMPLATES) - {"without"}
    for entry in train + held_out:
        assert entry["context"] not in entry["instruction"] + entry["response"]
        assert ("{{context}}" in entry["response"]) == (entry["template"] == "write")
        assert ("{{context}}" in entry["instruction"]) == (entry["template"] != "write")
        assert (
            entry["task_type"]
            == {"what is it": "sentiment", "ask": "qg", "write": "text_gen"}[entry["template"]]
        )
    assert 10 < len(held_out) < 80
    assert not {entry["context"] for entry in train} & {entry["context"] for entry in held_out}
    card = Path("out/CARD.md").read_text()
    assert "| toy | 200 | cc0 |" in card
    assert "| toy: without | no_passage |" in card


def test_the_bytes_do_not_depend_on_the_workers(home: Path) -> None:
    assert remix("one", workers=1, held_out=0.1, caps={"sentiment": 20}) == 0
    assert remix("eight", workers=8, held_out=0.1, caps={"sentiment": 20}) == 0
    names = {path.name for path in Path("one").iterdir()}
    assert names == {
        "train.parquet",
        "heldout.parquet",
        "rejects.parquet",
        "summary.json",
        "CARD.md",
        "manifest.sha256.json",
    }
    for name in names:
        assert Path("one", name).read_bytes() == Path("eight", name).read_bytes(), name


def test_a_row_draws_its_template_by_its_content_not_its_place(home: Path) -> None:
    assert remix("one") == 0
    write_sources(
        {"dataset": "toy", "path": "rows.parquet"}, {"dataset": "toy", "path": "rows.jsonl.gz"}
    )
    assert remix("two") == 0
    assert [entry["row_id"] for entry in rows_of("train", "one")] != [
        entry["row_id"] for entry in rows_of("train", "two")
    ]
    assert {entry["row_id"]: entry for entry in rows_of("train", "one")} == {
        entry["row_id"]: entry for entry in rows_of("train", "two")
    }


def test_the_mixture_can_be_steered(home: Path) -> None:
    assert (
        remix(
            max_rows_per_dataset=150,
            weights={"sentiment": 8.0, "text_gen": 0.0},
            caps={"question generation": 5},
        )
        == 0
    )
    kinds = Counter(entry["task_type"] for entry in rows_of("train"))
    assert kinds["qg"] == 5
    assert kinds["text_gen"] == 0
    assert kinds["sentiment"] > 100
    dropped = summary()["dropped"]
    assert dropped["over_dataset_cap"] == 50
    assert dropped["over_task_type_cap"] == 150 - 5 - kinds["sentiment"]
    assert Counter(entry["reason"] for entry in rows_of("rejects")) == {
        "over_task_type_cap": dropped["over_task_type_cap"]
    }


def test_no_row_is_lost_without_a_reason(home: Path) -> None:
    rows = [
        row(1),
        row(1),
        row(3) | {"text": ""},
        row(5) | {"text": "x" * 500},
        row(7),
        row(9) | {"question": ""},
        row(11) | {"question": "{{context}}"},
        row(13) | {"question": "Why {{ context }}?"},
    ]
    Path("odd.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    write_templates({"ask": TEMPLATES["ask"]})
    write_sources({"dataset": "toy", "path": "odd.jsonl"})
    assert remix(max_context_chars=200) == 0
    found = summary()
    reasons = {
        "duplicate_row": 1,
        "empty_context": 1,
        "context_too_long": 1,
        "empty_response": 1,
        "placeholder_in_row": 2,
    }
    assert (found["rows_in"], found["rows_kept"], found["dropped"]) == (8, 2, reasons)
    assert {entry["reason"] for entry in rows_of("rejects")} == set(reasons) - {"duplicate_row"}


@pytest.mark.parametrize("ask", ["{{ question }}", "{{ question | trim }}"])
def test_null_is_no_text(home: Path, ask: str) -> None:
    """Jinja prints null as None: a row's passage or response was that word."""
    rows = [row(1), row(3) | {"question": None}, row(5) | {"text": None}]
    Path("nulls.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    write_templates({"ask": (f"Ask about: {{{{ text }}}} ||| {ask}", "", "question generation")})
    write_sources({"dataset": "toy", "path": "nulls.jsonl"})
    assert remix() == 0
    assert [entry["response"] for entry in rows_of("train")] == ["Why was harbour 1 closed?"]
    assert summary()["dropped"] == {"empty_response": 1, "empty_context": 1}


@pytest.mark.parametrize(
    ("jinja", "choices", "task_type", "said"),
    [
        (
            "{{ text }} ||| {{ answr }}",
            "",
            "question generation",
            (
                "missing_column: 5 of 5 rows: it names a column that the row lacks: 'answr' is "
                "undefined; first on sample row 1"
            ),
        ),
        ("{{ text }} ||| {{ answer_choices[label + 5] }}", "a ||| b", "sentiment", "bad_label"),
        (
            "{{ text }}{{ text.__class__ }} ||| x",
            "",
            "sentiment",
            "refused: it reads the attribute '__class__'",
        ),
        (
            (
                "{{ text }}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor "
                "%}{% endfor %} ||| x"
            ),
            "",
            "sentiment",
            "timeout",
        ),
        ("{{ text }} ||| {{ question }}", "", "", "untyped: it has no task type"),
        ("{{ text[:9] }} ||| {{ question }}", "", "sentiment", "part"),
    ],
)
def test_a_bad_template_stops_the_run_or_is_left_out(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    jinja: str,
    choices: str,
    task_type: str,
    said: str,
) -> None:
    write_templates(TEMPLATES | {"odd one": (jinja, choices, task_type)})
    assert remix() == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: remix: template 'toy: odd one' cannot be used: ")
    assert said in error
    assert not Path("out").exists()
    assert remix(unusable_templates="skip") == 0
    assert len(rows_of("train")) == 200
    assert "toy: odd one" in Path("out/CARD.md").read_text()


@pytest.mark.parametrize("labels", [(0, 1), (1, 0)])
def test_a_template_for_some_rows_is_tried_on_rows_of_every_part(
    home: Path, labels: tuple[int, int]
) -> None:
    """Sorted by label, the first rows all gave no example: the run stopped, or skipped it."""
    rows = [row(number) | {"label": labels[number // 100]} for number in range(200)]
    Path("sorted.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    some = "{% if label == 1 %}{{ text }} Why? ||| {{ question }}{% endif %}"
    write_templates({"some": (some, "", "question generation"), "ask": TEMPLATES["ask"]})
    write_sources({"dataset": "toy", "path": "sorted.jsonl"})
    assert remix() == 0
    assert {entry["template"] for entry in rows_of("train")} == {"some", "ask"}


def test_a_fault_on_a_later_row_names_template_and_row(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row(number) for number in range(60)] + [row(60) | {"label": 7}]
    Path("late.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    write_templates({"what is it": TEMPLATES["what is it"]})
    write_sources({"dataset": "toy", "path": "late.jsonl"})
    assert remix() == 2
    assert "template 'toy: what is it' fails on row " in (
        error := capsys.readouterr().err.splitlines()[-1]
    )
    assert "bad_label: label 7 is out of range: the template has 2 answer choices" in error
    assert remix(unusable_templates="skip") == 0
    (rejected,) = rows_of("rejects")
    assert rejected["row_id"] in error
    assert "| toy: what is it: bad_label | 1 |" in Path("out/CARD.md").read_text()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            {"dataset": "toys", "path": "rows.parquet"},
            "no passage is known for 'toys' (did you mean 'toy'?)",
        ),
        ({"dataset": "toy"}, "needs either 'path' or 'hub'"),
        (
            {"dataset": "toy", "path": "rows.parquet", "split": "train"},
            "toy: 'split' goes with 'hub'; all rows at 'path' are read",
        ),
        ({"dataset": "toy", "path": "gone.jsonl"}, "no rows at"),
        (
            {"dataset": "toy", "path": "rows.parquet", "colums": {}},
            "unknown key 'colums' of sources, entry 1",
        ),
        (
            {"dataset": "toy", "path": "rows.parquet", "columns": {"text": "txt"}},
            "row 1 of rows.parquet (toy) lacks the column 'txt'",
        ),
        (
            {"dataset": "toy", "path": "rows.parquet", "labels": {"label": ["bad", "good"]}},
            "row 1 of rows.parquet (toy): the label 0 in 'label' is not one of",
        ),
        ({"dataset": "toy", "path": "broken.jsonl"}, "broken.jsonl line 2 is not valid JSON"),
    ],
)
def test_a_bad_source_is_named(
    home: Path, capsys: pytest.CaptureFixture[str], source: dict[str, Any], said: str
) -> None:
    Path("broken.jsonl").write_text(json.dumps(row(1)) + "\n{\n")
    write_sources(source)
    assert remix() == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_an_option_may_hold_the_mark_between_the_options(home: Path) -> None:
    """It split the instruction, and the row was lost."""
    options = {"first": "a ||| b", "second": "c", "label": 0}
    Path("odd.jsonl").write_text(json.dumps(row(1) | options))
    ask = "{{ text }} {{ answer_choices[0] }} or {{ answer_choices[1] }}? ||| "
    write_templates(
        {"ask": (ask + "{{ answer_choices[label] }}", "{{ first }} ||| {{ second }}", "mcqa")}
    )
    write_sources({"dataset": "toy", "path": "odd.jsonl"})
    assert remix() == 0
    (entry,) = rows_of("train")
    assert entry["instruction"] == "{{context}} a ||| b or c?" and entry["response"] == "a ||| b"


def test_columns_labels_and_constants_are_mapped(home: Path) -> None:
    Path("verbal.csv").write_text(
        'body,kind\n"A harbour, closed since the war, opens again.",good\n"The ferry was '
        'late again this morning.",bad\n'
    )
    write_sources(
        {
            "dataset": "toy",
            "path": "verbal.csv",
            "columns": {"text": "body", "label": "kind"},
            "labels": {"label": ["bad", "good"]},
            "constants": {"question": "Q"},
        }
    )
    write_templates({"what is it": TEMPLATES["what is it"]})
    assert remix() == 0
    assert [entry["response"] for entry in rows_of("train")] == ["good", "bad"]


def test_two_columns_may_swap_their_names(home: Path) -> None:
    """The second took what the first had just put there."""
    Path("swapped.jsonl").write_text(
        json.dumps({"text": "Which harbour?", "question": "A harbour."})
    )
    columns = {"text": "question", "question": "text"}
    write_sources({"dataset": "toy", "path": "swapped.jsonl", "columns": columns})
    write_templates({"ask": TEMPLATES["ask"]})
    assert remix() == 0
    (entry,) = rows_of("train")
    assert (entry["context"], entry["response"]) == ("A harbour.", "Which harbour?")


def test_a_template_that_the_datasets_file_leaves_out_is_not_used(home: Path) -> None:
    """Even if a table gives it a task type: that of the paper has 323."""
    dataset = {"dataset": "toy", "passage": "{{ text }}", "leave_out": ["ask"]}
    Path("datasets.yaml").write_text(yaml.safe_dump({"datasets": [dataset]}))
    assert remix() == 0
    assert {entry["template"] for entry in rows_of("train")} == {"what is it", "write"}
    assert "| toy: ask | left_out |" in Path("out/CARD.md").read_text()


def test_nothing_remixed_is_no_success(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert remix(max_context_chars=3) == 2
    assert "none of 200 rows gave an example (200 context_too_long)" in capsys.readouterr().err
    Path("templates/toy").rename("templates/toys")
    assert remix(unusable_templates="skip") == 2
    assert "the templates folder has no templates of toy" in capsys.readouterr().err
    Path("rows.parquet").unlink()
    Path("none.jsonl").write_text("")
    write_sources({"dataset": "toy", "path": "none.jsonl"})
    assert remix() == 2
    assert "sources.yaml: toy has no rows" in capsys.readouterr().err


def test_hub_and_local_rows_mix(home: Path) -> None:
    hub = home / "hub"
    hub.mkdir()
    (hub / "train.jsonl").write_text(
        "".join(json.dumps(row(number)) + "\n" for number in range(300, 310))
    )
    write_sources({"dataset": "toy", "hub": str(hub)}, {"dataset": "toy", "path": "rows.parquet"})
    assert remix() == 0
    assert len(rows_of("train")) == 90


def test_a_hub_dataset_that_cannot_be_read_is_named(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sources({"dataset": "toy", "hub": str(home / "gone")})
    assert remix() == 2
    assert "gone' cannot be read: " in (line := capsys.readouterr().err.splitlines()[-1])
    assert "toy: hub dataset" in line


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": {"sentimant": 1.0}}, "did you mean 'sentiment'"),
        ({"caps": {"sentiment": -1}}, "must be at least 0"),
        ({"caps": {"qg": 5, "question generation": 50}}, "names a type twice: qg"),
        ({"max_rows": 3}, "unknown key"),
    ],
)
def test_bad_parameters_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        parse_params(
            {"remix": {"datasets": ["a"], "task_types": ["b"], "seed": 1, **settings}},
            "bonito.yaml",
            GeneratorParams,
        )


def test_a_draw_is_fair_and_knows_no_order(tmp_path: Path) -> None:
    rows = [row(number) for number in range(500)]
    forward = Draw(rows, ("toy", ""), 100, 1, tmp_path / "a")
    backward = Draw(rows[::-1] + rows[:3], ("toy", ""), 100, 1, tmp_path / "b")
    drawn = dict(forward)
    assert len(forward) == 100
    assert drawn == dict(backward)
    assert (forward.seen, forward.dropped) == (500, {"over_dataset_cap": 400})
    assert backward.seen == 503
    assert sum(backward.dropped.values()) == 403
    numbers = [int(each["question"].split()[3]) for each in drawn.values()]
    assert numbers == sorted(numbers)
    assert 30 < sum(number < 250 for number in numbers) < 70
    assert drawn != dict(Draw(rows, ("toy", ""), 100, 2, tmp_path / "c"))
