"""The whole graph, as a person runs it: ``dvc repro`` in a clone, with every stage real. Only the
generator's words are made up, and the stages' libraries are loaded once for all of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.core.files import read_json
from tasks.core.overlay import overlay
from tasks.core.parquet import read_table
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT
from tests.loaded_python import load_python
from tests.pages import find_dead_links

_PARTS = ("seal", "bearing", "valve", "relay", "filter", "gauge", "hatch", "cable")


@pytest.fixture
def clone(tmp_path: Path, tiny_model: Path) -> Path:
    """A clone of this checkout's files with a corpus, an evaluation set and models of its own."""
    folder = tmp_path / "clone"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in files.decode().split("\0"):
        if (
            name
            and not name.startswith(("datastore/", "models/"))
            and name not in ("data.dvc", "dvc.lock")
            and (ROOT / name).is_file()
        ):
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    for cache in (ROOT / "tasks").rglob("__pycache__"):  # else the stages compile our code again
        unfinished = shutil.ignore_patterns("*.pyc.*")
        shutil.copytree(cache, folder / cache.relative_to(ROOT), ignore=unfinished)
    (folder / "models").mkdir()
    (folder / "models/README.md").write_text("none here")
    _write_data(folder)
    settings: dict[str, Any] = {
        "ingest": {
            "corpus": "corpus",
            "passage_tokens": 90,
            "min_tokens": 5,
            "near_duplicates": 0.0,
        },
        "generate": {"generator": str(tiny_model), "samples": 1, "shard_rows": 4},
        "verify": {"reader": str(tiny_model), "engine": "transformers", "answers": 2},
        "finetune": {
            "model": str(tiny_model),
            "start": "supervision/none",
            "restart": "supervision/none",
            "max_steps": 4,
            "batch_rows": 4,
            "micro_batch_rows": 4,
            "precision": "float32",
        },
        "evaluate": {
            "items": "items.jsonl",
            "templates": 2,
            "engine": "transformers",
            "bootstrap": 200,
        },
    }
    (folder / "params.yaml").write_text(
        yaml.safe_dump(overlay(read_yaml(folder / "params.yaml"), settings))
    )
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "-A"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "clone"],
    ):
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def _write_data(folder: Path) -> None:
    (folder / "corpus").mkdir()
    for number, part in enumerate(_PARTS):
        text = (
            f"Pump {number} at site {number} stopped because its {part} broke.\n\nCrew "
            f"{number} replaced the {part} of unit {number * 7} within {number + 2} hours."
        )
        (folder / f"corpus/report-{number}.md").write_text(text)
    items = [
        {
            "id": str(n),
            "context": f"Line {n} failed: its {part} broke.",
            "question": "What broke?",
            "answers": [f"its {part}"],
        }
        for n, part in enumerate(_PARTS)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture
def dvc(clone: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a function that runs DVC in the clone and returns what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests/fake_engine"), str(clone)]),
        "BONITO_CACHE": str(clone / "cache"),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *arguments],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    with load_python(clone, tmp_path, environment) as stages:
        environment["PATH"] = f"{stages}{os.pathsep}{os.environ['PATH']}"
        yield run


#: A stage's own line, and what DVC prints around it.
_OURS = re.compile(
    r"$|\d\d:\d\d:\d\d (ingest|generate|validate|verify|supervise|finetune|baseline|evaluate|register) "
    r"|Running stage |> python -m tasks\.|(Generating|Updating) lock file|Stage .* skipping"
    r"|\tgit add |To (track|enable) |\tdvc config |Use `dvc push`"
)


def test_documents_in_registered_model_out_and_nothing_to_do_the_second_time(
    clone: Path, dvc: Callable[..., str]
) -> None:
    printed = dvc("repro")
    assert [line for line in printed.splitlines() if not _OURS.match(line)] == []
    summaries = {
        stage: read_json(clone / f"artifacts/{stage}/summary.json")
        for stage in (
            "ingest",
            "generate",
            "validate",
            "verify",
            "supervise",
            "finetune",
            "baseline",
            "evaluate",
            "register",
        )
    }
    assert all(
        own["rows_in"] == own["rows_kept"] + sum(own["dropped"].values())
        for own in summaries.values()
    )
    assert (
        summaries["ingest"]["rows_kept"]
        == summaries["generate"]["rows_in"]
        == summaries["validate"]["rows_in"]
    )
    assert (
        summaries["validate"]["rows_kept"]
        == summaries["verify"]["rows_in"]
        == summaries["supervise"]["rows_in"]
        == summaries["finetune"]["rows_in"]
        > 0
    )
    assert read_table(clone / "artifacts/evaluate/predictions.parquet").num_rows == 2 * 2 * len(
        _PARTS
    )
    assert read_json(clone / "artifacts/register/registration.json")["version"] == "1"
    # A person makes the pages of `make why`.
    assert [dead for dead in find_dead_links(clone / "artifacts") if "/why/" not in dead] == []
    assert "zero_shot" in dvc("metrics", "show", "--json")
    again = dvc("repro")
    assert "Running stage" not in again and "up to date" in again
    _start_from_the_first_adapter(clone, dvc)


@pytest.mark.slow
def test_without_labelled_items_the_run_ends_with_a_challenger_and_no_f1(
    clone: Path, dvc: Callable[..., str]
) -> None:
    settings = {"evaluate": {"items": "supervision/none"}, "register": {"parity_items": 0}}
    params = overlay(read_yaml(clone / "params.yaml"), settings)
    (clone / "params.yaml").write_text(yaml.safe_dump(params))
    dvc("repro")
    scores = read_json(clone / "artifacts/evaluate/scores.json")
    assert scores["heldout_rows"] > 0 and "adapted" not in scores
    assert read_json(clone / "artifacts/register/registration.json")["alias"] == "challenger"
    assert "agreement" in dvc("metrics", "show", "--json")


def _start_from_the_first_adapter(clone: Path, dvc: Callable[..., str]) -> None:
    """What comes before the training stays as it is; the start alone is scored and shown."""
    shutil.copytree(clone / "artifacts/finetune", clone / "begin")
    settings = {"finetune": {"start": "begin"}, "register": {"parity_items": 0}}
    params = overlay(read_yaml(clone / "params.yaml"), settings)
    (clone / "params.yaml").write_text(yaml.safe_dump(params))
    printed = dvc("repro")
    ran = re.findall(r"Running stage '(\w+)'", printed)
    assert sorted(ran) == ["baseline", "evaluate", "finetune", "register"]
    scores = read_json(clone / "artifacts/evaluate/scores.json")
    told = read_json(clone / "artifacts/register/registration.json")
    assert f"against its start alone ({scores['start']['f1']:.1f})" in told["over_start"]
    assert "gain_over_start" in dvc("metrics", "show", "--json")
