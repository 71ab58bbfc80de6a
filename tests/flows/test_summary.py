"""The closing table: what a person reads at the end of ``make run``."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from flows import progress
from flows.runs.dvc_repro import StageOutcome
from flows.runs.figures import list_links, tabulate_f1, tabulate_rows
from flows.runs.last_run import remove_explanations, write_outcomes
from flows.runs.summary import WIDTH, render
from tasks.core.files import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["ingest", "generate", "validate", "finetune", "evaluate", "register"]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A checkout in which a whole run has ended well."""
    artifacts = tmp_path / "artifacts"
    rows = {
        "ingest": (312, 300, {"too_short": 9, "duplicate": 3}),
        "generate": (300, 280, {"no_pipe": 20}),
        "validate": (1280, 1194, {"duplicate": 86}),
    }
    for stage, (rows_in, kept, dropped) in rows.items():
        write_json(
            artifacts / stage / "summary.json",
            {"stage": stage, "rows_in": rows_in, "rows_kept": kept, "dropped": dropped},
        )
    scores = {
        "zero_shot": (13.06, 9.0, 17.5),
        "adapted": (41.25, 35.5, 47.0),
        "gain": (28.19, 22.0, 34.0),
    }
    write_json(
        artifacts / "evaluate" / "scores.json",
        {
            key: dict(zip(("f1", "f1_low", "f1_high"), score, strict=True))
            for key, score in scores.items()
        },
    )
    write_json(
        artifacts / "register" / "registration.json",
        {
            "run_id": "3f" * 16,
            "experiment": "bonito",
            "model_name": "smollm2-135m-incidents",
            "version": "4",
            "alias": "champion",
            "verdict": "+28.2 F1 [+22.0, +34.0] against the unadapted model",
            "in_evaluation": "12 of 300 passages of the corpus are also in the evaluation set",
        },
    )
    (artifacts / "finetune").mkdir()
    seconds = {"ingest": 2.4, "generate": 185.0, "finetune": 241.6}
    write_outcomes(
        tmp_path,
        "default",
        [
            StageOutcome(stage, "ran" if stage in seconds else "unchanged", seconds.get(stage, 0.5))
            for stage in STAGES
        ],
    )
    return tmp_path


def test_everything_a_person_looks_for_is_there(finished: Path) -> None:
    text = render(finished, finished)
    lines = {line.split()[0]: " ".join(line.split()) for line in text.splitlines() if line.strip()}
    assert lines["ingest"] == "ingest 2 s 312 300 12: 9 too_short, 3 duplicate"
    assert lines["generate"] == "generate 3 min 05 s 300 280 20 no_pipe"
    assert lines["validate"] == "validate unchanged 1,280 1,194 86 duplicate"
    assert lines["finetune"] == "finetune 4 min 02 s"
    assert lines["zero-shot"] == "zero-shot 13.1 95 % interval 9.0 to 17.5"
    assert lines["gain"] == "gain +28.2 95 % interval +22.0 to +34.0"
    assert lines["adapter"].endswith("artifacts/finetune")
    assert lines["model"] == "model smollm2-135m-incidents, version 4, alias champion"
    assert lines["champion"] == "champion +28.2 F1 [+22.0, +34.0] against the unadapted model"
    assert lines["leaked"].startswith("leaked 12 of 300 passages of the corpus")
    assert lines["MLflow"].startswith("MLflow run 3f3f")


def test_the_link_leads_to_the_run_among_training_runs(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIPELINE_MLFLOW_PAGE", "http://127.0.0.1:5000")
    assert f"MLflow run {'3f' * 16}, experiment bonito" in list_links(finished, {"register"}), (
        "a registration of before has no such id"
    )
    file = finished / "artifacts" / "register" / "registration.json"
    write_json(file, read_json(file) | {"experiment_id": "4"})
    assert (
        f"(http://127.0.0.1:5000/#/experiments/4/runs/{'3f' * 16}?workflowType=machine_learning)"
        in list_links(finished, {"register"})
    )


def test_the_progress_of_a_finished_stage_does_not_stay_where_it_was_last_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[float, str]] = []
    monkeypatch.setattr(
        progress,
        "create_progress_artifact",
        lambda percent, key, description: shown.append((percent, description)) or uuid4(),
    )
    monkeypatch.setattr(
        progress,
        "update_progress_artifact",
        lambda _, percent, description: shown.append((percent, description)),
    )
    watcher = progress.Watcher(tmp_path, "generate", logging.getLogger())
    watcher.poll()
    file = tmp_path / ".work" / "generate" / "progress.json"
    write_json(
        file,
        {
            "stage": "generate",
            "done": 1,
            "total": 4,
            "unit": "rows",
            "rate": 2.0,
            "seconds_left": 2,
        },
    )
    watcher.poll()
    file.unlink()  # as a stage does when it is done
    watcher.poll()
    watcher.poll()
    assert shown == [
        (25.0, "1/4 rows · 2.00 rows/s · 2 s left"),
        (100.0, "done · last seen: 1/4 rows · 2.00 rows/s · 2 s left"),
    ]


def test_the_next_commands_are_those_of_the_run(finished: Path) -> None:
    stages = [StageOutcome(stage, "ran", 1.0) for stage in [*STAGES, "verify"]]

    def told(*outcomes: StageOutcome, command: str) -> list[str]:
        write_outcomes(finished, "mine", outcomes, "", command)
        text = render(finished, finished)
        return [
            line[10:].partition("  ")[0] for line in text[text.rindex("\nnext") :].splitlines()[1:]
        ]

    serve = "make serve MODEL=models:/smollm2-135m-incidents/4"
    command = "make run PROFILE=mine"
    asked = ["make ask PROFILE=mine", "make review PROFILE=mine", serve]
    assert told(*stages, command=command) == asked
    command = "make run PROFILE=mine SET='" + "x.y=123456789 " * 8 + "'"
    assert told(*stages, command=command)[0] == command.replace("run", "ask"), "not broken"
    failed = StageOutcome("ingest", "failed", 1.0, "no file")
    assert told(failed, command="make run") == ["make runs"]


def test_no_line_is_wider_than_promised(finished: Path) -> None:
    many = {f"a_long_reason_number_{n}": n + 1 for n in range(12)}
    write_json(
        finished / "artifacts" / "validate" / "summary.json",
        {"stage": "validate", "rows_in": 100, "rows_kept": 22, "dropped": many},
    )
    text = render(finished, finished)
    assert max(len(line) for line in text.splitlines() if str(finished) not in line) <= WIDTH
    assert all(reason in text for reason in many)


def test_a_failed_stage_shows_its_line_and_not_an_earlier_runs_figures(finished: Path) -> None:
    outcomes = [
        StageOutcome("ingest", "ran", 2.0),
        StageOutcome("generate", "failed", 3.0, "the model is missing"),
        StageOutcome("validate", "not run", 0.0),
    ]
    write_outcomes(finished, "default", outcomes)
    lines = {
        line.split()[0]: line.split()
        for line in render(finished, finished).splitlines()
        if line.strip()
    }
    assert lines["generate"] == ["generate", "FAILED", "the", "model", "is", "missing"]
    assert lines["validate"] == ["validate", "not", "run"]
    assert "zero-shot" not in lines and "model" not in lines, (
        "scores of an earlier run stand beside a failed one"
    )


def widest(printed: str, folder: Path) -> int:
    """Return the length of the longest line, but for those with the folder's own path."""
    return max(len(line) for line in printed.splitlines() if str(folder) not in line)


def test_the_majority_class_stands_beside_a_classification_score(finished: Path) -> None:
    score = {"f1": 40.0, "f1_low": 30.0, "f1_high": 50.0, "majority": 22.2}
    apart = {
        "zero_shot": {"f1": 44.0},
        "adapted": {"f1": 49.0},
        "gain": {"f1": 5.0, "f1_low": -1.0, "f1_high": 11.0},
    }
    write_json(
        finished / "artifacts" / "evaluate" / "scores.json",
        {"zero_shot": score, "prior_corrected": apart},
    )
    printed = render(finished, finished)
    assert "majority class 22.2" in printed
    assert "prior corrected: zero-shot 44.0, adapted 49.0, gain +5.0 (-1.0 to +11.0)" in printed
    assert widest(printed, finished) <= WIDTH
    assert tabulate_f1(finished) == [
        {"model": "zero-shot", "F1": 40.0, "95 % low": 30.0, "95 % high": 50.0, "majority": 22.2}
    ]


@pytest.mark.parametrize("every", [True, False])
def test_a_calibrated_figure_is_shown_with_what_it_compares_to_or_says_that_it_does_not(
    finished: Path, every: bool
) -> None:
    path = finished / "artifacts" / "evaluate" / "scores.json"
    before = {"zero_shot": {"f1": 47.0}, "gain": {"f1": 2.0, "f1_low": -1.0, "f1_high": 5.0}}
    found = {"adapted": {"f1": 49.0}} | (before if every else {})
    write_json(path, read_json(path) | {"calibrated": found})
    printed = render(finished, finished)
    assert widest(printed, finished) <= WIDTH
    printed = " ".join(printed.split())
    figure = "calibrated on claims of the corpus: "
    if every:
        assert f"{figure}zero-shot 47.0, adapted 49.0, gain +2.0 (-1.0 to +5.0)" in printed
    else:
        assert f"{figure}adapted 49.0; not compared: the models before were not" in printed


def test_the_start_alone_is_a_line_of_its_own(finished: Path) -> None:
    path = finished / "artifacts" / "evaluate" / "scores.json"
    assert "start alone" not in render(finished, finished), "nothing where there is no start"
    start = {"f1": 39.04, "f1_low": 33.0, "f1_high": 45.0}
    gain = {"f1": 2.21, "f1_low": -1.0, "f1_high": 5.0}
    scores = read_json(path) | {"start": start, "gain_over_start": gain}
    corrected = {name: scores[name] for name in scores}
    write_json(path, scores | {"prior_corrected": corrected})
    file = finished / "artifacts" / "register" / "registration.json"
    write_json(file, read_json(file) | {"over_start": "version 4: not above zero"})
    printed = render(finished, finished)
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    place = lines.index("zero-shot 13.1 95 % interval 9.0 to 17.5")
    assert lines[place + 1 : place + 7] == [
        "start alone 39.0 95 % interval 33.0 to 45.0",
        "adapted 41.2 95 % interval 35.5 to 47.0",
        "gain +28.2 95 % interval +22.0 to +34.0",
        "gain over start +2.2 95 % interval -1.0 to +5.0",
        "apart prior corrected: zero-shot 13.1, start alone 39.0, adapted 41.2, gain +28.2 (+22.0 to",
        "+34.0), gain over start +2.2 (-1.0 to +5.0)",
    ]
    assert "start version 4: not above zero" in lines
    assert widest(printed, finished) <= WIDTH
    assert [row["model"] for row in tabulate_f1(finished)] == [
        *("zero-shot", "start alone", "adapted", "gain", "gain over start")
    ]


def test_nothing_to_show_is_empty_and_the_command_says_so(tmp_path: Path) -> None:
    assert render(tmp_path, tmp_path) == ""
    assert tabulate_rows(tmp_path, set()) == [] and tabulate_f1(tmp_path) == []
    done = subprocess.run(
        [sys.executable, "-m", "flows.runs.summary", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == f"error: summary: {tmp_path} has no run to show: make run\n"


def test_without_labelled_items_agreement_is_never_called_f1(finished: Path) -> None:
    agreement = {"agreement": 40.0, "agreement_low": 30.0, "agreement_high": 50.0}
    scores = {"dataset": "mine", "task_type": "exqa", "heldout_rows": 12}
    write_json(
        finished / "artifacts" / "evaluate" / "scores.json",
        {**scores, "agreement": {"zero_shot": agreement, "adapted": agreement, "gain": agreement}},
    )
    text = render(finished, finished)
    assert "No F1: there are no labelled items" in text and "F1 (points" not in text
    assert "agreement with 12 generated rows kept out of the training" in text
    assert '{"id": "q1", "context": "...", "question": "...", "answers": ["..."]}' in text
    assert "+40.0" in text and widest(text, finished) <= WIDTH


def test_the_forecast_stands_beside_what_came(finished: Path) -> None:
    write_json(
        finished / "artifacts/verify/summary.json",
        {"rows_kept": 137, "rows_in": 137, "dropped": {}, "stage": "verify", **_UNREVIEWED},
    )
    write_json(finished / "artifacts/validate/metrics.json", {"yield": 0.8})
    ends = {"low": 92.0, "high": 163.0}
    write_json(
        finished / "artifacts/plan/plan.json",
        {
            "run": "default",
            "settings": "a",
            "kept_rows": ends,
            "minutes": {"low": 5.0, "high": 9.5},
        },
    )
    ran = [StageOutcome(stage, "ran", 60.0) for stage in [*STAGES, "verify"]]
    write_outcomes(finished, "default", ran, settings="a")
    told = "forecast  kept rows 92 to 163, came 137; minutes 5.0 to 9.5, came 7.0"
    assert told in render(finished, finished)
    for name, settings in (("other", "a"), ("default", "b")):
        write_outcomes(finished, name, ran, settings=settings)
        assert "forecast  kept" not in render(finished, finished), "the plan of another run"
    write_outcomes(
        finished,
        "default",
        [StageOutcome(stage, "unchanged", 0.1) for stage in ("verify", "supervise")],
        settings="a",
    )
    assert "came 137" in render(finished, finished) and "minutes" not in render(finished, finished)
    empty = {"rows_kept": 0, "rows_in": 0, "dropped": {}, "stage": "verify", **_UNREVIEWED}
    write_json(finished / "artifacts/verify/summary.json", empty)
    made = {"rows_kept": 120, "rows_in": 130, "dropped": {"max_rows": 10}, "stage": "supervise"}
    write_json(finished / "artifacts/supervise/summary.json", made)
    assert "came 120" in render(finished, finished), "no generator: supervise makes the rows"


def test_verdicts_on_rows_that_no_generator_wrote_are_told(finished: Path) -> None:
    empty = {"rows_kept": 0, "rows_in": 0, "dropped": {}, "stage": "verify", **_UNREVIEWED}
    write_json(finished / "artifacts/verify/summary.json", empty)
    write_json(finished / "artifacts/validate/metrics.json", {"yield": None})
    made = {"rows_kept": 120, "rows_in": 120, "dropped": {}, "stage": "supervise"}
    names = ("right", "right_low", "right_high", "reviewed", "reviewed_of")
    kinds = {"nli": (0.9, 0.8, 0.95, 60, 72), "ynqa": (1.0, 0.91, 1.0, 40, 48)}
    figures = dict(zip(names, (0.94, 0.88, 0.97, 100, 120), strict=True))
    by_type = {kind: dict(zip(names, told, strict=True)) for kind, told in kinds.items()}
    path = finished / "artifacts/supervise/summary.json"
    stages = [StageOutcome(stage, "ran", 1.0) for stage in ("verify", "supervise")]
    write_outcomes(finished, "default", stages)
    write_json(path, made | {"review": figures | {"reviewed": 0, "by_task_type": {}}})
    assert "right by review" not in render(finished, finished), "nobody has read any"
    write_json(path, made | {"review": figures | {"by_task_type": by_type}})
    text = render(finished, finished)
    assert (
        "right by review 94 % (88 to 97; 100 of 120 kept rows read): nli 90 % (80 to 95; 60 of 72 "
        "kept rows read), ynqa 100 % (91 to 100; 40 of 48 kept rows read)"
    ) in " ".join(text.split())
    assert widest(text, finished) <= WIDTH
    write_outcomes(finished, "default", stages[:1])
    assert "right by review" not in render(finished, finished), "supervise has not run"


def test_new_answers_take_the_explanations_of_the_old_ones_away(finished: Path) -> None:
    page = finished / "artifacts/why/q1.html"
    for status, left in (("unchanged", True), ("failed", True), ("restored", False)):
        write_json(page, "of make why")
        remove_explanations(finished, [StageOutcome("evaluate", status, 1.0)])
        assert page.is_file() == left, status
    remove_explanations(finished, [StageOutcome("evaluate", "ran", 1.0)])


_UNREVIEWED = dict.fromkeys(("agreed", "right", "right_low", "right_high")) | {
    "reviewed": 0,
    "reviewed_of": 0,
}
