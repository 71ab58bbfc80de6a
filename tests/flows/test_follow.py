"""Following a corpus: a look at its files, a run only where they changed, a report of it."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import fsspec
import pytest

from flows import follow_once
from flows.runs import look, request, worktree
from flows.runs.readers import is_read
from flows.runs.worktree import Run
from tasks.core import listing
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.listing import digest_listing, list_files
from tasks.core.parquet import write_table
from tasks.core.rows import TRAINED
from tasks.core.yaml_file import read_yaml
from tasks.ingest import sources
from tasks.tracking.mlflow_store import connect, experiment_id
from tests.flows.test_flows import await_no_process_in
from tests.toy import environment, make_toy

#: Settings of the section that have no default.
_INGEST = {"passage_tokens": 160, "min_tokens": 10, "drop_evaluation_overlap": False}


def _write(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a corpus of three files, in a checkout that is nothing else."""
    _write(tmp_path / "corpus", a="one", b="two", c="three")
    return Run("mine", tmp_path, tmp_path, {"ingest": {"corpus": "corpus"}})


def test_a_look_names_what_was_added_changed_and_removed(run: Run) -> None:
    first = look.look(run)
    assert first.first and first.changed and first.describe() == "first look at 3 files"
    look.settle(first)
    assert not look.look(run).changed
    corpus = run.main / "corpus"
    (corpus / "a.md").unlink()
    _write(corpus, b="two and more", d="four")
    (corpus / ".hidden").write_text("no document")
    second = look.look(run)
    assert second.moved == {"added": ["d.md"], "changed": ["b.md"], "removed": ["a.md"]}
    assert second.describe() == "3 files: 1 added, 1 changed, 1 removed"
    assert look.look(run).changed, "until the run has ended well every look sees it"
    look.settle(second)
    assert not look.look(run).changed
    os.utime(corpus / "b.md")
    assert not look.look(run).changed, "a new time is no new text"
    other = Run("mine", run.main, run.main, {**run.params, "generate": {"seed": 2}})
    assert look.look(other).describe().endswith("0 removed; the settings changed")


def test_a_file_of_the_same_size_and_time_is_not_read_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    look.settle(look.look(run))
    read: list[str] = []
    digest = listing.sha256_file
    monkeypatch.setattr(listing, "sha256_file", lambda path: read.append(path.name) or digest(path))
    _write(run.main / "corpus", c="three!")
    assert look.look(run).moved["changed"] == ["c.md"] and read == ["c.md"]


def test_a_folder_that_cannot_be_opened_is_listed_with_its_fault(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = run.main / "corpus"
    for name in ("a", "locked", "z"):
        _write(corpus / name, x="text")
    look.settle(look.look(run))
    closed, scan = [corpus / "locked"], os.scandir

    def refuse(path: Any) -> Any:  # root opens it all the same
        if Path(path) in closed:
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    seen = look.look(run)
    assert seen.files["locked"] == (0, 0, "unreadable: Permission denied")
    assert seen.moved == {"added": ["locked"], "changed": [], "removed": ["locked/x.md"]}
    assert {"a/x.md", "z/x.md"} < seen.files.keys()
    look.settle(seen)
    assert not look.look(run).changed
    closed.clear()
    assert look.look(run).moved["added"] == ["locked/x.md"]
    closed.append(corpus)
    with pytest.raises(PipelineError, match="the corpus folder .* cannot be opened: Permission"):
        look.look(run)


def test_a_file_that_could_not_be_read_is_changed_once_it_can_be(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size and its time are the same: a change of its mode was never noticed."""

    def refuse(path: Path) -> str:  # root reads it all the same
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))

    _write(run.main / "corpus", locked="text")
    with monkeypatch.context() as patch:
        patch.setattr(listing, "sha256_file", refuse)
        seen = look.look(run)
        assert seen.files["locked.md"][2] == "unreadable: Permission denied"
        look.settle(seen)
        assert not look.look(run).changed
    assert "locked.md" in look.look(run).moved["changed"]


def test_a_damaged_state_is_a_first_look(run: Run) -> None:
    seen = look.look(run)
    look.settle(seen)
    seen.state.write_text(seen.state.read_text()[:40])
    assert look.look(run).first


def test_a_corpus_that_is_not_here_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.address").write_text("s3://bucket/folder\n")
    (tmp_path / "empty.address").write_text("\n")
    for corpus, told in (
        ("nowhere", "does not exist on this machine"),
        ("s3://bucket/folder", "is no path of this machine: write the address into a file whose"),
        ("mine.address", "s3:// needs a package that is not here: pip install s3fs"),
        ("none.address", "ingest.corpus = none.address does not exist in"),
        ("empty.address", "empty.address is empty: write the address of a corpus into it"),
    ):
        with pytest.raises(PipelineError, match=told):
            look.look(Run("mine", tmp_path, tmp_path, {"ingest": {**_INGEST, "corpus": corpus}}))
    _write(tmp_path / "a.address", a="one")
    there = look.look(Run("mine", tmp_path, tmp_path, {"ingest": {"corpus": "a.address"}}))
    assert len(there.files) == 1, "a folder, whatever its name is"


def test_a_corpus_at_an_address_is_listed_and_told_to_dvc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what the store says of each file: none is fetched."""
    system = fsspec.filesystem("memory")
    for name in ("a", "b", ".hidden"):
        system.pipe(f"/followed/{name}.md", f"text of {name}".encode())
    pointer = tmp_path / "mine.address"
    pointer.write_text("memory://followed\n\n")
    pointer.chmod(0o600)
    run = Run("mine", tmp_path, tmp_path, {"ingest": {**_INGEST, "corpus": "mine.address"}})
    with monkeypatch.context() as patch:
        patch.setattr(type(system), "get_file", None)
        seen = look.look(run)
        assert seen.first and list(seen.files) == ["a.md", "b.md"]
        before, state = pointer.read_text(), digest_listing(list_files(pointer))
        look.announce(seen)
        told = pointer.read_text()
        assert told != before and told.startswith("memory://followed\n# make follow: ")
        assert pointer.stat().st_mode & 0o777 == 0o600
        assert digest_listing(list_files(pointer)) != state, "another corpus, another champion"
        look.settle(seen)
        assert not look.look(run).changed
        look.announce(look.look(run))
        assert pointer.read_text() == told, "DVC sees no change where there is none"
        system.pipe("/followed/b.md", b"another text")
        system.pipe("/followed/c.md", b"text of c")
        system.rm("/followed/a.md")
        seen = look.look(run)
        assert seen.moved == {"added": ["c.md"], "changed": ["b.md"], "removed": ["a.md"]}
        look.announce(seen)
        assert pointer.read_text() != told
    assert not list((tmp_path / ".work/follow").glob("*.staging"))


def test_where_a_store_says_nothing_of_a_file_its_bytes_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = fsspec.filesystem("memory")
    for name in ("a", "b"):
        system.pipe(f"/silent/{name}.md", f"text of {name}".encode())
    monkeypatch.setattr(sources, "_VERSIONS", ())
    (tmp_path / "mine.address").write_text("memory://silent")
    run = Run("mine", tmp_path, tmp_path, {"ingest": {**_INGEST, "corpus": "mine.address"}})
    look.settle(look.look(run))
    system.pipe("/silent/a.md", b"text of a")
    assert not look.look(run).changed
    original = type(system).get_file

    def get_file(self: Any, path: str, *rest: Any, **more: Any) -> Any:
        if path.endswith("b.md"):
            raise PermissionError("access denied")
        return original(self, path, *rest, **more)

    monkeypatch.setattr(type(system), "get_file", get_file)
    seen = look.look(run)
    assert seen.moved["changed"] == ["b.md"]
    assert seen.files["b.md"] == (0, 0, "unreadable: PermissionError: access denied")
    assert not list((tmp_path / ".work/follow").glob("*.staging"))


def test_the_digest_of_a_listing_is_that_of_names_and_bytes(tmp_path: Path) -> None:
    one = _write(tmp_path / "one", a="text")
    other = _write(tmp_path / "other", a="text")
    os.utime(other / "a.md", (0, 0))
    assert digest_listing(list_files(one)) == digest_listing(list_files(other))
    (other / "a.md").rename(other / "b.md")
    assert digest_listing(list_files(one)) != digest_listing(list_files(other))
    assert list(list_files(one / "a.md")) == ["."], "a file is its own corpus"


def test_the_report_says_what_was_reused_and_decided_and_trusts_no_name(run: Run) -> None:
    look.settle(look.look(run))
    _write(run.main / "corpus", d="four")
    (run.main / "corpus" / "<img src=x>[a](b).md").write_text("a name of a stranger")
    stages = [
        {"stage": "generate", "status": "ran", "seconds": 3.2, "error": ""},
        {"stage": "baseline", "status": "unchanged", "seconds": 0.5, "error": ""},
        {"stage": "finetune", "status": "ran", "seconds": 9.0, "error": ""},
    ]
    write_json(run.path / ".work/last_run.json", {"name": "mine", "stages": stages})
    told = {"reused": 1980, "again": 20, "unit": "rows"}
    write_json(run.path / ".work/generate/reused.json", told)
    champion = {"name": "m", "version": "3", "continues": True, "reason": "1.0% moved"}
    write_json(
        run.path / "artifacts/finetune/summary.json",
        {"champion": {**champion, "new_rows": 7, "replayed": 6}},
    )
    scores = {"adapted": {"f1": 41.0, "f1_low": 40.0, "f1_high": 42.0}}
    write_json(run.path / "artifacts/evaluate/scores.json", scores)
    verdict = "+0.4 F1 [-1.0, +1.8] against champion version 3"
    registered = {"model_name": "m", "version": "4", "alias": "challenger", "verdict": verdict}
    write_json(run.path / "artifacts/register/registration.json", registered)
    text = look.report(look.look(run), run)
    assert "| generate | ran | 1,980 rows | 20 rows | 3 s |" in text
    assert "| baseline | unchanged: all of it was there |" in text
    assert "continued from m version 3, with 7 new rows and 6 old ones" in text
    assert "| adapted | 41.0 | 40.0 | 42.0 |" in text
    assert "m version 4 is challenger: +0.4 F1" in text and "champion version 3" in text
    assert "<img" not in text and "[a](b)" not in text
    seen = look.look(run)
    stages[0]["status"], stages[2]["status"] = "stopped", "not run"
    last = {"name": "mine", "flow_run": "another", "stages": stages}
    write_json(run.path / ".work/last_run.json", last)
    failed = look.report(seen, run, "ingest: no")
    assert "| generate | stopped |" in failed, "nothing of it was there"
    assert "The run failed: ingest: no. The next look tries again." in failed
    assert "continued from" not in failed, "that training was an earlier run's"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline of milliseconds."""
    return make_toy(tmp_path_factory.mktemp("follow") / "toy")


def _python(toy: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=toy,
        env={**environment(toy), **more},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _ask(url: str, **body: Any) -> Any:
    """POST to Prefect's API, a filter or a thing to make, and return what it answers."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


@pytest.mark.timeout(400)
def test_make_follow_runs_only_where_something_changed(toy: Path, api: str) -> None:
    corpus = _write(toy.parent / "own", a="one", b="two")

    def follow(*settings: str) -> subprocess.CompletedProcess[str]:
        asked = shlex.join([f"ingest.corpus={corpus}", *settings])
        arguments = ("-m", "flows.follow_once", "--settings", asked, "--name", "own")
        return _python(toy, *arguments, PREFECT_API_URL=api)

    first = follow()
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("first look at 2 files") and "Run own" in first.stdout
    page = toy / ".work/follow/own.md"
    assert "| ingest | ran |" in page.read_text()
    started = time.monotonic()
    second = follow()
    assert second.returncode == 0 and "Run own" not in second.stdout, second.stdout
    assert "2 files: 0 added, 0 changed, 0 removed" in second.stdout
    assert "nothing was run" in page.read_text() and time.monotonic() - started < 20
    _write(corpus, b="two!", c="three")
    failed = follow("generate.seed=13")
    assert failed.returncode == 1
    assert "The run failed" in page.read_text() and "bad luck" in failed.stderr
    refused = follow("evaluate.dataset=datasets/none.yaml")
    assert refused.returncode == 1 and "none.yaml does not exist" in refused.stderr
    assert "The run failed" in page.read_text()
    assert "What was reused" not in page.read_text(), "these are the stages of the run before"
    _write(corpus, d="four")
    third = follow()
    assert third.returncode == 0 and "4 files: 2 added, 1 changed" in third.stdout, third.stdout
    text = page.read_text()
    assert "- b.md" in text and "| ingest | ran | 0 rows | 3 rows |" in text, text
    assert "| generate | restored: all of it was there |" in text, "the toy's text is no input"


def test_the_champion_is_placed_before_the_graph_runs(
    toy: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(empty_store, toy / "mlflow.db")
    for name, value in environment(toy).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{toy / 'mlflow.db'}")
    settings = ["finetune.start=champion", "register.model_name=pumps", "finetune.lora_rank=8"]
    run = request.plan(toy, "default", settings, "go-on")
    told: list[str] = []
    with pytest.raises(PipelineError, match="^finetune.start is champion, but pumps has none"):
        worktree.prepare(run, told.append)
    made = _write(toy.parent / "adapter", card="none")
    config = {"base_model_name_or_path": run.params["finetune"]["model"], "r": 16}
    write_json(made / "adapter_config.json", config | {"lora_alpha": 16, "revision": ""})
    (made / "adapter_model.safetensors").write_bytes(b"weights")
    write_table(made / "trained.parquet", TRAINED.empty_table())
    write_json(made / "provenance.json", {})
    client = connect()
    kept = client.create_run(experiment_id(client, "bonito"))
    client.log_artifacts(kept.info.run_id, str(made))
    client.create_registered_model("pumps")
    version = client.create_model_version("pumps", kept.info.artifact_uri, kept.info.run_id)
    client.set_registered_model_alias("pumps", "champion", version.version)
    with pytest.raises(PipelineError, match="trained with lora_rank 16, but .* is 8"):
        worktree.prepare(run, told.append)
    run = request.plan(toy, "default", settings[:2], "go-on")
    worktree.prepare(run, told.append)
    assert read_json(run.path / "champion/champion.json")["version"] == "1"
    assert "pumps version 1 is the start" in told[-1]
    assert read_yaml(run.path / "params.yaml")["finetune"]["start"] == "champion"
    assert not (toy / "champion").exists() and list((toy / ".work/champion").iterdir())
    assert subprocess.run(
        ["git", "-C", str(run.path), "status", "--porcelain"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split() == ["M", "params.yaml"], "nothing of it is in git"


_FOLLOW = """
import sys
from flows.server import set_prefect_environment
from flows.runs import CODE
set_prefect_environment(CODE)
from flows.follow import follow
state = follow(overrides=[f"ingest.corpus={sys.argv[1]}", "generate.seed=5"], name="page", return_state=True)
print(state.name, state.message)
"""


@pytest.mark.timeout(400)
def test_the_flow_leaves_an_artifact_and_a_killed_one_goes_on(toy: Path, api: str) -> None:
    corpus = _write(toy.parent / "paged", a="one")
    hanging = subprocess.Popen(
        [sys.executable, "-c", _FOLLOW, str(corpus)],
        cwd=toy,
        env={**environment(toy), "PREFECT_API_URL": api, "TOY_HANG": "generate"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    mark, deadline = toy / ".runs/page/.work/hanging", time.monotonic() + 200
    while not mark.exists():
        assert hanging.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    assert is_read(toy, "page"), "make prune leaves what it looks at"
    hanging.send_signal(signal.SIGKILL)
    hanging.wait()
    assert not (toy / ".work/follow/page.json").exists()
    await_no_process_in(toy / ".runs/page")
    done = _python(toy, "-c", _FOLLOW, str(corpus), PREFECT_API_URL=api)
    assert done.stdout.strip() == "Completed first look at 1 files", done.stderr[-3000:]
    again = _python(toy, "-c", _FOLLOW, str(corpus), PREFECT_API_URL=api)
    assert again.stdout.startswith("Unchanged nothing changed in 1 files"), again.stderr[-3000:]
    assert list(read_json(toy / ".work/follow/page.json")["files"]) == ["a.md"]
    pages = [found["data"] for found in _ask(f"{api}/artifacts/filter") if found["key"] == "follow"]
    assert len(pages) == 2
    ran = next(page for page in pages if "What was reused" in page)
    assert "| ingest | unchanged: all of it was there |" in ran, "what was done before the kill"
    assert any("nothing was run" in page for page in pages)


@pytest.mark.timeout(400)
def test_its_schedule_and_its_event_are_off_until_they_are_switched_on(toy: Path, api: str) -> None:
    arguments = ("-m", "prefect", "--no-prompt", "deploy", "--prefect-file", "prefect.yaml")
    more = {
        "PREFECT_API_URL": api,
        "PIPELINE_HOME": str(toy),
        "PREFECT_HOME": str(toy / ".prefect"),
    }
    _ask(f"{api}/work_pools/", name="pipeline", type="process")
    done = _python(toy, *arguments, "-n", "follow", **more)
    assert done.returncode == 0, done.stdout + done.stderr
    with urllib.request.urlopen(f"{api}/deployments/name/follow/follow", timeout=20) as response:
        deployment = json.load(response)
    assert [schedule["active"] for schedule in deployment["schedules"]] == [False]
    (automation,) = _ask(f"{api}/automations/filter")
    assert automation["enabled"] is False
    assert automation["trigger"]["expect"] == ["corpus.changed"]
    change = urllib.request.Request(
        f"{api}/automations/{automation['id']}",
        b'{"enabled": true}',
        {"Content-Type": "application/json"},
        method="PATCH",
    )
    urllib.request.urlopen(change, timeout=20).close()
    emit = ("-m", "prefect", "event", "emit", "corpus.changed", "--resource-id", "corpus")
    deadline, started = time.monotonic() + 120, False
    while not started:
        assert time.monotonic() < deadline, "the event started no run"
        told = _python(toy, *emit, **more)
        assert told.returncode == 0, told.stderr
        started = _await_run(api, 3.0)


def _await_run(api: str, patience: float) -> bool:
    """Return whether a deployment has a run, at the latest after ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while not (found := any(run["deployment_id"] for run in _ask(f"{api}/flow_runs/filter"))):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    return found


@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_look_that_is_stopped_is_one_line_and_leaves_no_state(
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    status: int,
    word: str,
) -> None:
    def stop(_: Run) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    monkeypatch.setattr(follow_once.request, "plan", lambda *_: run)
    monkeypatch.setattr(follow_once.look, "look", stop)
    assert follow_once.main([]) == status
    assert capsys.readouterr().err == f"{word}: run the same command again to continue\n"
    assert not (run.main / ".work/follow").exists()
