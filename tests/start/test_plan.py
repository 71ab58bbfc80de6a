"""``make plan``: what the figures say, and the trial of a small corpus with a made-up generator."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from scripts import plan as script
from tasks.core.files import read_json
from tasks.core.lock import hold_lock
from tasks.core.overlay import overlay
from tasks.core.parquet import read_table
from tasks.core.process import is_alive, process_mark
from tasks.core.sections.finetune import CHAMPION
from tasks.core.setting_paths import FILES, NOTHING, find_paths
from tasks.core.yaml_file import read_yaml
from tasks.start import apart, launch
from tasks.start import trial as trials
from tasks.start.apart import run_apart, write_params
from tasks.start.forecast import (
    Pace,
    Range,
    chance_to_judge,
    forecast_kept,
    judge_text,
    memory,
)
from tests.claims.test_construct import corpus
from tests.conftest import ROOT, passage_table
from tests.start.conftest import GERMAN, write_texts

_PARTS = ("seal", "bearing", "valve", "relay", "filter", "gauge", "hatch", "cable")
#: The line on a stage that is tried; a slow one has lines of progress below it.
_STAGE = r"(?m)^    ([a-z]+) \.\.\. +after \d+ s$"


def test_four_of_five_intervals_hold_what_comes() -> None:
    """Passages that keep 0, 1 or 2 rows, drawn often: 80 % of the intervals hold the whole's sum."""
    chance = np.random.default_rng(7)
    held = 0
    for trial in range(200):
        whole = chance.choice([0, 1, 2], 400, p=[0.5, 0.3, 0.2])
        found = forecast_kept({"exqa": whole[:32].tolist()}, 400, seed=trial)["all"]
        held += found.low <= whole.sum() <= found.high
    assert 140 <= held <= 180


def test_a_small_corpus_is_counted_and_a_sampled_one_is_less_certain() -> None:
    kept = {"exqa": [1, 0, 2, 1] * 8, "ynqa": [0] * 32}
    exact = forecast_kept(kept, 32)
    assert exact["exqa"] == exact["all"] == Range(32, 32)
    assert exact["ynqa"].low == 0 and exact["ynqa"].high > 0
    counted = forecast_kept(kept, 1000)["exqa"]
    sampled = forecast_kept(kept, 1000, sampled_files=20)["exqa"]
    assert 900 < (counted.low + counted.high) / 2 < 1100
    assert sampled.high - sampled.low > counted.high - counted.low


def test_a_reader_that_passed_no_test_may_pass_the_larger_one_of_the_run() -> None:
    assert chance_to_judge(6, 24, 1 / 3, 98) < 0.1
    assert chance_to_judge(10, 24, 1 / 3, 98) > 0.2
    assert chance_to_judge(20, 24, 1 / 3, 98) > 0.95
    # A reader that was never right may be right a few times in more rows, or never.
    assert 0.1 < chance_to_judge(0, 24, 0.0, 98) < 0.5 < chance_to_judge(1, 24, 0.0, 98)
    kept = {"nli": [2.0] * 8, "exqa": [1.0] * 8}
    sure = forecast_kept(kept, 100, doubts={"nli": 0.02})
    doubtful = forecast_kept(kept, 100, doubts={"nli": 0.5})
    assert sure["nli"] == Range(200, 200) and sure["exqa"] == doubtful["exqa"] == Range(100, 100)
    assert 60 < doubtful["nli"].low < 120 and doubtful["nli"].high == 200
    assert doubtful["all"].low == doubtful["nli"].low + 100


def test_a_pace_is_a_start_and_a_time_for_each_row() -> None:
    pace = Pace.of(50.0, [(25.0, 32), (41.0, 64)])
    assert pace == Pace(18.0, 0.5)
    assert Pace.of(50.0, [(41.0, 64)]).start == 0.0 and Pace.of(5.0, []) == Pace(5.0, 0.0)
    minutes = pace.minutes(Range(100, 200))
    assert minutes.low == pytest.approx(0.7 * 68 / 60)
    assert minutes.high == pytest.approx(1.4 * 118 / 60)


def test_the_text_is_judged_by_the_rows_it_gives() -> None:
    assert judge_text(Range(10, 40)).startswith("too little text")
    assert judge_text(Range(40, 90)).startswith("perhaps too little text")
    assert judge_text(Range(140, 900)).startswith("enough text")
    assert memory([100.0, 300.0]) == Range(300.0, 375.0)


@pytest.mark.parametrize("tried", [4, 8])
def test_of_few_passages_the_intervals_are_wider_and_still_hold(tried: int) -> None:
    chance = np.random.default_rng(5)
    held = 0
    for trial in range(200):
        whole = chance.choice(5, 400, p=[0.2, 0.2, 0.2, 0.2, 0.2])
        found = forecast_kept({"exqa": whole[:tried].tolist()}, 400, seed=trial)["all"]
        held += found.low <= whole.sum() <= found.high
    assert 140 <= held <= 180


@pytest.fixture
def desk(
    tmp_path: Path, tiny_model: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A working folder with a corpus of 40 passages, parameters of a tiny model, and items."""
    (tmp_path / "corpus").mkdir()
    for number in range(40):
        part = _PARTS[number % len(_PARTS)]
        (tmp_path / f"corpus/report-{number}.md").write_text(
            f"Pump {number} at site {number} stopped because its {part} broke.\n\nCrew {number} "
            f"replaced the {part} of unit {number * 7} within {number + 2} hours."
        )
    settings: dict[str, Any] = {
        "ingest": {
            "corpus": "corpus",
            "passage_tokens": 90,
            "min_tokens": 5,
            "near_duplicates": 0.0,
        },
        "generate": {"generator": str(tiny_model), "samples": 1},
        "verify": {"reader": "none"},
        "finetune": {
            "model": str(tiny_model),
            "start": CHAMPION,  # no run has placed it
            "restart": str(ROOT / NOTHING),
            "batch_rows": 4,
            "micro_batch_rows": 4,
            "precision": "float32",
        },
        "evaluate": {
            "dataset": str(ROOT / "datasets/incidents.yaml"),
            "items": str(ROOT / NOTHING),
        },
    }
    (tmp_path / "profiles").mkdir()
    params = overlay(read_yaml(ROOT / "params.yaml"), settings)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests/fake_engine"), str(ROOT)]))
    return tmp_path


def test_a_trial_gives_every_figure_with_two_ends(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--profile", "default"]) == 0
    found = read_json(desk / "artifacts/plan/plan.json")
    for name in ("kept_rows", "minutes", "peak_memory_mb", "disk_mb"):
        assert 0 < found[name]["low"] <= found[name]["high"], name
    assert found["smallest_gain"] is None and found["passages"] == 40
    assert set(found["minutes"]["by_stage"]) == {
        "ingest",
        "generate",
        "validate",
        "verify",
        "supervise",
        "finetune",
        "baseline",
        "evaluate",
        "register",
    }
    printed = capsys.readouterr().out
    assert all(len(line) <= 100 for line in printed.splitlines())
    stages = ("ingest", "generate", "validate", "verify", "finetune")
    assert tuple(re.findall(_STAGE, printed)) == stages
    assert "\ntried           32 passages\n" in printed and found["trial_passages"] == 32
    assert "kept rows" in printed and "no labelled items: there will be no F1" in printed
    assert not (desk / "artifacts/generate").exists(), "the pipeline's artifacts do not change"


def test_a_slow_generator_is_stopped_and_what_is_finished_counts(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECONDS_A_CALL", "0.5")
    monkeypatch.setattr(trials, "SECONDS", 0.2)
    small = {"generate": {"samples": 2, "shard_rows": 4}}
    write_params(overlay(read_yaml(desk / "params.yaml"), small), desk)
    told: list[tuple[str, str]] = []
    took, tried = trials.generate_in_time(
        passage_table(32), 2, desk, lambda *said: told.append(said)
    )
    rows = read_table(desk / "generate/predictions.parquet")
    assert 4 <= len(tried) < 32 and took.stopped
    assert rows["passage_id"].to_pylist() == [
        name for name in tried["passage_id"].to_pylist() for _ in range(2)
    ]
    assert told[0] == ("generate", "") and took.marks[-1][0] == took.seconds


@pytest.mark.usefixtures("stages_here")
def test_claims_made_by_rules_are_forecast_without_a_generator(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("corpus")
    Path("corpus").mkdir()
    for number, passage in enumerate(corpus()):
        Path(f"corpus/{number}.md").write_text(passage.text)
    settings = ["supervise.source=constructed", "generate.task_types=[nli]"]
    assert script.main(["--profile", "default", "--set", *settings]) == 0
    found = read_json(desk / "artifacts/plan/plan.json")
    assert set(found["kept_rows"]["by_task_type"]) == {"nli"} and found["kept_rows"]["low"] > 20
    assert found["minutes"]["by_stage"]["finetune"]["low"] > 0
    assert found["minutes"]["by_stage"]["evaluate"]["high"] > 0
    printed = capsys.readouterr().out
    assert re.findall(_STAGE, printed) == ["ingest", "supervise", "finetune"]
    assert re.search(r"\n +written +0\n", printed)


def test_a_second_plan_says_who_holds_the_first_and_leaves_its_files(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = desk / ".work/plan/generate.log"
    first.parent.mkdir(parents=True)
    first.touch()
    with hold_lock(desk / ".work/plan.lock", "make plan"):
        assert script.main(["--profile", "default"]) == 2
    error = capsys.readouterr().err
    assert f'make plan is already being run here by {{"pid": {os.getpid()}' in error
    assert error.count("\n") == 1 and first.exists()
    assert not (desk / "artifacts").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["supervise.source=tapt"], "supervise.source tapt: make plan forecasts the rows that"),
        (
            ["supervise.source=constructed", "generate.task_types=[exqa]"],
            "supervise.source constructed makes rows of nli, te, ynqa",
        ),
        (["ingest.corpus=s3://bucket"], "make plan tries documents of this one"),
        (["ingest.corpus=nowhere"], "the corpus nowhere does not exist"),
        (["ingest.corpus=nothing"], "nothing holds no file that can be read"),
        (["evaluate.items=gone.jsonl"], "gone.jsonl does not exist"),
        (["evaluate.items=corpus/report-1.md"], "report-1.md is in the corpus"),
    ],
)
@pytest.mark.usefixtures("ingest_here")
def test_what_cannot_be_forecast_is_one_line(
    desk: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    said: str,
) -> None:
    (desk / "nothing").mkdir()
    monkeypatch.setattr(launch, "_ROOMY", math.inf)  # no stage is loaded that is not needed
    assert script.main(["--profile", "default", "--set", *settings]) == 2
    assert said in capsys.readouterr().err
    assert not (desk / "artifacts").exists()


def test_text_in_no_wanted_language_is_one_line(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_texts(desk / "german", GERMAN, 4)
    settings = ["ingest.corpus=german", "ingest.languages=[en]"]
    assert script.main(["--profile", "default", "--set", *settings]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "german is kept: language " in error and not (desk / "artifacts").exists()


def test_a_killed_plan_leaves_no_stage_behind(tmp_path: Path) -> None:
    code = "import os\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)\n"
    _stage_of(tmp_path, code)
    asked = (
        "import pathlib; from tasks.start.apart import run_apart; "
        f"run_apart('sleepy', pathlib.Path({str(tmp_path)!r}), {{}})"
    )
    plan = subprocess.Popen([sys.executable, "-c", asked], cwd=ROOT)
    told, deadline = tmp_path / "pid", time.monotonic() + 30
    while not (told.is_file() and told.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    stage = process_mark(int(told.read_text()))
    plan.kill()
    plan.wait()
    while is_alive(stage):
        assert time.monotonic() < deadline, "the stage outlived the plan"
        time.sleep(0.05)


def _stage_of(folder: Path, code: str) -> Path:
    """Make a folder in which ``tasks.sleepy`` runs ``code``; return the folder."""
    (folder / "tasks").mkdir()
    (folder / "tasks/__init__.py").touch()
    (folder / "tasks/sleepy.py").write_text(f"import pathlib, time\n{code}")
    return folder


def test_the_last_progress_is_told_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "for n in range(6):\n    print(f'12:00 {n * 200:,}/1,000 rows  1/s')\n    time.sleep(0.2)\n"
    )
    folder, told = _stage_of(tmp_path, code), []
    monkeypatch.setattr(apart, "_EVERY", 0.5)
    found = run_apart("sleepy", folder, {}, tell=lambda *said: told.append(said))
    assert told[0] == ("sleepy", "") and len(told) >= 3
    assert all(re.fullmatch(r"nothing yet|[\d,]+/1,000 rows", said) for _, said in told[1:])
    assert told[-1][1] != "nothing yet"
    assert len(found.marks) == 6 and found.total == 1000 and not found.stopped


def test_the_tests_of_a_reader_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "print('12:00 verify  0/439 rows  0.44/s  826 s left  tests 32/98')\ntime.sleep(1)\n"
    folder, told = _stage_of(tmp_path, code), []
    monkeypatch.setattr(apart, "_EVERY", 0.3)
    run_apart("sleepy", folder, {}, tell=lambda *said: told.append(said))
    assert told[-1] == ("sleepy", "0/439 rows, 32/98 tests")


def test_rows_that_test_a_reader_cost_what_other_rows_do(tmp_path: Path) -> None:
    code = (
        "print('verify  0/1,000 rows  tests 2/24')\ntime.sleep(0.4)\n"
        "print('verify  1/1,000 rows  tests 24/24')\n"
    )
    found = run_apart("sleepy", _stage_of(tmp_path, code), {})
    assert [done for _, done in found.marks] == [2, 25]
    assert (found.total, found.tests) == (1000, 24)
    assert Pace.of(found.seconds, found.marks).row == pytest.approx(0.4 / 23, rel=0.5)


def test_one_step_has_a_pace(tmp_path: Path) -> None:
    code = (
        "print('finetune  training on 30 rows')\ntime.sleep(0.4)\n"
        "print('finetune  1/1 steps  0.09/s  12 s left  loss 0.5981')\ntime.sleep(0.2)\n"
    )
    found = run_apart("sleepy", _stage_of(tmp_path, code), {})
    pace = Pace.of(found.seconds, found.marks)
    # A line is seen a moment after it was printed, later if the cores are busy.
    assert pace.row > 0.3 and 0.1 < pace.start < found.seconds - 0.3


def test_a_stage_that_did_enough_is_stopped(tmp_path: Path) -> None:
    folder = _stage_of(
        tmp_path, "for n in range(60):\n    print(f' {n}/60 rows')\n    time.sleep(0.1)\n"
    )
    found = run_apart("sleepy", folder, {}, enough=lambda worked: worked > 0.3)
    assert found.stopped and 2 < len(found.marks) < 30
    assert found.seconds == found.marks[-1][0], "what came after the last row is not counted"


def test_a_stopped_stage_leaves_its_temporary_files_in_the_trial(tmp_path: Path) -> None:
    """A killed vLLM left one of 2 KB in /tmp each time. The next trial empties the folder."""
    code = (
        "import os, tempfile\nprint(' 1/60 rows', tempfile.mkstemp()[1])\n"
        "print(os.environ['VLLM_RPC_BASE_PATH'])\ntime.sleep(60)\n"
    )
    folder = _stage_of(tmp_path, code)
    assert run_apart("sleepy", folder, {}, enough=lambda worked: worked > 0.3).stopped
    (left,) = (folder / "tmp").iterdir()
    told = (folder / "sleepy.log").read_text()
    assert told == f" 1/60 rows {left}\n{tempfile.gettempdir()}\n", "sockets have short paths"


def test_a_stage_that_falls_silent_is_stopped_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_EVERY", 0.2)
    folder = _stage_of(tmp_path, "print(' 1/60 rows')\ntime.sleep(60)\n")
    began = time.monotonic()
    assert run_apart("sleepy", folder, {}, enough=lambda worked: worked > 0.3).stopped
    assert time.monotonic() - began < 30


def test_the_paths_of_a_section_in_a_section_are_absolute_in_a_trial(tmp_path: Path) -> None:
    params = read_yaml(ROOT / "params.yaml")
    fit = {**params["finetune"], "start": "models/smollm2-135m-answering"}
    verify = {**params["verify"], "fit": fit}
    written = read_yaml(write_params({**params, "verify": verify}, tmp_path))
    assert written["verify"]["fit"]["start"] == str(ROOT / fit["start"])
    assert read_yaml(write_params(params, tmp_path))["verify"]["reader"]


def test_every_setting_that_is_a_path_is_absolute_in_a_trial(tmp_path: Path) -> None:
    written = read_yaml(write_params(read_yaml(ROOT / "params.yaml"), tmp_path))
    there = [section[key] for section, key in find_paths(written) if (ROOT / section[key]).exists()]
    assert len(there) >= len(FILES) and all(Path(value).is_absolute() for value in there)
