"""The doctor names every template's trouble, in JSON, on the terminal and in HTML, and survives the
worst of them.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bonito.doctor.command import main
from bonito.sources import load_datasets
from tasks.core.yaml_file import read_yaml
from tests.pages import check_page

TEXT = "The harbour was closed in 1931 and its ferries moved to the north pier."
TEMPLATES = {
    "good": ("{{ context }} When? ||| {{ answer }}", "exqa", "ok"),
    "never": ("{{ answer }} ||| x", "exqa", "no_passage"),
    "part": ("{{ context[:5] }} ||| x", "exqa", "part"),
    "broken": ("{{ context ||| x", "exqa", "syntax"),
    "untyped": ("{{ context }} ||| {{ answer }}", "", "untyped"),
    "unwanted": ("{{ context }} ||| {{ answer }}", "", "left_out"),
    "reach": ("{{ context }}{{ context.__class__ }} ||| x", "exqa", "refused"),
    "for ever": (
        (
            "{{ context }}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor "
            "%}{% endfor %} ||| x"
        ),
        "exqa",
        "timeout",
    ),
    "huge": ("{{ context }}{{ '%1000000000d' | format(1) }} ||| x", "exqa", "memory"),
    "typo": ("{{ context }} ||| {{ anser }}", "exqa", "missing_column"),
    "leak": ("{{ context }} It says: {{ copy }} ||| {{ answer }}", "exqa", "passage_leak"),
    "empty": ("{{ context }} When? ||| {{ nothing }}", "exqa", "empty_response"),
    "guess": ("{{ context }} When? ||| {{ wrong }}", "exqa", "not_derivable"),
    "<b>": ("{{ context }} Where? ||| {{ answer }}", "exqa", "ok"),
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = Path("mine/toy")
    folder.mkdir(parents=True)
    entries = {name: {"name": name, "jinja": jinja} for name, (jinja, _, _) in TEMPLATES.items()}
    (folder / "templates.yaml").write_text(yaml.safe_dump({"templates": entries}))
    row = {"context": TEXT, "answer": "1931", "copy": TEXT, "nothing": "", "wrong": "1999"}
    (folder / "rows.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps(row | {"context": TEXT + " Now it rests."}) + "\n"
    )
    Path("datasets.yaml").write_text(
        yaml.safe_dump(
            {
                "datasets": [
                    {"dataset": "toy", "passage": "{{ context }}", "leave_out": ["unwanted"]}
                ]
            }
        )
    )
    lines = [
        f"toy,,{name},{task_type}" for name, (_, task_type, _) in TEMPLATES.items() if task_type
    ]
    Path("types.csv").write_text(
        "\n".join(
            [
                "dataset_name,dataset_config_name,template_name,task_type",
                *lines,
                "toy,,renamed,exqa",
                "other,,x,exqa",
            ]
        )
        + "\n"
    )
    remix = {
        "datasets": ["datasets.yaml"],
        "task_types": ["types.csv"],
        "render_seconds": 0.5,
        "render_megabytes": 128,
        "workers": 1,
        "seed": 1,
    }
    Path("bonito.yaml").write_text(yaml.safe_dump({"remix": remix}))
    return tmp_path


def doctor(*more: str) -> int:
    return main(["--templates", "mine", "--params", "bonito.yaml", "--out", "out", *more])


def read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path("out", name).read_text())
    return found


def test_every_template_is_diagnosed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor() == 0
    found = read("templates.json")
    assert all(
        set(entry) == {"dataset", "config", "template", "task_type", "status", "reason"}
        for entry in found
    )
    assert {entry["template"]: entry["status"] for entry in found} == {
        name: status for name, (_, _, status) in TEMPLATES.items()
    } | {"renamed": "absent"}
    assert all(entry["reason"] for entry in found if entry["status"] != "ok")
    good = next(entry for entry in read("examples.json") if entry["template"] == "good")
    assert (good["rate"], good["derivable"], good["example"]["instruction"]) == (
        1.0,
        1.0,
        "{{context}} When?",
    )
    printed = capsys.readouterr().out
    assert "15 templates: 2 ok" in printed
    assert all(name in printed for name in TEMPLATES)
    page = Path("out/index.html").read_text()
    assert "&lt;b&gt;" in page
    assert "<td><b>" not in page
    assert "http" not in page.replace("http-equiv", "")
    check_page(page)


def test_strict_ends_with_one_where_a_template_is_at_fault(home: Path) -> None:
    assert doctor("--strict") == 1


def test_given_sources_come_before_the_rows_beside_the_templates(home: Path) -> None:
    Path("other.jsonl").write_text(json.dumps({"context": TEXT, "answer": "1999"}) + "\n")
    Path("sources.yaml").write_text(
        yaml.safe_dump({"sources": [{"dataset": "toy", "path": "other.jsonl"}]})
    )
    assert doctor("--sources", "sources.yaml") == 0
    assert (
        next(entry for entry in read("templates.json") if entry["template"] == "good")["status"]
        == "not_derivable"
    )


def test_a_date_is_the_text_that_it_is_in_the_remix(home: Path) -> None:
    """The remix keeps its rows as JSON: a template with ``day.year`` was ok here, and stopped it."""
    template = {"name": "good", "jinja": "{{ context }} When? ||| {{ day.year }}"}
    Path("mine/toy/templates.yaml").write_text(yaml.safe_dump({"templates": {"good": template}}))
    day = datetime.date(1931, 1, 1)
    pq.write_table(pa.Table.from_pylist([{"context": TEXT, "day": day}]), "other.parquet")
    Path("sources.yaml").write_text(
        yaml.safe_dump({"sources": [{"dataset": "toy", "path": "other.parquet"}]})
    )
    assert doctor("--sources", "sources.yaml") == 0
    found = {entry["template"]: entry["status"] for entry in read("templates.json")}
    assert found["good"] == "missing_column"


def test_a_dataset_without_a_passage_is_named(home: Path) -> None:
    Path("datasets.yaml").write_text("datasets: []\n")
    assert doctor() == 0
    assert {entry["status"] for entry in read("templates.json")} == {"no_dataset", "absent"}


def test_a_missing_folder_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--templates", "gone", "--params", "bonito.yaml", "--out", "out"]) == 2
    assert capsys.readouterr().err == (
        "error: doctor: gone holds no templates.yaml: expected "
        "<dataset>/[<config>/]templates.yaml\n"
    )


def test_no_sample_rows_are_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor("--rows", "-1") == 2
    assert capsys.readouterr().err == "error: doctor: --rows must be at least 1, not -1\n"


def test_there_are_invented_rows_for_every_known_dataset() -> None:
    samples = {
        (entry["dataset"], entry.get("config", "")): entry["rows"]
        for entry in read_yaml(Path("bonito/doctor/sample_rows.yaml"))["samples"]
    }
    assert set(samples) == set(load_datasets([Path("bonito/datasets.yaml")]))
    assert all(len(rows) == 2 for rows in samples.values())


def test_a_file_that_is_no_templates_file_is_a_row_of_its_own(home: Path) -> None:
    for name, text in {
        "broken": "templates: [",
        "other": "rows: {}",
        "odd": "templates: {a: {name: 3}}",
    }.items():
        Path("mine", name).mkdir()
        Path("mine", name, "templates.yaml").write_text(text)
    (Path("mine") / "toy" / "templates.yaml").write_text(
        yaml.safe_dump({"templates": {"good": {"name": "good", "jinja": TEMPLATES["good"][0]}}})
    )
    assert doctor() == 0
    found = {
        entry["dataset"]: entry for entry in read("templates.json") if entry["status"] != "absent"
    }
    assert found["toy"]["status"] == "ok"
    assert {found[name]["status"] for name in ("broken", "other", "odd")} == {"file"}
    assert (
        "is not a promptsource file" in found["broken"]["reason"]
        and "needs 'name' and 'jinja'" in found["odd"]["reason"]
    )


def test_a_template_that_hangs_is_tried_on_one_row_only(home: Path) -> None:
    rows = [
        json.dumps({"context": f"{TEXT} {number}", "answer": "1931"}) + "\n" for number in range(20)
    ]
    Path("mine/toy/rows.jsonl").write_text("".join(rows))
    entries = {name: {"name": name, "jinja": TEMPLATES[name][0]} for name in ("good", "for ever")}
    Path("mine/toy/templates.yaml").write_text(yaml.safe_dump({"templates": entries}))
    assert doctor() == 0
    tried = {
        entry["template"]: (entry["status"], entry["rows"])
        for entry in read("examples.json")
        if entry["status"] != "absent"
    }
    assert tried == {"good": ("ok", 20), "for ever": ("timeout", 1)}
