"""What a trial that was stopped says, and what the run will have more of."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest

from tasks.core.files import choose, write_json
from tasks.core.overlay import overlay
from tasks.core.params import parse_params
from tasks.core.parquet import read_table
from tasks.core.yaml_file import read_yaml
from tasks.start import trial as trials
from tasks.start.apart import Measured
from tasks.start.forecast import Range
from tasks.start.launch import Early
from tasks.start.minutes import _tests, count_steps, forecast_minutes, limit_kept
from tasks.start.plan import _rests_on, _tell_languages
from tasks.start.trial import TESTS, Trial, try_constructed, try_generated
from tests.conftest import ROOT, passage_table

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


@pytest.mark.parametrize("source", ["bonito", "constructed"])
@pytest.mark.parametrize(("most", "tried"), [(5, 5), (0, 20)])
def test_a_trial_has_no_more_passages_than_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, most: int, tried: int
) -> None:
    """Rows of 32 passages were forecast for a run on five of them."""
    values = overlay(read_yaml(ROOT / "params.yaml"), {"generate": {"max_passages": most}})
    params = parse_params(values, "params.yaml")
    seen: list[pa.Table] = []

    class Drawn(Exception):
        pass

    def note(stage: str, folder: Path, *_: object, **__: object) -> None:
        seen.append(read_table(folder / "passages.parquet"))
        raise Drawn

    monkeypatch.setattr(trials, "run_apart", note)
    whole = passage_table(20)
    told = params, values, whole, tmp_path, lambda *_: None
    with pytest.raises(Drawn):
        if source == "constructed":
            try_constructed(*told)
        else:
            try_generated(*told, Early((), tmp_path), 0.0)
    ids = whole["passage_id"].to_pylist()
    chosen = {
        ids[place] for place in choose(ids, most, params.generate.seed, "passage").to_pylist()
    }
    assert {*seen[0]["passage_id"].to_pylist()} == chosen and len(chosen) == tried


def test_limits_on_rows_limit_the_forecast() -> None:
    """With ``validate.max_rows`` verify keeps no more, and asks its reader about no more; of claims
    ``supervise.max_rows`` are kept.
    """
    values, limit = read_yaml(ROOT / "params.yaml"), {"validate": {"max_rows": 200}}
    free, few = (parse_params(overlay(values, more), "params.yaml") for more in ({}, limit))
    verify = Measured(60.0, 900.0, ((10.0, 0), (60.0, 50)), 50)
    measured = {"generate": _GENERATED, "verify": verify}
    trial, kept = (
        Trial(32, {}, measured, 128, 100),
        {"nli": Range(300, 500), "all": Range(300, 500)},
    )
    assert limit_kept(free, trial, kept, 10.0) == kept
    assert limit_kept(few, trial, kept, 10.0)["all"] == Range(60, 100), "a fifth of 1,000"
    assert limit_kept(few, trial, kept, 1.0) == kept, "validate has 100"
    found = SimpleNamespace(seconds=10.0, times=1.0)
    minutes = [
        forecast_minutes(params, found, trial, 10.0, Range(300, 500), 0)["verify"].high
        for params in (free, few)
    ]
    assert minutes[1] < minutes[0] / 3
    ruled = {"supervise": {"source": "constructed", "max_rows": 40}}
    rules = parse_params(overlay(values, ruled), "params.yaml")
    assert limit_kept(rules, Trial(32, {}, {}), kept, 10.0)["nli"] == Range(40, 40)


def test_a_budget_of_tokens_decides_the_steps(tmp_path: Path) -> None:
    """With ``finetune.max_tokens`` the epochs decide nothing."""
    values = {"finetune": {"max_tokens": 60_000, "max_steps": 0}}
    params = parse_params(overlay(read_yaml(ROOT / "params.yaml"), values), "params.yaml")
    write_json(tmp_path / "finetune/summary.json", {"tokens": 3000, "steps": 2})
    tokens = trials.tokens_a_step(tmp_path)
    assert tokens == 1500 and trials.tokens_a_step(tmp_path / "none") == 0
    few, many = (Trial(32, {}, {}, step_tokens=tokens), Range(30, 40)), Range(3000, 4000)
    assert count_steps(params.finetune, *few) == Range(36, 44)
    assert count_steps(params.finetune, few[0], many) == Range(36, 44)
    short = params.finetune.model_copy(update={"max_steps": 10})
    assert count_steps(short, *few) == Range(10, 10)
    free = params.finetune.model_copy(update={"max_tokens": 0, "epochs": 2.0, "batch_rows": 10})
    assert count_steps(free, *few) == Range(6, 8)


def test_only_a_failed_test_leaves_a_doubt(tmp_path: Path) -> None:
    test = {"right": 10, "rows": 24, "chance": 1 / 3, "passed": False}
    reader = {"nli": test, "exqa": {**test, "passed": True}}
    write_json(tmp_path / "verify/summary.json", {"reader": reader})
    assert set(trials._read_doubts(tmp_path, 120)) == {"nli"}
    assert trials._read_doubts(tmp_path / "none", 120) == {}
