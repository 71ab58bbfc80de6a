"""The table of task types: what its entries must hold, and that one new entry is all a type needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bonito.evaluate.adherence import RULES
from tasks.core.sections.validate import Validate
from tasks.core.task_types import TASK_TYPES, task_type
from tasks.validate.expectations import select_checks
from tests.conftest import ROOT

#: The one entry, as a user would write it into the table.
ENTRY = """    TaskType(
        "stance",
        "stance detection",
        "classification",
        Form("label", asks=r"\\bstance\\b"),
        labels=frozenset(("in favour", "against")),
        label_families=(("in favour", "against", "undecided"),),
        expects=("question_present",),
    ),
"""
#: Run in a copy of the code: a task of the new type from its parameters to its scores.
USE = """
from pathlib import Path
from bonito.evaluate.adherence import adheres
from bonito.evaluate.measures import Written, check_tasks, make_suites, measure_tasks
from tasks.core.overlay import overlay
from tasks.core.params import parse_params
from tasks.core.yaml_file import read_yaml
from tasks.lm.prompts import bonito_input
from tasks.core.labels import offered

values = overlay(read_yaml(Path("params.yaml")), {"generate": {"task_types": ["stance detection"]}})
assert parse_params(values, "params.yaml").generate.task_types == ("stance",)
assert bonito_input("A pier.", "stance").startswith("<|tasktype|>\\nstance detection\\n")

question = "{{context}} What is the stance of the author on piers, in favour or against?"
assert offered(question.lower()) == {"in favour", "against"}
tasks = [Written(str(row), "stance", "The pier must stay: it feeds us all.", question, response)
         for row, response in enumerate(("In favour", "purple"))]
expected = make_suites(4000, 2000, Path("docs"))
names = [check.name for check in expected.of("stance")]
assert {"question_present", "label_in_family", "answer_not_passage"} <= set(names), names
assert not {"answer_in_passage", "question_closed"} & set(names), names
good, bad = check_tasks(tasks, expected)
assert good.adheres and not good.failed and good.family == "in favour/against", good
assert not bad.adheres and bad.failed == ("label_in_family",), bad
assert adheres("nli", [tasks[0].context], [question], ["In favour"]) == [False]
labels = measure_tasks(tasks, [good, bad])["labels"]
assert labels == {"in favour/against": {"in favour": 1}, "other": {"purple": 1}}, labels

from flows.adapt import TypeName
assert TypeName("stance").value == "stance"
"""


def test_one_entry_makes_a_task_type(tmp_path: Path) -> None:
    unfinished = shutil.ignore_patterns("*.pyc.*")  # the others are copied, and stay valid
    for folder in ("tasks", "bonito", "flows"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=unfinished)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    table = tmp_path / "tasks" / "core" / "task_types.py"
    text = table.read_text(encoding="utf-8")
    assert text.count("_TABLE = (\n") == 1
    table.write_text(text.replace("_TABLE = (\n", f"_TABLE = (\n{ENTRY}"), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-c", USE],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr


def test_every_entry_names_rules_and_expectations_that_exist() -> None:
    limits = {"max_instruction_chars": 1, "max_response_chars": 1, "max_label_share": 1.0}
    every = select_checks(
        Validate.model_validate(limits | {"min_yield": 0.0, "max_rows": 0, "seed": 0})
    )
    of_types = {check.name for check in every if check.of_types}
    assert of_types == {name for kind in TASK_TYPES.values() for name in kind.expectations}
    assert set(RULES) == {kind.form.answers for kind in TASK_TYPES.values()}


def test_either_name_names_a_type() -> None:
    assert len(TASK_TYPES) == 16
    for name, kind in TASK_TYPES.items():
        assert task_type(name) == task_type(kind.full_name) == name == kind.name
