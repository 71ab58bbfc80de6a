"""`make ui` as a person meets it, in a real browser: a wrong value refused in Prefect's form, runs
started from it, their F1s compared in MLflow.

Minutes, so not part of the default run: `make browser`, which also leaves pictures in
artifacts/browser.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, chromium
from tests.conftest import ROOT
from tests.flows.test_flows import await_no_process_in
from tests.toy import environment, make_toy, write_stage
from tests.ui_server import serve_ui

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not chromium(), reason="no Chromium here (Debian: apt install chromium)"),
    pytest.mark.timeout(1800),
]

#: Seconds: two runs beside other work on two cores.
_PATIENCE = 400
_PICTURES = ROOT / "artifacts" / "browser"
#: The toy's last stages: F1s that follow from the seed, put into the real ledger under the real
#: keys.
_EVALUATE = """
import sys, time
from tasks.core.ports import find_free_port
from tasks.core.files import write_json
from tasks.core.stage import Stage, run_stage

def work(stage: Stage) -> None:
    meter = stage.progress(4, "answers")
    for _ in range(4):
        meter.advance(1, f1=20.0 + stage.params.generate.seed)
        time.sleep(1.2)
    f1 = 20.0 + stage.params.generate.seed
    scores = {name: {"f1": own, "f1_low": own - 4, "f1_high": own + 4} for name, own in (("zero_shot", 20.0), ("adapted", f1), ("gain", f1 - 20.0))}
    write_json(stage.out / "scores.json", {"dataset": "incidents", **scores})
    stage.summary(4, 4)

if __name__ == "__main__":
    sys.exit(run_stage("evaluate", work, inputs=["source"]))
"""
_REGISTER = """
import sys
from tasks.core.files import fingerprint, read_json, write_json
from tasks.register.run_record import metric_table
from tasks.core.stage import Stage, run_stage
from tasks.tracking.registry import Ledger

def work(stage: Stage) -> None:
    metrics, seed = read_json(stage.path("source") / "scores.json"), stage.params.generate.seed
    ledger = Ledger.open("bonito", fingerprint(metrics), fingerprint(seed), f"incidents seed {seed}")
    ledger.params({"generate.seed": seed})
    ledger.metrics(metric_table(metrics) | {f"gain_over_tapt{end}/incidents": 3.0 for end in ("", "_low", "_high")})
    ledger.finish()
    write_json(stage.out / "registration.json", {"experiment": "bonito", "experiment_id": ledger.experiment_id, "run_id": ledger.run_id})
    stage.summary(1, 1)

if __name__ == "__main__":
    sys.exit(run_stage("register", work, inputs=["source"]))
"""
_GRAPH = """
  evaluate:
    cmd: python -m tasks.evaluate --params params.yaml --source artifacts/validate --out artifacts/evaluate
    deps: [tasks/evaluate, artifacts/validate]
    params: [generate.seed]
    outs: [artifacts/evaluate]
  register:
    cmd: python -m tasks.register_toy --params params.yaml --source artifacts/evaluate --out artifacts/register
    deps: [tasks/register_toy, artifacts/evaluate]
    params: [register]
    outs: [artifacts/register]
metrics:
"""


def make_scored_toy(folder: Path) -> Path:
    """The toy repository with two stages more, whose F1 goes into MLflow."""
    root = make_toy(folder)
    write_stage(root, "evaluate", _EVALUATE)
    write_stage(root, "register_toy", _REGISTER)
    graph = root / "dvc.yaml"
    graph.write_text(graph.read_text().replace("metrics:\n", _GRAPH.lstrip("\n")))
    for command in (["git", "add", "-A"], ["git", "commit", "-q", "-m", "scores"]):
        subprocess.run(command, cwd=root, check=True, env=environment(root), capture_output=True)
    return root


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """What `make ui` prints: the addresses of Prefect's pages and of MLflow's."""
    root = make_scored_toy(tmp_path / "toy")
    with serve_ui(root, tmp_path / "ui.log", environment(root)) as addresses:
        yield addresses
    await_no_process_in(root, patience=20)


def submit(browser: Browser) -> None:
    """Submit the form, a second time if the server was too busy to take it."""
    form = browser.js("location.href")
    browser.click("button", "Submit")
    deadline = time.monotonic() + _PATIENCE
    while browser.js("location.href") == form and time.monotonic() < deadline:
        if "Something went wrong" in browser.text():
            time.sleep(10)  # until the message no longer covers the button
            browser.click("button", "Submit")
            return
        time.sleep(0.3)


def test_runs_are_started_from_the_form_and_compared_in_mlflow(
    pages: tuple[str, str], tmp_path: Path
) -> None:
    prefect, mlflow = pages
    _PICTURES.mkdir(parents=True, exist_ok=True)
    with urllib.request.urlopen(
        f"{prefect}/api/deployments/name/adapt/adapt", timeout=60
    ) as response:
        deployment = f"{prefect}/deployments/deployment/{json.load(response)['id']}"
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        for seed in (5, 7):
            browser.open(f"{deployment}/run")
            browser.see(
                "profile (Optional)", "Seed of generation, selection and training", "Submit"
            )
            rows, own = 0, 1  # the form's two number fields
            if seed == 5:
                browser.see("pipeline")  # the work pool's name
                browser.shot(_PICTURES / "1-form.png")
                browser.click("input[type=number]", place=rows)
                browser.type("-1")
                browser.click("button", "Submit")
                browser.see(
                    "Validation failed for field 'rows'", "-1 is less than the minimum of 0"
                )
                browser.shot(_PICTURES / "2-refused.png")
                browser.click("input[type=number]", place=rows)
                browser.type("0")
                browser.gone("Validation failed")  # it lies over the button
            browser.click("input[type=number]", place=own)
            browser.type(str(seed))
            submit(browser)
            browser.see(f"default-seed-{seed}-")  # listed under its own name, once it has begun
            browser.click("a", f"default-seed-{seed}-")
            browser.see("Running stage 'register'", "of 5 stages ran")
            browser.shot(_PICTURES / f"3-run-{seed}.png")
            browser.click("*", "Artifacts")
            browser.see(
                "rows in, kept and dropped, by stage",
                "F1 in points (0-100) with 95 % intervals",
                "model, report, data version",
                "live sample of generate",
            )
            time.sleep(5)  # until the timeline has drawn itself
            browser.shot(_PICTURES / f"4-artifacts-{seed}.png")
            browser.click(".artifact-card__title", "f1")
            browser.see("zero-shot", "adapted", "gain", str(20 + seed))
            time.sleep(1)  # until the table has faded in
            browser.shot(_PICTURES / f"5-f1-{seed}.png")
        browser.open(mlflow)
        text = browser.see("incidents seed 5", "incidents seed 7", "f1/incidents", "25.00", "27.00")
        assert "gain_over_tapt" in text and "Runs" in text and "Observability" not in text, (
            "MLflow opened on its view of chat applications"
        )
        browser.shot(_PICTURES / "6-mlflow-compared.png")
        assert browser.elsewhere() == [], "a page asked for something beyond this machine"


def test_the_report_on_a_corpus_says_why_a_file_is_not_used(tmp_path: Path) -> None:
    """The shipped corpus beside five files that cannot be used whole."""
    corpus = tmp_path / "incidents"
    shutil.copytree(ROOT / "data" / "incidents" / "documents", corpus)
    first = next(path for path in sorted(corpus.iterdir()) if path.is_file())
    shutil.copy(first, corpus / f"copy-of-{first.name}")
    (corpus / "empty.txt").write_text("")
    (corpus / "short.txt").write_text("See the other file.\n")
    (corpus / "drawing.dwg").write_bytes(b"AC1032" + bytes(range(256)))
    (corpus / "cut-short.pdf").write_bytes(b"%PDF-1.7\n1 0 obj\n<<")
    command = [sys.executable, str(ROOT / "scripts" / "ingest.py"), "--corpus", corpus.name]
    command += ["--set", f"generate.generator={ROOT / 'models' / 'bonito-smollm2-135m'}"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    [report] = tmp_path.rglob("report.html")
    _PICTURES.mkdir(parents=True, exist_ok=True)
    with Browser(tmp_path / "profile", patience=_PATIENCE) as browser:
        browser.open(report.as_uri())
        browser.see("duplicate", "too_short", "damaged", "unsupported_format", "empty")
        browser.shot(_PICTURES / "7-report.png", width=1000)
        assert browser.elsewhere() == [], "the report asked for something beyond this machine"
