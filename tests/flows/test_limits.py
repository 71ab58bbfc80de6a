"""A run that ends on purpose, after its minutes or with too few rows, and goes on."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.runs import request
from flows.runs.limits import RunLimits, TimeUp
from scripts import plan as script
from tasks.core.files import read_json, write_json
from tasks.core.sections.run import Limits
from tasks.core.yaml_file import read_yaml
from tasks.start.forecast import Range
from tasks.start.plan import Plan
from tests.conftest import ROOT
from tests.flows.test_flows import await_no_process_in
from tests.toy import _STAGE, environment, make_toy, pipeline, write_stage

_MORE = """
  verify:
    cmd: python -m tasks.verify --params params.yaml --source artifacts/validate --out artifacts/verify
    deps: [tasks/verify, artifacts/validate]
    params: [verify]
    outs: [artifacts/verify]
  supervise:
    cmd: python -m tasks.supervise --params params.yaml --source artifacts/verify --out artifacts/supervise
    deps: [tasks/supervise, artifacts/verify]
    params: [supervise]
    outs: [artifacts/supervise]
metrics:
"""
#: What the closing table reads of verify.
_FACTS = {
    "verify": ", agreed=None, right=None, right_low=None, right_high=None, reviewed=0, "
    "reviewed_of=0)"
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with two stages more: those that make the rows, and the first that reads them."""
    root = make_toy(tmp_path_factory.mktemp("limits") / "toy")
    for name in ("validate", "verify", "supervise"):
        code = _STAGE.format(name=name, inputs='inputs=["source"]')
        code = code.replace('{"too_short": 2})', f'{{"too_short": 2}}{_FACTS.get(name, ")")}')
        form = '    write_json(stage.out / "metrics.json", {"yield": None})\n\nif __name__'
        write_stage(root, name, code.replace("\nif __name__", form))
    graph = root / "dvc.yaml"
    graph.write_text(graph.read_text().replace("metrics:\n", _MORE.lstrip("\n"), 1))
    return root


@pytest.fixture(scope="module")
def limited(toy: Path, api: str) -> Iterator[subprocess.Popen[str]]:
    """A run that hangs in generate until its minutes are over."""
    running = subprocess.Popen(
        [sys.executable, "-m", "flows.pipeline", "--profile=warm", "--set", "run.max_minutes=0.4"],
        cwd=toy,
        env={**environment(toy), "TOY_HANG": "generate", "PREFECT_API_URL": api},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        mark = toy / ".runs" / "warm" / ".work" / "hanging"
        while not mark.exists() and running.poll() is None:
            time.sleep(0.1)
        yield running
    finally:
        running.kill()


@pytest.mark.timeout(300)
def test_too_few_rows_end_the_run_before_the_training(
    toy: Path, api: str, limited: subprocess.Popen[str]
) -> None:
    """While :func:`limited` waits for its end."""
    ask = ["--name", "floor", "--set", "generate.seed=5"]
    run = pipeline(toy, *ask, "run.min_rows=4", PREFECT_API_URL=api)
    assert run.returncode == 3, run.stderr
    last = run.stderr.splitlines()[-1]
    assert last.startswith("stopped: supervise: 3 rows are kept, fewer than run.min_rows = 4: not ")
    assert "continue with the same request" in last
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    assert "stopped" in lines["supervise"]
    assert re.search(r" 5 +3 ", lines["verify"]), "its rows are in the table"
    again = pipeline(toy, *ask, "run.min_rows=3", PREFECT_API_URL=api)
    assert again.returncode == 0, again.stderr


@pytest.mark.timeout(300)
def test_a_run_ends_after_its_minutes_and_the_same_command_goes_on(
    toy: Path, api: str, limited: subprocess.Popen[str]
) -> None:
    stdout, stderr = limited.communicate(timeout=240)
    assert limited.returncode == 3, stderr
    last = stderr.splitlines()[-1]
    told = r"stopped: generate: run.max_minutes = 0.4 are over in generate( \(1 of 3 rows\))?: "
    end = "nothing is lost, continue with make run PROFILE=warm SET=run.max_minutes=0.4"
    assert re.fullmatch(told + re.escape(end), last), last
    await_no_process_in(toy / ".runs" / "warm")
    lines = {line.split()[0]: line for line in stdout.splitlines() if line.strip()}
    assert "stopped" in lines["generate"] and "not run" in lines["validate"]
    # Another limit is the same run: it goes on in its checkout.
    ask = ["--profile", "warm", "--set", "run.max_minutes=5"]
    again = pipeline(toy, *ask, PREFECT_API_URL=api)
    assert again.returncode == 0, again.stderr
    lines = {line.split()[0]: line for line in again.stdout.splitlines() if line.strip()}
    assert "unchanged" in lines["ingest"] and "unchanged" not in lines["generate"]
    assert not (toy / ".runs").joinpath("warm-5").exists()


def test_the_floor_counts_rows_and_rows_for_each_passage_that_was_used(tmp_path: Path) -> None:
    write_json(tmp_path / "artifacts" / "verify" / "summary.json", {"rows_kept": 30})
    write_json(tmp_path / "artifacts" / "ingest" / "summary.json", {"rows_kept": 100})

    def shortfall(most: int = 0, after: tuple[str, ...] = ("verify",), **limits: float) -> str:
        chosen = Limits(max_minutes=0.0, **limits)  # type: ignore[arg-type]
        return RunLimits(chosen, 0.0, "make run", most).find_shortfall(tmp_path, after)

    assert shortfall() == "" == shortfall(min_rows=30)
    assert "30 rows are kept, fewer than run.min_rows = 31" in shortfall(min_rows=31)
    assert "run.min_rows_per_passage = 0.5 of 100 passages" in shortfall(min_rows_per_passage=0.5)
    assert shortfall(most=50, min_rows_per_passage=0.5) == ""
    assert shortfall(after=("finetune",), min_rows=31) == ""


@pytest.mark.parametrize(("source", "least"), [("constructed", 405), ("none", 0)])
def test_without_a_generator_the_floor_counts_what_supervise_has(
    tmp_path: Path, source: str, least: int
) -> None:
    """Verify keeps no rows then: there are none."""
    write_json(tmp_path / "artifacts" / "verify" / "summary.json", {"rows_kept": 0})
    write_json(tmp_path / "artifacts" / "supervise" / "summary.json", {"rows_kept": least})
    write_json(tmp_path / "artifacts" / "ingest" / "summary.json", {"rows_kept": 100})
    values = read_yaml(ROOT / "params.yaml")
    values["supervise"]["source"] = source
    values["run"]["min_rows"] = 400
    limits = RunLimits.of(values, "make run")
    assert limits.find_shortfall(tmp_path, ("ingest", "verify")) == ""
    assert limits.find_shortfall(tmp_path, ("ingest", "supervise")) == ""
    values["run"]["min_rows"] = 406
    told = RunLimits.of(values, "make run").find_shortfall(tmp_path, ("ingest", "supervise"))
    assert ("look at artifacts/supervise/summary.json" in told) == (source == "constructed")


def test_no_limit_never_ends_a_run() -> None:
    RunLimits(Limits(max_minutes=0.0), 0.0, "").check_time()
    with pytest.raises(TimeUp):
        RunLimits(Limits(max_minutes=0.001), 0.0, "").check_time()


def test_the_form_has_the_minutes_and_they_do_not_name_the_run() -> None:
    assert request.read_settings({"max_minutes": 90.0}) == ["run.max_minutes=90.0"]
    assert request.derive_name("mine", ["run.max_minutes=90"]) == "mine"
    assert request.name_run({"profile": "mine", "max_minutes": 5.0}) == "mine"


def test_a_plan_says_where_its_forecast_reaches_a_limit() -> None:
    found = Plan(
        passages=100,
        tried=32,
        kept_rows={"exqa": Range(40, 80), "all": Range(40, 80)},
        minutes={"all": Range(10.0, 20.0)},
        peak_memory_mb=Range(1, 2),
        disk_mb=Range(1, 2),
        passage_tokens=1,
        generated_tokens=Range(1, 2),
        smallest_gain=None,
        labelled=0,
        verdict="",
    )
    tell = script.compare
    assert tell(found, Limits(max_minutes=0.0)) == []
    assert tell(found, Limits(max_minutes=30.0, min_rows=40)) == []
    (line,) = tell(found, Limits(max_minutes=5.0))
    assert "run.max_minutes = 5: the run will end before it is done" in line and len(line) <= 100
    assert "may end" in tell(found, Limits(max_minutes=15.0))[0]
    assert "fewer than 50 rows may be kept" in tell(found, Limits(max_minutes=0.0, min_rows=50))[0]
    assert "90 rows will" in tell(found, Limits(max_minutes=0.0, min_rows_per_passage=0.9))[0]


def test_the_shipped_run_has_no_limit() -> None:
    values = read_yaml(ROOT / "params.yaml")["run"]
    assert not any(values.values())
    assert read_json(ROOT / "schemas" / "params.json")["properties"]["run"]
