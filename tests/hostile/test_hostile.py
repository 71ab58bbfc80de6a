"""Every hostile input of the tables has its verdict, and costs nobody else anything.

None hangs (each test has a limit of time), none ends in a trace (only PipelineError is expected),
none touches a file outside, and the good ones beside them are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from flows.review.server import make_app
from flows.runs.request import check_name, plan
from tasks.core.errors import PipelineError
from tasks.core.overlay import overlay
from tasks.core.page import Page
from tasks.core.params import parse_params
from tasks.core.pool import Limits
from tasks.core.yaml_file import read_yaml
from tasks.ingest import file_pool, worker
from tasks.ingest.readers.document import ReadOptions
from tasks.ingest.reasons import REASONS
from tasks.lm.adapters import check_adapter, start_adapter
from tasks.lm.models import base_path, count_positions, resolve
from tasks.scoring.datasets import load_dataset, load_items
from tests.conftest import ROOT
from tests.hostile.climbers import make_climbers
from tests.hostile.files import STORY, mutate
from tests.hostile.formats import FILES
from tests.hostile.texts import (
    ADAPTERS,
    ITEMS,
    MODELS,
    NAMES,
    POSITIONS,
    PROFILES,
    PROVENANCES,
    REQUESTS,
    SETTINGS,
    TEMPLATES,
    TENSORS,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own; nothing may appear in it that a test did not put there."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir()), "something of the input was run"


def _expect(verdict: str, call: Any, *arguments: Any) -> None:
    """The call returns where the verdict is empty; else it is refused by one line like it."""
    if not verdict:
        call(*arguments)
        return
    with pytest.raises(PipelineError) as refused:
        call(*arguments)
    assert re.search(verdict, " ".join(str(refused.value).split())), str(refused.value)


def _named(table: tuple[Any, ...]) -> Any:
    return {"argvalues": table, "ids": [str(row[0]) for row in table]}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """File or neighbour -> what it gave. All are read by the same two processes, in turns."""
    folder = tmp_path_factory.mktemp("files")
    jobs = []
    for number, file in enumerate(FILES):
        path, good = folder / f"{number:03}{file.suffix}", folder / f"{number:03}-good.txt"
        path.write_bytes(file.content)
        good.write_text(f"{STORY} Number {number}.")
        jobs += [(file.name, path), (f"beside {file.name}", good)]
    found = _read(jobs, folder)
    assert {path.name for path in folder.iterdir()} == {path.name for _, path in jobs}
    return found


def _read(jobs: list[tuple[str, Path]], folder: Path) -> dict[str, set[str]]:
    """Return what each file gives: ``read``, and the reasons of its rejects."""
    return {key: _outcome(json.loads(part)) for key, part in _give(jobs, folder).items()}


def _give(jobs: list[tuple[str, Path]], folder: Path) -> dict[str, str]:
    """Return each file's documents, passages and rejects, as one JSON list."""
    work = worker.Work("", ReadOptions(max_bytes=2 << 20), 50, 5)
    found: dict[str, list[Any]] = {}
    for part in file_pool.read_files(jobs, work, 2, Limits(20.0, 2048), folder / "unpacked"):
        found.setdefault(part.key, []).extend(json.loads(part.value))
    return {key: json.dumps(entries) for key, entries in found.items()}


def _outcome(entries: list[Any]) -> set[str]:
    passages = [passage for entry in entries for passage in entry.get("passages", [])]
    reasons = {entry["reason"] for entry in entries if "reason" in entry}
    return reasons | {passage["reason"] or "read" for passage in passages}


def test_no_text_of_a_file_outside_is_in_what_a_file_gives(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither in a passage nor in a reject or a line of the log, whatever names the file."""
    corpus, canary, word = tmp_path / "corpus", tmp_path / "canary.txt", "zanzibarquux"
    corpus.mkdir()
    canary.write_text(f"The {word} was stopped at noon. Its bearing had run hot since Monday.")
    files = make_climbers(canary)
    jobs = [("the file itself", canary)]
    for number, file in enumerate(files):
        path = corpus / f"{number:03}{file.suffix}"
        path.write_bytes(file.content)
        jobs.append((file.name, path))
    given = _give(jobs, corpus)
    assert word in given.pop("the file itself")
    assert {key for key, text in given.items() if word in text.lower()} == set()
    assert word not in "".join((*capfd.readouterr(), caplog.text)).lower()
    wanted = {file.name: set(file.verdict.split()) for file in files}
    assert {key: _outcome(json.loads(text)) for key, text in given.items()} == wanted


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_hostile_file_has_its_verdict_and_its_neighbour_is_read(
    outcomes: dict[str, set[str]], file: Any
) -> None:
    assert outcomes[file.name] == set(file.verdict.split())
    assert outcomes[f"beside {file.name}"] == {"read"}


@pytest.mark.parametrize(("name", "suffix", "content", "verdict"), **_named(ITEMS))
def test_hostile_items(
    tmp_path: Path, name: str, suffix: str, content: bytes, verdict: str
) -> None:
    path = tmp_path / f"items{suffix}"
    path.write_bytes(content)
    _expect(verdict, load_items, load_dataset(ROOT / "datasets/privacy.yaml"), path)


@pytest.mark.parametrize(("name", "content", "verdict"), **_named(PROFILES))
def test_hostile_profiles(tmp_path: Path, name: str, content: bytes, verdict: str) -> None:
    path = tmp_path / "profile.yaml"
    path.write_bytes(content)

    def read() -> None:
        parse_params(overlay(read_yaml(ROOT / "params.yaml"), read_yaml(path)), "profile.yaml")

    _expect(verdict, read)


@pytest.mark.parametrize(("name", "setting", "verdict"), **_named(SETTINGS))
def test_hostile_settings(name: str, setting: str, verdict: str) -> None:
    _expect(verdict, plan, ROOT, "default", [setting])


@pytest.mark.parametrize(("name", "run", "verdict"), **_named(NAMES))
def test_hostile_names(name: str, run: str, verdict: str) -> None:
    _expect(verdict, check_name, run)


@pytest.mark.parametrize(("name", "instruction", "verdict"), **_named(TEMPLATES))
def test_hostile_templates(tmp_path: Path, name: str, instruction: str, verdict: str) -> None:
    values = read_yaml(ROOT / "datasets/privacy.yaml")
    values["templates"] = [{"name": "t", "instruction": instruction, "choices": ["Yes", "No"]}]
    (tmp_path / "dataset.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "items.jsonl").write_bytes(ITEMS[0][2])

    def read() -> None:
        load_items(load_dataset(tmp_path / "dataset.yaml"), tmp_path / "items.jsonl")

    _expect(verdict, read)


@pytest.mark.parametrize(("name", "config", "files", "verdict"), **_named(ADAPTERS))
def test_hostile_adapters(
    tmp_path: Path, name: str, config: bytes, files: tuple[str, ...], verdict: str
) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(config)
    for file in files:
        (folder / file).write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    _expect(verdict, lambda: base_path(resolve(str(folder)).base))


@pytest.mark.parametrize(("name", "weights", "config", "verdict"), **_named(TENSORS))
def test_hostile_tensors(
    tmp_path: Path, name: str, weights: bytes, config: dict[str, Any], verdict: str
) -> None:
    folder = _adapter(tmp_path, r=8)
    (folder / "adapter_model.safetensors").write_bytes(weights)
    _expect(verdict, check_adapter, folder, "a/b", config)


@pytest.mark.parametrize(("name", "provenance", "verdict"), **_named(PROVENANCES))
def test_hostile_provenances(tmp_path: Path, name: str, provenance: bytes, verdict: str) -> None:
    folder = _adapter(tmp_path)  # without rank and alpha, which are then PEFT's
    (folder / "provenance.json").write_bytes(provenance)
    values = overlay(
        read_yaml(ROOT / "params.yaml"), {"finetune": {"lora_rank": 8, "lora_alpha": 8}}
    )
    settings = parse_params(values, "params.yaml").finetune
    settings = settings.model_copy(update={"model": "a/b"})
    _expect(verdict, start_adapter, settings, folder)


def _adapter(tmp_path: Path, **more: Any) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"base_model_name_or_path": "a/b", **more}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").touch()
    return folder


@pytest.mark.parametrize(("name", "positions", "verdict"), **_named(POSITIONS))
def test_hostile_positions(tmp_path: Path, name: str, positions: bytes, verdict: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes(b'{"max_position_embeddings": %s}' % positions)
    (folder / "model.safetensors").touch()
    _expect(verdict, count_positions, str(folder))


@pytest.mark.parametrize(("name", "files", "verdict"), **_named(MODELS))
def test_hostile_models(tmp_path: Path, name: str, files: dict[str, bytes], verdict: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    _expect(verdict, base_path, str(folder))


class _Desk:
    """What a page of ours works on: it counts what reaches it."""

    def __init__(self) -> None:
        self.reached = 0

    def state(self) -> dict[str, Any]:
        self.reached += 1
        return {}

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        self.reached += 1
        return change


@pytest.mark.parametrize(("name", "headers", "status"), **_named(REQUESTS))
def test_hostile_requests(name: str, headers: dict[str, str], status: int) -> None:
    """To the server of ``make review``, ``make label`` and ``make ask``."""
    desk = _Desk()
    client = TestClient(make_app(desk, Page("Review")), base_url="http://127.0.0.1:4200")
    answers = [client.get(path, headers=headers) for path in ("/", "/state", "/scripts/review.js")]
    answers.append(client.post("/save", json={}, headers=headers))
    assert {answer.status_code for answer in answers} == {status}
    assert desk.reached == (2 if status == 200 else 0)


def test_there_are_at_least_150() -> None:
    tables = (FILES, ITEMS, PROFILES, SETTINGS, NAMES, TEMPLATES, ADAPTERS, MODELS, REQUESTS)
    assert sum(map(len, tables)) >= 150


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_mutated_files_give_reasons_that_are_known(tmp_path: Path, seed: int) -> None:
    """Each file with some of its bytes changed, cut out or doubled; the good ones are read."""
    random, jobs = Random(seed), []
    for number, file in enumerate(FILES):
        path, good = tmp_path / f"{number:03}{file.suffix}", tmp_path / f"{number:03}-good.txt"
        path.write_bytes(mutate(file.content, random))
        good.write_text(f"{STORY} Number {number}.")
        jobs += [(file.name, path), (f"good {number}", good)]
    found = _read(jobs, tmp_path)
    assert set(found) == {key for key, _ in jobs}
    assert {key for key in found if key.startswith("good")} == {
        key for key, outcome in found.items() if key.startswith("good") and outcome == {"read"}
    }
    known = {*REASONS, "read"}
    assert {name: outcome - known for name, outcome in found.items() if outcome - known} == {}
