"""Supervision sources: each gives the rows it says, nothing is lost silently, and what cannot be
right is one line before anything is trained.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml

from bonito.remix.output import REMIXED
from tasks.core.files import read_json, row_seed
from tasks.core.params import Params
from tasks.core.parquet import TableWriter, read_table, write_table
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tasks.generate import shards
from tasks.generate import stage as generate
from tasks.generate.plan import plan
from tasks.supervise import stage as supervise
from tasks.validate import stage as validate
from tests.conftest import ROOT, instruction_table, passage_table
from tests.supervise.test_constructed import passages

NONE = str(ROOT / "supervision/none")
_CONTEXT = "Pump P-{} failed at noon because its seal broke."


def _item(number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "context": _CONTEXT.format(number),
        "question": f"Did P-{number} fail?",
        "answer": "yes" if number % 2 else "no",
    }


def _jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _remixed(path: Path, count: int = 5) -> str:
    row = {
        "dataset": "squad",
        "config": "",
        "template": "t",
        "task_type": "exqa",
        "context": "The sky is blue.",
        "instruction": "{{context}} Which colour?",
    }
    rows = [{**row, "row_id": f"r{n}", "response": "blue"} for n in range(count)]
    rows[0]["response"] = " "
    rows.append({**row, "row_id": "null", "context": None, "response": None})
    write_table(path, pa.Table.from_pylist(rows, schema=REMIXED))
    return str(path)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any) -> Any:
    """Return a function that runs the stage with a source and returns its exit status."""
    monkeypatch.chdir(tmp_path)
    write_table(Path("passages.parquet"), passage_table(9))
    write_table(Path("instructions.parquet"), instruction_table(6))
    _jsonl(Path("items.jsonl"), [_item(number) for number in range(3)])

    def call(
        source: str,
        rows: str = NONE,
        max_rows: int = 0,
        items: str = "items.jsonl",
        dataset: str = str(ROOT / "datasets/privacy.yaml"),
        **sections: Any,
    ) -> int:
        params = make_params(
            supervise={"source": source, "rows": rows, "max_rows": max_rows},
            evaluate={"dataset": dataset, "items": "items.jsonl"},
            **sections,
        )
        given = [
            "--passages",
            "passages.parquet",
            "--instructions",
            "instructions.parquet",
            "--rows",
            rows,
            "--items",
            items,
            "--reviews",
            NONE,
        ]
        return supervise.main(["--params", str(params), *given, "--out", "artifacts/supervise"])

    return call


def _made() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return read_table(Path("artifacts/supervise/instructions.parquet")).to_pylist(), read_json(
        Path("artifacts/supervise/summary.json")
    )


@pytest.mark.parametrize("source", ["bonito", "prompted"])
def test_what_a_generator_wrote_goes_through_unchanged(run: Any, source: str) -> None:
    assert run(source) == 0
    assert _made()[0] == instruction_table(6).to_pylist()


def test_without_labelled_items_whole_passages_are_held_out(run: Any) -> None:
    table = instruction_table(30).to_pylist()
    for number, row in enumerate(table):
        row["passage_id"] = f"passage {number // 2}"
    rows = pa.Table.from_pylist(table, schema=instruction_table(1).schema)
    write_table(Path("instructions.parquet"), rows)
    assert run("bonito", items=NONE) == 0
    trained, summary = _made()
    held_out = read_table(Path("artifacts/supervise/heldout.parquet")).to_pylist()
    assert len(held_out) == 4 and summary["dropped"] == {"held_out": 4}
    assert sorted(row["row_id"] for row in trained + held_out) == sorted(
        row["row_id"] for row in table
    )
    assert not {row["passage_id"] for row in trained} & {row["passage_id"] for row in held_out}
    assert run("bonito") == 0
    assert read_table(Path("artifacts/supervise/heldout.parquet")).num_rows == 0


@pytest.mark.parametrize("source", ["labelled", "p3"])
def test_no_other_question_on_a_held_out_passage_is_trained_on(
    run: Any, tmp_path: Path, source: str
) -> None:
    """Neither labelled items nor remixed rows have an id for their passage."""
    if source == "labelled":
        items = [_item(number) | {"id": f"{number} {turn}"} for number in range(9) for turn in "ab"]
        rows = _jsonl(tmp_path / "labelled.jsonl", items)
    else:
        rows = _remixed(tmp_path / "train.parquet", 19)
        table = read_table(Path(rows)).to_pylist()
        for number, row in enumerate(table):
            row["context"] = _CONTEXT.format(number // 2)
        write_table(Path(rows), pa.Table.from_pylist(table, schema=REMIXED))
    assert run(source, rows, items=NONE) == 0
    held_out = read_table(Path("artifacts/supervise/heldout.parquet")).to_pylist()
    assert held_out and not {row["context"] for row in _made()[0]} & {
        row["context"] for row in held_out
    }


def test_in_a_mix_the_raw_text_of_a_held_out_passage_leaves_too_and_is_counted(run: Any) -> None:
    write_table(Path("instructions.parquet"), instruction_table(30))
    write_table(Path("passages.parquet"), passage_table(30))
    assert run("bonito+tapt", items=NONE) == 0
    trained, summary = _made()
    held_out = read_table(Path("artifacts/supervise/heldout.parquet")).to_pylist()
    assert len(held_out) == 3 and all(row["instruction"] for row in held_out)
    assert summary["dropped"] == {"held_out": 3, "of_held_out_passage": 3}
    assert not {row["passage_id"] for row in trained} & {row["passage_id"] for row in held_out}
    assert Counter(bool(row["instruction"]) for row in trained) == {True: 27, False: 27}


def test_what_cannot_be_held_out_is_one_line(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tapt", items=NONE) == 2
    assert "too few instructions to hold some out" in capsys.readouterr().err


def test_rows_are_a_seeded_choice_and_the_others_are_counted(run: Any) -> None:
    assert run("bonito", max_rows=4) == 0
    rows, summary = _made()
    assert (
        len(rows) == 4
        and summary["dropped"] == {"max_rows": 2}
        and [r["row_id"] for r in rows] == sorted(r["row_id"] for r in rows)
    )


def _write_many(path: Path, count: int) -> None:
    """Write rows of 2 kB."""
    with TableWriter(path, INSTRUCTIONS) as writer:
        for start in range(0, count, 4000):
            numbers = range(start, start + 4000)
            columns = {
                "row_id": [f"row-{number}" for number in numbers],
                "passage_id": [f"passage-{number // 4}" for number in numbers],
                "document": ["manual.txt"] * 4000,
                "task_type": ["exqa"] * 4000,
                "context": [_CONTEXT * 40] * 4000,
                "instruction": ["Why did it fail?"] * 4000,
                "response": ["its seal broke"] * 4000,
            }
            writer.write(pa.table(columns, INSTRUCTIONS))


def test_of_many_rows_only_the_keys_are_held_and_the_bytes_are_those_of_a_table(
    run: Any, tmp_path: Path, params: Params, bounded_arrow: Any
) -> None:
    """80 MB of rows; a choice in memory held them three times."""
    path = Path("instructions.parquet")
    _write_many(path, 40_000)
    with bounded_arrow(50e6):
        assert run("bonito", max_rows=30_000) == 0
    table = read_table(path)
    ids = table["row_id"].to_pylist()
    seed = params.supervise.seed
    kept = sorted(ids, key=lambda name: row_seed(seed, "supervise", name))[:30_000]
    write_table(tmp_path / "wanted", table.filter(pc.is_in(table["row_id"], pa.array(kept))))
    made = Path("artifacts/supervise/instructions.parquet").read_bytes()
    assert made == (tmp_path / "wanted").read_bytes()


def test_tapt_takes_the_very_passages_that_a_generator_is_given(run: Any, params: Params) -> None:
    assert run("tapt", generate={"max_passages": 4}) == 0
    rows, summary = _made()
    asked = plan(
        [passage_table(9)], params.generate.model_copy(update={"max_passages": 4, "samples": 1})
    )
    assert [row["passage_id"] for row in rows] == [
        request.passage["passage_id"] for request in asked
    ]
    assert all(row["instruction"] == "" and row["response"] == row["context"] for row in rows)
    assert summary["dropped"] == {"max_passages": 5}


def test_p3_puts_the_passage_back_and_counts_empty_rows(run: Any, tmp_path: Path) -> None:
    assert run("p3", _remixed(tmp_path / "train.parquet")) == 0
    rows, summary = _made()
    assert (
        rows[0]["instruction"] == "The sky is blue. Which colour?"
        and rows[0]["document"] == "squad"
        and len(rows) == 4
    )
    assert summary["dropped"] == {"empty": 2}


def test_labelled_rows_wear_the_datasets_templates_and_never_the_evaluated_items(
    run: Any, tmp_path: Path
) -> None:
    assert (
        run(
            "labelled",
            _jsonl(
                tmp_path / "train.jsonl",
                [{**_item(number), "id": f"t{number}"} for number in range(2, 12)],
            ),
        )
        == 0
    )
    rows, summary = _made()
    assert summary["dropped"] == {"in_evaluation": 1} and len(rows) == 9
    assert all(row["context"] in row["instruction"] for row in rows)
    assert len({row["instruction"].replace(row["context"], "")[:12] for row in rows}) > 1, (
        "one template only"
    )
    assert {row["response"] for row in rows} <= {"Yes", "No", "True", "False", "yes", "no"}


def test_no_labelled_row_is_on_an_evaluated_passage(run: Any, tmp_path: Path) -> None:
    """Another question on it, or the same one where the spacing differs, tells of it as well."""
    spaced = "  " + _CONTEXT.format(1).replace(" ", "  ") + "\n"
    rows = [
        {**_item(1), "id": "other question", "question": "Did its seal break?"},
        {**_item(1), "id": "other spacing", "context": spaced},
        {**_item(7), "id": "fresh"},
    ]
    assert run("labelled", _jsonl(tmp_path / "train.jsonl", rows)) == 0
    kept, summary = _made()
    assert [row["row_id"] for row in kept] == ["fresh"]
    assert summary["dropped"] == {"in_evaluation": 2} and summary["rows_in"] == 3


def test_no_labelled_row_is_of_an_evaluated_document(run: Any, tmp_path: Path) -> None:
    """Its passages rise and fall together: a bootstrap draws them as one."""
    dataset = yaml.safe_load((ROOT / "datasets/privacy.yaml").read_text())
    (tmp_path / "set.yaml").write_text(yaml.safe_dump({**dataset, "document": "file"}))
    _jsonl(Path("items.jsonl"), [{**_item(1), "file": "a.pdf"}, {**_item(2), "file": None}])
    rows = [{**_item(number), "file": f"{'abc'[number % 3]}.pdf"} for number in range(2, 8)]
    given = _jsonl(tmp_path / "train.jsonl", rows)
    assert run("labelled", given, dataset=str(tmp_path / "set.yaml")) == 0
    kept, summary = _made()
    assert [row["row_id"] for row in kept] == ["4", "5", "7"]
    assert summary["dropped"] == {"in_evaluation": 1, "of_evaluated_document": 2}


def test_none_is_no_rows(run: Any) -> None:
    assert run("none") == 0
    assert _made()[0] == []


def _construct_from(count: int) -> None:
    """Put passages in place that claims can be constructed from."""
    write_table(Path("passages.parquet"), passages(count))


def test_a_mix_has_the_rows_of_each_source_in_its_share(run: Any, capsys: Any) -> None:
    _construct_from(60)
    assert run("bonito + constructed:0.25", generate={"task_types": ["nli", "exqa"]}) == 0
    rows, summary = _made()
    assert rows[:6] == instruction_table(6).to_pylist() and len(rows) == 8
    assert {row["task_type"] for row in rows[6:]} == {"nli"}
    assert summary["source"] == "bonito+constructed:0.25"
    assert summary["by_source"] == {
        "bonito": {"rows": 6, "by_task_type": {"exqa": 6}},
        "constructed": {"rows": 2, "rows_wanted": 2, "by_task_type": {"nli": 2}},
    }
    assert summary["by_task_type"] == {"exqa": 6, "nli": 2}
    assert "its share of" not in capsys.readouterr().err
    assert summary["dropped"]["over_share"] > 50 and "max_rows" not in summary["dropped"]
    assert run("bonito+constructed:0.25", generate={"task_types": ["nli", "exqa"]}) == 0
    assert _made()[0] == rows, "another choice with the same seed"


def test_a_mix_without_shares_has_all_rows(run: Any) -> None:
    assert run("bonito+tapt") == 0
    rows, summary = _made()
    assert len(rows) == 6 + 9 and summary["dropped"] == {}
    assert [bool(row["instruction"]) for row in rows] == [True] * 6 + [False] * 9


def test_the_most_rows_are_shared_out_as_the_mix_says(run: Any) -> None:
    assert run("bonito+tapt:0.5", max_rows=8) == 0
    rows, summary = _made()
    assert [bool(row["instruction"]) for row in rows] == [True] * 4 + [False] * 4
    assert summary["dropped"] == {"max_rows": 2, "over_share": 5}
    assert len({row["row_id"] for row in rows}) == 8


def test_too_few_rows_for_a_share_are_all_taken_and_told(run: Any, capsys: Any) -> None:
    assert run("bonito+tapt:0.75") == 0
    rows, summary = _made()
    assert len(rows) == 6 + 9 and summary["dropped"] == {}
    assert summary["by_source"]["tapt"]["rows"] == 9
    assert summary["by_source"]["tapt"]["rows_wanted"] == 18
    assert "tapt: all 9 rows; its share of bonito+tapt:0.75 would be 18" in capsys.readouterr().err


def test_so_few_rows_that_they_teach_nothing_are_told(run: Any, capsys: Any) -> None:
    assert run("bonito") == 0
    assert "only 6 rows to train on" in capsys.readouterr().err


def test_rows_of_two_sources_never_have_one_id(run: Any, tmp_path: Path) -> None:
    training = [{**_item(number), "id": f"row-{number}"} for number in range(4, 12)]
    assert run("bonito+labelled", _jsonl(tmp_path / "train.jsonl", training)) == 0
    ids = [row["row_id"] for row in _made()[0]]
    assert ids[:6] == instruction_table(6)["row_id"].to_pylist()
    assert ids[6:] == [f"labelled:row-{number}" for number in range(4, 12)]
    training = [{**_item(number), "id": f"other-{number}"} for number in range(4, 12)]
    assert run("bonito+labelled", _jsonl(tmp_path / "train.jsonl", training)) == 0
    assert _made()[0][6]["row_id"] == "other-4", "a name before ids that were unique"


def test_a_mix_of_which_one_source_is_empty_is_one_line(run: Any, capsys: Any) -> None:
    write_table(Path("instructions.parquet"), instruction_table(0))
    assert run("tapt+bonito:0.5") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "supervise.source bonito gives no row to train on (its input is empty)" in said
    write_table(Path("instructions.parquet"), instruction_table(2))
    headings = [row | {"text": "Terms"} for row in passage_table(3).to_pylist()]
    write_table(Path("passages.parquet"), pa.Table.from_pylist(headings, schema=PASSAGES))
    assert run("bonito+constructed:0.5", generate={"task_types": ["nli"]}) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "no sentence of these passages can be made a claim" in said


@pytest.mark.parametrize(
    ("source", "rows", "message"),
    [
        ("p3", NONE, "supervise.source p3 needs training rows: name their file in supervise.rows"),
        ("labelled", NONE, "supervise.source labelled needs training rows"),
        ("labelled", "params.yaml", "rows must be in a file of .jsonl"),
        ("labelled", "twice", "was there before: ids must be unique"),
        ("labelled", "only evaluated", "gives no row to train on (dropped: 3 in_evaluation)"),
        ("p3", "no column", "has no column 'instruction'"),
        ("p3", "absent.parquet", "--rows absent.parquet does not exist"),
    ],
)
def test_bad_rows_are_one_line(
    run: Any, tmp_path: Path, capsys: Any, source: str, rows: str, message: str
) -> None:
    if rows == "twice":
        rows = _jsonl(tmp_path / "twice.jsonl", [_item(9), _item(9)])
    elif rows == "only evaluated":
        rows = "items.jsonl"
    elif rows == "no column":
        write_table(
            tmp_path / "other.parquet",
            pa.table({name: ["x"] for name in ("row_id", "dataset", "task_type", "context")}),
        )
        rows = str(tmp_path / "other.parquet")
    assert run(source, rows) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said and not Path("artifacts/supervise").exists()


@pytest.mark.parametrize("source", ["none", "tapt", "p3", "labelled", "tapt+constructed:0.5"])
def test_without_a_generator_generate_and_validate_have_nothing_to_do(
    tmp_path: Path, monkeypatch: Any, make_params: Any, source: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shards, "open_engine", None)
    write_table(Path("passages.parquet"), passage_table(2))
    path = str(make_params(supervise={"source": source, "rows": "rows.jsonl"}))
    assert (
        generate.main(
            ["--params", path, "--passages", "passages.parquet", "--out", "artifacts/generate"]
        )
        == 0
    )
    assert (
        validate.main(
            [
                "--params",
                path,
                "--predictions",
                "artifacts/generate/predictions.parquet",
                "--out",
                "artifacts/validate",
            ]
        )
        == 0
    )
    assert (
        read_table(Path("artifacts/validate/instructions.parquet")).num_rows == 0
        and Path("artifacts/validate/report.html").is_file()
    )
