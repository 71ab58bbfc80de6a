"""What a trial that was stopped says, and what the run will have more of."""

from __future__ import annotations

from pathlib import Path

from tasks.core.files import write_json
from tasks.core.params import parse_params
from tasks.core.yaml_file import read_yaml
from tasks.start import trial as trials
from tasks.start.apart import Measured
from tasks.start.forecast import Range
from tasks.start.minutes import _tests
from tasks.start.plan import _rests_on, _tell_languages
from tasks.start.trial import TESTS, Trial
from tests.conftest import ROOT

_GENERATED = Measured(30.0, 900.0, ((10.0, 0), (30.0, 32)), 128)


def test_a_forecast_says_what_it_rests_on() -> None:
    whole = Trial(8, {"nli": [1.0] * 8}, {"generate": _GENERATED}, doubts={"nli": 0.02})
    assert _rests_on(whole) == ()
    doubtful = Trial(8, {"nli": [1.0] * 8}, {"generate": _GENERATED}, doubts={"nli": 0.3})
    told = _rests_on(doubtful)
    assert len(told) == 1 and told[0].startswith(
        "nli: the reader failed the small test of the trial"
    )
    verify = Measured(20.0, 900.0, ((10.0, 3), (20.0, 9)), 14, 24, stopped=True)
    stopped = Measured(30.0, 900.0, ((10.0, 0), (30.0, 32)), 128, stopped=True)
    measured = {"generate": stopped, "verify": verify}
    told = _rests_on(Trial(8, {"nli": [0.6] * 8}, measured, doubts={"nli": 0.5}))
    assert told[0].startswith("generating was stopped after 24 s")
    assert told[1].startswith("the reader answered 9 of 38 rows and tests") and len(told) == 2


def test_passages_that_the_generator_cannot_read_are_told() -> None:
    params = parse_params(read_yaml(ROOT / "params.yaml"), "params.yaml")
    assert _tell_languages(params, 0.95) == ()
    told = _tell_languages(params, 0.6)[0]
    assert told.startswith("40% of the passages are not in English, the only language that the g")
    mix = params.supervise.model_copy(update={"source": "prompted"})
    assert _tell_languages(params.model_copy(update={"supervise": mix}), 0.6) == ()


def test_the_run_tests_its_reader_on_more_rows() -> None:
    assert _tests(10, 120, 3.0) == Range(10, 30), "rules make few tests of these passages"
    assert _tests(10, 120, 1.0) == Range(10, 10)
    assert _tests(TESTS, 120, 1.0) == Range(TESTS, 120), "the trial takes no more of them"
    assert _tests(2 * TESTS, 120, 40.0) == Range(2 * TESTS, 240), "of two task types"
    assert _tests(12, 12, 40.0) == Range(12, 12)


def test_only_a_failed_test_leaves_a_doubt(tmp_path: Path) -> None:
    test = {"right": 10, "rows": 24, "chance": 1 / 3, "passed": False}
    reader = {"nli": test, "exqa": {**test, "passed": True}}
    write_json(tmp_path / "verify/summary.json", {"reader": reader})
    assert set(trials._read_doubts(tmp_path, 120)) == {"nli"}
    assert trials._read_doubts(tmp_path / "none", 120) == {}
