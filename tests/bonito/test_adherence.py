"""Whether a task has the form of its type, and the measures of a set of tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from bonito.evaluate.adherence import adheres
from bonito.evaluate.judging import read_choices
from bonito.evaluate.measures import (
    Written,
    check_forms,
    check_tasks,
    make_suites,
    measure_balance,
    measure_diversity,
    measure_tasks,
)
from tasks.core.task_types import TASK_TYPES
from tests.bonito.test_evaluate import PASSAGE, TASKS, human


def fits(kind: str, instruction: str, response: str) -> bool:
    return adheres(kind, [PASSAGE], [instruction], [response])[0]


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_a_task_has_the_form_of_its_type_and_of_few_others(kind: str) -> None:
    assert fits(kind, *TASKS[kind])
    assert sum(fits(other, *TASKS[kind]) for other in TASK_TYPES) <= 3
    wrong = {"exqa": "Yes", "qg": "granite", "summarization": "Yes"}.get(kind, "What is it?")
    assert not fits(kind, TASKS[kind][0], wrong)


def test_every_form_can_fail_on_wording_alone() -> None:
    """The same response under an instruction that asks for nothing of the kind."""
    for kind, (_, response) in TASKS.items():
        assert not fits(kind, "{{context}} Lorem ipsum dolor sit amet.", response), kind


def test_the_check_of_forms_reports_on_itself() -> None:
    found = check_forms([human(kind) for kind in TASK_TYPES])
    assert set(found) == set(TASK_TYPES)
    assert all(own["own"] == 1.0 for own in found.values())
    assert found["nli"]["worst_type"] == "te"
    relabelled = check_forms([Written("a", "wsd", PASSAGE, *TASKS["exqa"]), human("exqa")])
    assert relabelled["wsd"]["own"] == 0.0


def test_scores_of_good_and_bad_tasks(tmp_path: Path) -> None:
    expected = make_suites(4000, 600, tmp_path)
    good = [human("exqa"), human("ynqa")]
    found = measure_tasks(good, check_tasks(good, expected))
    assert (
        found["parse_yield"],
        found["adherence"],
        found["valid"],
        found["answer_in_passage"],
    ) == (1.0, 1.0, 1.0, 1.0)
    bad = [
        Written("a", "exqa", PASSAGE, reason="no_pipe"),
        Written("b", "exqa", PASSAGE, TASKS["exqa"][0], "tallow"),
        Written("c", "ynqa", PASSAGE, TASKS["exqa"][0], "Yes"),
        human("exqa", 1),
        human("exqa", 2),
    ]
    found = measure_tasks(bad, check_tasks(bad, expected))
    assert (found["rows"], found["parsed"], found["parse_yield"], found["unparsed"]) == (
        5,
        4,
        0.8,
        {"no_pipe": 1},
    )
    assert found["adherence"] == pytest.approx(2 / 5)
    assert found["valid"] == pytest.approx(1 / 5)  # the last one is a copy
    assert found["answer_in_passage"] == pytest.approx(2 / 3)
    assert (
        found["failed"]["answer_in_passage"] == 1
        and found["failed"]["question_closed"] == 1
        and found["failed"]["unique"] == 1
    )
    nothing = [Written("a", "exqa", PASSAGE, reason="no_pipe")]
    assert measure_tasks(nothing, check_tasks(nothing, expected))["answer_in_passage"] is None


def test_label_balance_is_within_a_family() -> None:
    even = measure_balance(
        [("yes/no", "yes"), ("yes/no", "no"), ("true/false", "true"), ("true/false", "false")]
    )
    assert (even["largest_label_share"], even["label_entropy"]) == (0.5, pytest.approx(1.0))
    # As many yes as false: balanced over all labels, and within each family always the same answer.
    skewed = measure_balance(
        [("yes/no", "yes"), ("yes/no", "yes"), ("true/false", "false"), ("true/false", "false")]
    )
    assert (skewed["largest_label_share"], skewed["label_entropy"]) == (1.0, 0.0)
    assert skewed["labels"] == {"true/false": {"false": 2}, "yes/no": {"yes": 2}}
    assert measure_balance([])["label_entropy"] is None


def test_diversity_counts_grams_and_near_duplicates_without_the_passage() -> None:
    tasks = [
        Written(
            str(n), "exqa", f"p{n}", f"{{{{context}}}} What did the lamp burn until {year}?", "oil"
        )
        for n, year in enumerate(("1931", "1931", "1932"))
    ]
    found = measure_diversity(tasks)
    assert found["distinct_1"] == pytest.approx(8 / 21)
    assert found["near_duplicates"] == pytest.approx(1 / 3)
    assert measure_diversity([human("exqa"), human("ynqa")])["near_duplicates"] == 0.0


@pytest.mark.parametrize(
    ("kind", "instruction", "response", "offered"),
    [
        (
            "nli",
            "{{context}} Is it true? Always, sometimes, or never?",
            "Never",
            ["Always", "never", "sometimes"],
        ),
        ("mcqa", "{{context}} Why?\nA. oil ran out\nB. power came", "B", ["A", "B"]),
        (
            "mcqa",
            "{{context}} Why?\nOptions:\n- Oil ran out\n- power came",
            "power came",
            ["Oil ran out", "power came"],
        ),
        ("paraphrase_id", "{{context}} Do they mean the same?", "yes", ["no", "yes"]),
        ("ynqa", "{{context}} Was it so?", "granite", []),
        ("exqa", "{{context}} Yes or no?", "Yes", []),
    ],
)
def test_choices_are_those_of_the_instruction(
    kind: str, instruction: str, response: str, offered: list[str]
) -> None:
    assert read_choices(Written("a", kind, PASSAGE, instruction, response)) == offered
