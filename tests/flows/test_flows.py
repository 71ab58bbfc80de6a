"""The flow over a small pipeline of its own: order, skips, failures, runs of their own, two at
once, kills.
"""

from __future__ import annotations

import argparse
import datetime
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urljoin
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import FlowRun
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Pending

from flows import deploy, reconcile, server, ui
from flows import pipeline as door
from flows.runs import git as git_commands
from flows.runs import last_run, repair, request, worktree
from flows.runs.corpus_files import tell_unhashable
from flows.runs.dvc_graph import list_unchanged, read_graph
from flows.runs.dvc_repro import (
    StageOutcome,
    line_that_matters,
    reproduce,
    run_child,
)
from flows.runs.mlflow_urls import run_page
from flows.runs.run_params import write_params
from flows.runs.table import WIDTH, read_unfinished
from tasks.core.errors import PipelineError
from tasks.core.files import sha256_folder
from tasks.core.ports import find_free_port
from tasks.core.privacy import silence
from tasks.core.process import process_mark
from tasks.core.sections.finetune import CHAMPION
from tasks.core.yaml_file import read_yaml
from tasks.lm.models import pinned
from tests.toy import dvc, environment, git, make_toy, pipeline
from tests.ui_server import serve_ui

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small pipeline, run once through DVC's own door."""
    root = make_toy(tmp_path_factory.mktemp("flows") / "toy")
    dvc(root, "repro")
    return root


def ask(url: str, **question: Any) -> list[dict[str, Any]]:
    """POST a filter to Prefect's API and return what it finds."""
    request = urllib.request.Request(
        url, json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        found: list[dict[str, Any]] = json.load(response)
    return found


@pytest.mark.timeout(300)
def test_what_dvc_has_done_the_flow_skips(toy: Path, api: str) -> None:
    run = pipeline(toy, PREFECT_API_URL=api)
    assert run.returncode == 0, run.stderr
    assert [line.split()[:2] for line in run.stdout.splitlines() if "unchanged" in line] == [
        [s, "unchanged"] for s in ("ingest", "generate", "validate")
    ]
    assert not (toy.parent / ".prefect").exists(), "the user's home was written to"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example", "Origin": "http://evil.example"}, {"Origin": "http://evil.example"}],
)
def test_a_page_of_the_web_cannot_use_prefect(api: str, headers: dict[str, str]) -> None:
    """Its name can be pointed at this machine: it would get a token and start any command."""
    for path in ("/csrf-token?client=x", "/flow_runs/filter", "/work_pools/filter"):
        body = None if "?" in path else b"{}"
        sent = {"Content-Type": "application/json", **headers}
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(api + path, body, sent), timeout=20)
        assert refused.value.code == 403, path


@pytest.mark.timeout(300)
def test_a_run_of_its_own_touches_nothing_and_is_listed(toy: Path, api: str) -> None:
    (toy / "tasks" / "validate" / "__main__.py").write_text(
        (toy / "tasks" / "validate" / "__main__.py").read_text()
        + "# an edit that is not committed\n"
    )
    (toy / "tasks" / "unknown.py").write_text("")
    (toy / "profiles" / "other.yaml").write_text("{}")
    before = (
        git(toy, "status", "--porcelain"),
        git(toy, "stash", "list"),
        (toy / "params.yaml").read_bytes(),
        (toy / "dvc.lock").read_bytes(),
    )
    run = pipeline(toy, "--profile", "warm", PREFECT_API_URL=api)
    assert run.returncode == 0, run.stderr
    assert before == (
        git(toy, "status", "--porcelain"),
        git(toy, "stash", "list"),
        (toy / "params.yaml").read_bytes(),
        (toy / "dvc.lock").read_bytes(),
    )
    shown_sample = ask(f"{api}/artifacts/filter", artifacts={"key": {"like_": "sample-generate"}})
    assert "**prediction**\n\n    What? That." in shown_sample[-1]["data"]
    assert "git does not track them: tasks/unknown.py" in run.stderr
    assert "profiles/other.yaml" not in run.stderr, "it is no part of the run, and need not be"
    assert (
        (toy / ".runs" / "warm" / "tasks" / "validate" / "__main__.py")
        .read_text()
        .endswith("# an edit that is not committed\n")
    )
    shown = {
        line.split()[0]: line.split()[1:]
        for line in run.stdout.splitlines()
        if line.startswith(("ingest", "generate", "validate"))
    }
    assert shown["ingest"][:2] == ["from", "cache"], (
        "work that the main checkout has done was done again"
    )
    listed = json.loads(dvc(toy, "exp", "show", "--json").stdout)
    experiments = [e for row in listed for e in (row["experiments"] or [])]
    assert [e["revs"][0]["name"] for e in experiments] == ["warm"]
    assert experiments[0]["revs"][0]["data"]["metrics"]["artifacts/generate/metrics.json"][
        "data"
    ] == {"temperature": 0.9}
    assert "Running stage" not in dvc(toy / ".runs" / "warm", "repro").stdout, (
        "what the flow has done DVC did again"
    )
    (toy / "tasks" / "unknown.py").unlink()
    (toy / "profiles" / "other.yaml").unlink()
    git(toy, "checkout", "--", "tasks/validate/__main__.py")


@pytest.mark.timeout(300)
def test_a_failure_is_one_line_and_the_rest_is_not_run(toy: Path, api: str) -> None:
    run = pipeline(toy, "--set", "generate.seed=13", "--name", "unlucky", PREFECT_API_URL=api)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1] == "error: generate: seed 13 is bad luck: take another"
    assert "Traceback" not in run.stderr
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.strip()}
    assert "FAILED" in lines["generate"] and "seed 13 is bad luck" in lines["generate"]
    assert "not run" in lines["validate"]
    flow_run = ask(f"{api}/flow_runs/filter", flow_runs={"name": {"any_": ["unlucky"]}})[0]
    assert flow_run["state"]["type"] == "FAILED"
    assert flow_run["state"]["message"] == "generate: seed 13 is bad luck: take another"
    tasks = {
        run["name"]: run["state"]["name"]
        for run in ask(f"{api}/task_runs/filter", flow_runs={"id": {"any_": [flow_run["id"]]}})
    }
    assert (tasks["generate"], tasks["validate"]) == ("Failed", "NotReady")
    (ended,) = read_unfinished(toy)
    assert ended.show(WIDTH).startswith("unlucky ")
    assert ended.told == "failed in generate: seed 13 is bad luck: take another"
    log = toy / ".work" / "logs" / "unlucky.log"
    assert "seed 13 is bad luck: take another" in log.read_text(), "make runs points there"


@pytest.mark.timeout(300)
def test_a_run_that_did_no_stage_shows_no_earlier_runs_table(toy: Path, api: str) -> None:
    """It failed before its first stage, and the run before it was printed as its own."""
    asked = ("--profile", "warm", "--name", "again")
    assert "Run again" in pipeline(toy, *asked, PREFECT_API_URL=api).stdout
    wrong = ("--set", "evaluate.dataset=datasets/none.yaml")
    failed = pipeline(toy, *asked, *wrong, PREFECT_API_URL=api)
    assert failed.returncode == 1
    told = failed.stderr.splitlines()[-1]
    assert told.startswith("error: evaluate.dataset: datasets/none.yaml does not exist"), told
    assert failed.stdout == "log       .work/logs/again.log\n"


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_ANSWER_SECONDS", 0.2)
    with pytest.raises(
        PipelineError,
        match=(
            "no Prefect server answers at http://127.0.0.1:9/api: start it, or unset "
            "PREFECT_API_URL"
        ),
    ):
        server.await_answer("http://127.0.0.1:9/api")


def test_an_address_may_end_in_a_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect's client takes both, its server knows no ``/api//health``."""
    asked: list[str] = []
    monkeypatch.setattr(server, "answers", lambda address: not asked.append(address))
    server.await_answer("http://127.0.0.1:9/api/")
    assert asked == ["http://127.0.0.1:9/api/health"]


def test_an_address_that_is_none_does_not_answer() -> None:
    """Python's own error of a password in an address repeats it."""
    assert not server.answers("http://me:hunter2@127.0.0.1:9/api/health")
    assert not server.answers("http://127.0.0.1:port/api")


def test_a_proxy_of_the_users_is_not_asked_for_our_own_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "http_proxy": "http://127.0.0.1:9"})
    for name in ("no_proxy", "NO_PROXY"):
        os.environ.pop(name, None)
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        silence()
        assert server.answers(f"http://127.0.0.1:{there.server_port}/")
        there.shutdown()


_SECRET = "hf_" + "a1B2" * 8
_WRONG = "generate.samples=many"


@pytest.fixture(scope="module")
def refused(toy: Path, api: str) -> str:
    """What a process prints that asks for two runs which are refused: Prefect takes seconds to
    import.
    """
    asked = (
        "import sys; from flows.adapt import adapt\n"
        "for setting in sys.argv[1:]: adapt(overrides=[setting], return_state=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", asked, f"generate.generator={_SECRET}", _WRONG],
        cwd=toy,
        env={**environment(toy), "PREFECT_API_URL": api},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_prefect_keeps_no_secret_that_a_run_refused(api: str, refused: str) -> None:
    assert "looks like a password or a key" in refused
    assert _SECRET not in refused
    assert _SECRET not in json.dumps(ask(f"{api}/flow_runs/filter"))


@pytest.mark.timeout(300)
def test_a_wrong_setting_is_told_on_the_runs_page_as_make_run_tells_it(
    api: str, refused: str
) -> None:
    """Prefect checks the form's fields, but not the settings that are typed into one: we do."""
    name = request.derive_name("default", [_WRONG])
    (run,) = ask(f"{api}/flow_runs/filter", flow_runs={"name": {"any_": [name]}})
    assert run["state"]["type"] == "FAILED"
    told = "generate.samples = 'many': must be a whole number"
    assert run["state"]["message"].endswith(f" + {_WRONG}: {told}")


@pytest.mark.timeout(300)
def test_a_run_killed_before_it_began_blocks_no_pool(api: str) -> None:
    pool, ids = "blocked", {}
    with (
        temporary_settings({PREFECT_API_URL: api}),
        get_client(sync_client=True) as client,
    ):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        deployment = client.create_deployment(
            flow_id=client.create_flow(Flow(lambda: None, name="blocked")),
            name="d",
            work_pool_name=pool,
        )
        for name, process in (("dead", "99999999"), ("alive", str(os.getpid())), ("new", "")):
            run = client.create_flow_run_from_deployment(deployment, state=Pending())
            if process:
                where = f"{socket.gethostname()}:{process}"
                client.update_flow_run(run.id, infrastructure_pid=where)
            ids[name] = run.id
        reconcile.end_pending_runs(pool)
        states = {name: client.read_flow_run(one).state for name, one in ids.items()}
    assert {name: state and state.type.value for name, state in states.items()} == {
        "dead": "CRASHED",
        "alive": "PENDING",
        "new": "PENDING",
    }


@pytest.mark.parametrize(("hours", "lives"), [(0, True), (48, False)])
def test_a_pending_runs_number_that_another_process_has_now_is_no_sign_of_life(
    hours: int, lives: bool
) -> None:
    """After a reboot a worker's old number may be anyone's: this process began after that run."""
    now = datetime.datetime.now(datetime.UTC)
    state = Pending(timestamp=now - datetime.timedelta(hours=hours))
    process = f"{socket.gethostname()}:{os.getpid()}"
    run = FlowRun(flow_id=uuid4(), state=state, infrastructure_pid=process)
    assert reconcile._may_begin(run) is lives


@pytest.mark.timeout(300)
def test_killed_held_and_continued(toy: Path) -> None:
    """No server is given here: the temporary one has to die with the run, and the next run ends
    what the dead one left in Prefect.
    """
    request = ["--name", "killed", "--set", "generate.temperature=0.3"]
    running = start_hanging(toy, "killed", request)
    started = time.monotonic()
    second = pipeline(toy, *request)
    assert second.returncode == 2
    assert time.monotonic() - started < 5
    assert f"held by process {running.pid} since" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    running.kill()
    running.wait()
    await_no_process_in(toy)
    continued = pipeline(toy, *request)
    assert continued.returncode == 0, continued.stderr
    assert "was killed: marked as crashed" in continued.stderr
    assert "unchanged" in next(
        line for line in continued.stdout.splitlines() if line.startswith("ingest")
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "status", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_stopped_run_stops_its_stage_and_is_continued(
    toy: Path, api: str, number: signal.Signals, status: int, word: str
) -> None:
    name = f"stopped-{number.name}"
    request = ["--name", name, "--set", f"generate.seed={status}"]
    running = start_hanging(toy, name, request, PREFECT_API_URL=api)
    started = time.monotonic()
    running.send_signal(number)
    assert running.wait(20) == status
    assert time.monotonic() - started < 10
    await_no_process_in(toy / ".runs" / name)
    said = (toy / f"{name}.stderr").read_text().splitlines()
    assert said[-1] == f"{word}: run the same command again to continue"
    continued = pipeline(toy, *request, PREFECT_API_URL=api)
    assert continued.returncode == 0, continued.stderr
    ingest = next(line for line in continued.stdout.splitlines() if line.startswith("ingest"))
    assert "unchanged" in ingest


def start_hanging(toy: Path, name: str, request: list[str], **more: str) -> subprocess.Popen[bytes]:
    """Start a run whose stage ``generate`` never ends, and return once it is there. What it says
    goes to ``NAME.stderr``.
    """
    command = [sys.executable, "-m", "flows.pipeline", *request]
    with (toy / f"{name}.stderr").open("wb") as said:
        running = subprocess.Popen(
            command,
            cwd=toy,
            env={**environment(toy), "TOY_HANG": "generate", **more},
            stdout=subprocess.DEVNULL,
            stderr=said,
        )
    mark = toy / ".runs" / name / ".work" / "hanging"
    deadline = time.monotonic() + 200
    while not mark.exists():
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    return running


def await_no_process_in(folder: Path, patience: float = 5.0) -> None:
    """Fail unless every process whose working folder is ``folder`` or below ends within
    ``patience`` seconds.
    """
    deadline = time.monotonic() + patience
    while left := [
        process for process in Path("/proc").glob("[0-9]*") if _works_in(process, folder)
    ]:
        assert time.monotonic() < deadline, [
            (process / "cmdline").read_text().replace("\0", " ") for process in left
        ]
        time.sleep(0.1)


def _works_in(process: Path, folder: Path) -> bool:
    try:
        return (process / "cwd").readlink().is_relative_to(folder)
    except OSError:
        return False


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder with parameters and a profile, and nothing else."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "warm.yaml").write_text("generate: {temperature: 0.9}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("profile", "overrides", "message"),
    [
        ("wram", [], "unknown profile 'wram' .did you mean 'warm'"),
        (
            "default",
            ["generate.temprature=0.7"],
            "unknown key 'generate.temprature' .did you mean 'temperature'",
        ),
        ("default", ["generate.temperature=hot"], r"generate.temperature = 'hot'"),
        ("default", ["temperature=0.7"], "is not a setting: write section.key=value"),
        ("default", ["generate.task_types=[exqa"], "not valid YAML"),
        ("warm", ["generate.task_types=[exq]"], "unknown task type 'exq'"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_runs(
    bare: Path, profile: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        request.plan(bare, profile, overrides)
    assert not (bare / ".runs").exists()


def test_untracked_files_that_the_run_reads_are_said_to_be_used(bare: Path) -> None:
    said: list[str] = []
    for command in (["init", "-q"], ["add", "params.yaml"]):
        git(bare, *command)
    who = ("-c", "user.name=t", "-c", "user.email=t@t")
    git(bare, *who, "commit", "-qm", "toy")
    settings = ["evaluate.dataset=datasets/mine.yaml"]
    # The names of two others are in the run's name, and that of its own is not.
    for name in ("datasets/mine.yaml", "profiles/her.yaml", "profiles/other.yaml", "tasks/own.py"):
        (bare / name).parent.mkdir(exist_ok=True)
        (bare / name).write_text("{}")
    worktree._make_worktree(request.plan(bare, "warm", settings, "another"), said.append)
    assert said == [
        "used from your checkout, not versioned with this run: datasets/mine.yaml, "
        "profiles/warm.yaml",
        "not part of run 'another', as git does not track them: tasks/own.py",
    ]


def test_what_measures_little_is_told_before_it_runs(bare: Path) -> None:
    shutil.copytree(ROOT / "datasets", bare / "datasets")

    def doubts(*settings: str) -> list[str]:
        return request.find_doubts(request.plan(bare, "warm", list(settings)))

    assert doubts() == []
    (told,) = doubts("generate.task_types=[ynqa]")
    assert told.startswith("it learns ynqa (generate.task_types), and is asked exqa (datasets/inc")
    assert doubts("generate.task_types=[ynqa]", "supervise.source=tapt") == []
    (told,) = doubts("ingest.corpus=local/mine")
    assert "local/mine, and is scored on the questions of the shipped example" in told
    assert doubts("ingest.corpus=local/mine", "evaluate.items=supervision/none") == []
    (bare / "datasets/incidents.yaml").write_text("text\n")
    assert doubts("generate.task_types=[ynqa]") == [], "ingest says what is wrong with the file"


def test_settings_win_over_the_profile_and_the_profile_over_the_file(bare: Path) -> None:
    assert request.plan(bare).params["generate"]["temperature"] == 0.5
    assert request.plan(bare, "warm").params["generate"]["temperature"] == 0.9
    run = request.plan(
        bare, "warm", ["generate.temperature=0.7", "generate.task_types=[ynqa, nli]"]
    )
    assert run.params["generate"]["temperature"] == 0.7
    assert run.params["generate"]["task_types"] == ["ynqa", "nli"]


def test_a_run_without_settings_of_its_own_takes_place_in_the_checkout(bare: Path) -> None:
    assert request.plan(bare).path == bare
    assert request.plan(bare, "warm").path == bare / ".runs" / "warm"


def test_names_are_the_same_for_the_same_request_only() -> None:
    one = request.derive_name("default", ["generate.temperature=0.7", "generate.seed=2"])
    assert one == request.derive_name("default", ["generate.seed=2", "generate.temperature=0.7"])
    assert one != request.derive_name("default", ["generate.seed=2", "generate.temperature=0,7"])
    assert one.startswith("default-seed-2-temperature-0.7-")
    assert (
        request.name_run({"profile": "default", "seed": 5}).rsplit("-", 1)[0] == "default-seed-5"
    ), "the form's one seed is five settings"


def test_a_request_of_long_names_has_a_name_that_is_short_enough(bare: Path) -> None:
    """make has no way to give a run another name."""
    for name in ("a" * 40, "b" * 40):
        shutil.copy(bare / "profiles" / "warm.yaml", bare / "profiles" / f"{name}.yaml")
    stacks = ("a" * 40, f"warm,{'a' * 40}", f"{'a' * 40},{'b' * 40}", f"{'a' * 40},{'b' * 40},warm")
    setting = "ingest.corpus=/a/long/path/to/a/folder/of/documents"
    names = {request.plan(bare, stack, [setting]).name for stack in stacks}
    assert len(names) == len(stacks) and all(len(name) <= 80 for name in names), names
    short = request.derive_name("warm", [setting])
    assert short == "warm-corpus-a-long-path-to-a-folder-of-docume-" + short[-6:], "as before"


def test_a_folder_beside_the_checkout_is_no_reason_to_refuse_a_run(bare: Path) -> None:
    """Two dots are in no name of a run, and the name is made of the settings."""
    run = request.plan(bare, "default", ["ingest.corpus=../docs"])
    assert run.name.startswith("default-corpus-docs-")


@pytest.mark.parametrize(
    ("profile", "name"), [("", "default"), (",", "default"), ("default, warm", "warm")]
)
def test_a_runs_page_and_its_checkout_have_one_name(bare: Path, profile: str, name: str) -> None:
    """Else the next start finds nobody in the checkout of that name, and ends the page."""
    assert request.name_run({"profile": profile}) == request.plan(bare, profile).name == name


@pytest.mark.parametrize("name", ["../x", "a b", "-x", "x.lock", "default", "a" * 81])
def test_a_name_that_git_or_the_file_system_would_not_take_is_refused(
    bare: Path, name: str
) -> None:
    with pytest.raises(PipelineError, match="cannot name a run"):
        request.plan(bare, name=name)


def test_the_forms_fields_are_settings(bare: Path) -> None:
    asked = {
        "profile": "warm",
        "corpus": "m\u00fcne \U0001f4c4",
        "task_types": ["ynqa", "nli"],
        "rows": 50,
        "seed": 7,
        "generator": "",
        "overrides": ["generate.seed=8"],
    }
    settings = request.read_settings(asked)
    run = request.plan(bare, "warm", settings)
    assert run.params["ingest"]["corpus"] == asked["corpus"]
    assert run.params["generate"]["task_types"] == ["ynqa", "nli"]
    shipped = read_yaml(bare / "params.yaml")
    # verify asks a share of what validate keeps, and sources beside Bonito do not pass validate.
    assert run.params["supervise"]["max_rows"] == 50
    assert run.params["validate"]["max_rows"] == shipped["validate"]["max_rows"]
    for section in ("validate", "verify", "supervise", "finetune"):
        assert run.params[section]["seed"] == 7, section
    # Runs of different seeds are asked the same questions.
    for section in ("baseline", "evaluate"):
        assert run.params[section]["seed"] == shipped[section]["seed"], section
    assert run.params["generate"]["seed"] == 8, "a setting typed out wins over a field"
    assert run.params["generate"]["generator"] == shipped["generate"]["generator"]
    assert request.name_run(asked) == run.name
    assert request.name_run({"profile": "default"}) == "default"


@pytest.mark.parametrize(
    ("error", "notice"),
    [
        (RuntimeError("no answer\nfrom the server"), "RuntimeError: no answer\n"),
        (RuntimeError(), "RuntimeError\n"),
    ],
)
def test_an_error_of_prefects_client_is_told_in_words(
    bare: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, notice: str
) -> None:
    from flows import adapt

    def fail(**_: Any) -> None:
        raise error

    monkeypatch.setattr(door, "open_api", lambda *_: lambda: None)
    monkeypatch.setattr(door, "log_to_file", lambda *_: None)
    monkeypatch.setattr(adapt, "adapt", fail)
    arguments = SimpleNamespace(profile="default", set=[], name="")
    ending = door._run_flow(request.plan(bare), arguments, bare / "log", None)  # type: ignore[arg-type]
    assert ending.notice.startswith(notice)
    assert ending.error == "Prefect's server stopped before the stages were done"


@pytest.mark.parametrize(
    ("said", "reason"), [("Deploying\nno such pool\n", "no such pool"), ("\n", "exit status 3")]
)
def test_a_command_that_fails_is_told_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, reason: str
) -> None:
    def fail(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 3, stdout="", stderr=said)

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setattr(git_commands, "_finish", lambda command, *_: fail(command))
    with pytest.raises(PipelineError, match=f"^adapt cannot be deployed: {reason}$"):
        deploy._create(["adapt"])
    assert repair.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: repair: dvc cache dir: {reason}"


def test_a_held_checkout_is_known_as_held(bare: Path) -> None:
    run = request.plan(bare, "warm")
    assert not worktree.is_held(bare, "warm")
    with worktree.hold(run):
        assert worktree.is_held(bare, "warm")
    assert not worktree.is_held(bare, "warm")


def test_how_a_run_ended_is_known_without_the_server(bare: Path) -> None:
    done, failed = (
        StageOutcome("ingest", "ran", 1.0),
        StageOutcome("generate", "failed", 1.0, "no passages"),
    )
    last_run.write_outcomes(bare, "x", [done], "id-1")
    assert (
        last_run.read_ending(bare, "id-1") == ""
        and last_run.read_ending(bare, "id-2") is None
        and last_run.read_last_flow_run(bare) == "id-1"
    )
    last_run.write_outcomes(bare, "x", [done, failed], "id-2")
    assert last_run.read_ending(bare, "id-2") == "generate: no passages"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "Prefect for a team needs a password"),
        ({"PREFECT_SERVER_API_AUTH_STRING": "me:short"}, "Prefect for a team needs a password"),
        (
            {"PREFECT_SERVER_API_AUTH_STRING": "me:a long enough one"},
            "MLflow for a team needs a password",
        ),
        (
            {
                "PREFECT_SERVER_API_AUTH_STRING": "me:a long enough one",
                "MLFLOW_TRACKING_PASSWORD": "password1234",
            },
            "MLflow for a team needs a password",
        ),
        (
            {
                "PREFECT_SERVER_API_AUTH_STRING": "me:a long enough one",
                "MLFLOW_TRACKING_PASSWORD": "another long one",
            },
            "MLflow for a team needs a user",
        ),
    ],
)
def test_a_team_needs_passwords(given: dict[str, str], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        ui.need_passwords(given)


def test_a_teams_own_mlflow_server_has_its_own_passwords() -> None:
    own = {"MLFLOW_TRACKING_URI": "https://me:secret@mlflow.example/x/"}
    ui.need_passwords({"PREFECT_SERVER_API_AUTH_STRING": "me:a long enough one", **own})
    assert ui.find_mlflow(own) == "https://mlflow.example/x"
    assert ui.find_mlflow({"MLFLOW_TRACKING_URI": "sqlite:////x/mlflow.db"}) == ""
    assert run_page("https://me:pw@h/ml/", "1", "r").startswith("https://h/ml/#/experiments/1/")


def test_a_damaged_cache_object_is_named_and_removed(toy: Path) -> None:
    generated = next(
        path
        for path in (toy / ".dvc" / "cache" / "files" / "md5").glob("*/*")
        if path.read_bytes().startswith(b"{") and path.suffix != ".dir"
    )
    before = repair.find_damaged(toy / ".dvc" / "cache")
    whole = generated.read_bytes()
    generated.chmod(0o644)
    generated.write_bytes(b"x" + whole[1:])
    assert before == [] and repair.find_damaged(toy / ".dvc" / "cache") == [generated]
    done = subprocess.run(
        [sys.executable, "-m", "flows.runs.repair"],
        cwd=toy,
        env=environment(toy),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"damaged, removed: {generated}" in done.stdout and not generated.exists()
    generated.write_bytes(whole)


def test_one_look_finds_the_stages_that_have_nothing_to_do(toy: Path) -> None:
    nodes = read_graph(toy)
    assert list_unchanged(toy, nodes) == {"ingest", "generate", "validate"}
    params, lost = toy / "params.yaml", toy / "artifacts" / "validate" / "summary.json"
    whole, summary_text = params.read_bytes(), lost.read_bytes()
    lost.unlink()
    assert list_unchanged(toy, nodes) == {"ingest", "generate"}
    lost.write_bytes(summary_text)
    values = read_yaml(params)
    values["generate"]["seed"] += 1
    params.write_text(json.dumps(values))
    assert list_unchanged(toy, nodes) == {"ingest"}, "what follows a change is not taken for done"
    params.write_bytes(whole)
    (toy / "dvc.yaml").rename(toy / "away.yaml")
    assert list_unchanged(toy, nodes) == frozenset()
    (toy / "away.yaml").rename(toy / "dvc.yaml")
    assert list_unchanged(toy, nodes) == {"ingest", "generate", "validate"}


def test_what_dvc_puts_back_damaged_is_refused(toy: Path) -> None:
    """Also of the last stage, whose output no other stage would look at."""
    folder = toy / "artifacts" / "validate"
    summary_md5 = next(
        entry["md5"] for entry in _listing(toy, "validate") if entry["relpath"] == "summary.json"
    )
    cached = toy / ".dvc" / "cache" / "files" / "md5" / summary_md5[:2] / summary_md5[2:]
    whole = cached.read_bytes()
    cached.chmod(0o644)
    cached.write_bytes(whole.replace(b"3", b"4"))
    cached.chmod(0o444)  # what DVC takes for untouched
    shutil.rmtree(folder)
    refused = reproduce(toy, "validate", lambda _: None, lambda: None, environment(toy))
    assert (
        refused.status == "failed"
        and f"{folder / 'summary.json'} is damaged" in refused.error
        and "make repair" in refused.error
    )
    cached.chmod(0o644)
    cached.write_bytes(whole)
    shutil.rmtree(folder)
    assert (
        reproduce(toy, "validate", lambda _: None, lambda: None, environment(toy)).status
        == "restored"
    )


def _listing(root: Path, stage: str) -> list[dict[str, str]]:
    md5 = read_yaml(root / "dvc.lock")["stages"][stage]["outs"][0]["md5"]
    found: list[dict[str, str]] = json.loads(
        (root / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).read_text()
    )
    return found


def test_a_missing_corpus_is_named(bare: Path) -> None:
    with pytest.raises(
        PipelineError, match=r"ingest\.corpus: data/incidents/documents does not exist"
    ):
        worktree.prepare(request.plan(bare), print)


def test_files_that_dvc_cannot_hash_are_named_before_a_run(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC ended in an error of its own at each of these, and waited for the pipe for ever."""
    corpus = bare / "own documents"
    corpus.mkdir()
    (corpus / 'größe "1" $(x).txt').write_text("read")
    assert tell_unhashable(corpus) == tell_unhashable(corpus / 'größe "1" $(x).txt') == ""
    (corpus / "b.txt").symlink_to("nowhere.txt")
    os.mkfifo(corpus / "c.txt")
    (corpus / "locked.txt").write_text("no")
    (corpus / "locked.txt").chmod(0)
    can_read = os.access
    monkeypatch.setattr(  # root reads it all the same
        os, "access", lambda path, mode: Path(path).name != "locked.txt" and can_read(path, mode)
    )
    (corpus / os.fsdecode(b"a\xe4.txt")).write_text("named elsewhere")
    assert r"a\xe4.txt (its name is not UTF-8)" in tell_unhashable(corpus)
    (corpus / os.fsdecode(b"a\xe4.txt")).unlink()
    run = request.plan(bare, overrides=[f"ingest.corpus={json.dumps(str(corpus))}"])
    with pytest.raises(PipelineError, match="hashes every file") as refused:
        worktree.prepare(run, print)
    for told in ("b.txt (a link to nothing,", "c.txt (a pipe,", "locked.txt (no permission"):
        assert told in str(refused.value)


def test_a_run_of_its_own_needs_a_commit(bare: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=bare, check=True)
    with pytest.raises(PipelineError, match="no commit yet"):
        worktree.prepare(request.plan(bare, "warm"), print)


def test_a_file_that_was_written_again_as_it_was_is_no_edit(toy: Path) -> None:
    path = toy / "dvc.yaml"
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(text)
    worktree.prepare(request.plan(toy, overrides=["generate.seed=2"], name="again"), print)
    assert (toy / ".runs" / "again" / "dvc.yaml").read_bytes() == text


def test_a_corpus_of_the_users_own_is_found_from_the_worktree(toy: Path) -> None:
    (toy / ".work" / "mine").mkdir(parents=True, exist_ok=True)
    run = request.plan(toy, overrides=["ingest.corpus=.work/mine"], name="mine")
    worktree.prepare(run, print)
    assert read_yaml(run.path / "params.yaml")["ingest"]["corpus"] == str(toy / ".work" / "mine")
    assert (
        read_yaml(run.path / "params.yaml")["evaluate"]["items"]
        == "data/incidents/evaluation.jsonl"
    )
    assert (run.path / "data" / "incidents" / "evaluation.jsonl").read_text() == "text\n"


def test_every_path_of_the_users_own_is_found_from_the_worktree(tmp_path: Path) -> None:
    """Those of ``verify.fit``, too, which are keys of a section in a section."""
    main, place = tmp_path / "main", tmp_path / "main/.runs/mine"
    for folder in (main / "local/model", main / "local/start", place / "models/tracked"):
        folder.mkdir(parents=True)
    (main / "models/tracked").mkdir(parents=True)
    params = read_yaml(ROOT / "params.yaml")
    fit = {**params["finetune"], "model": "local/model", "start": "local/start"}
    params = {**params, "verify": {**params["verify"], "fit": fit}}
    commit = "c" * 40  # else the hub is asked
    on_hub = {"model": "own/on-the-hub", "revision": commit, "start": CHAMPION}
    params["finetune"] = {**params["finetune"], **on_hub}
    params["generate"] = {**params["generate"], "generator": "models/tracked"}
    write_params(params, main, place, print)
    written = read_yaml(place / "params.yaml")
    wanted = {**fit, "model": str(main / "local/model"), "start": str(main / "local/start")}
    wanted["revision"] = f"sha256:{sha256_folder(main / 'local/model')}"
    assert written == {**params, "verify": {**params["verify"], "fit": wanted}}
    assert params["verify"]["fit"]["model"] == "local/model", "the run's own stay as they were"
    plain = {**params, "verify": {**params["verify"], "fit": None}}
    write_params(plain, main, place, print)
    assert read_yaml(place / "params.yaml") == plain


def test_a_model_that_is_trained_again_in_its_place_is_another_setting(tmp_path: Path) -> None:
    """DVC sees parameters, and of models the folder ``models`` alone."""
    main, place = tmp_path / "main", tmp_path / "main/.runs/mine"
    weights = main / "local/target/model.safetensors"
    tracked = place / "models/tracked/model.safetensors"
    for path in (weights, tracked):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"old")
    params = read_yaml(ROOT / "params.yaml")
    params["finetune"]["model"] = params["verify"]["reader"] = "local/target"
    params["generate"]["generator"] = "models/tracked"
    written = []
    for content in (b"old", b"new", b"old"):
        weights.write_bytes(content)
        write_params(params, main, place, print)
        written.append(read_yaml(place / "params.yaml"))
    assert written[0] == written[2] != written[1]
    assert [values["generate"]["revision"] for values in written] == ["main"] * 3
    found = written[2]["finetune"]
    assert found["revision"] == written[2]["verify"]["revision"]
    assert pinned(found["model"], found["revision"]) == found["revision"]
    weights.write_bytes(b"changed in a run")
    with pytest.raises(PipelineError, match="its files have changed since"):
        pinned(found["model"], found["revision"])
    own = {**params, "finetune": {**params["finetune"], "revision": "v2"}}
    write_params(own, main, place, print)
    assert read_yaml(place / "params.yaml")["finetune"]["revision"] == "v2"


@pytest.mark.parametrize(
    ("lines", "code", "shown"),
    [
        (
            [
                "error: ingest: no documents",
                "ERROR: failed to reproduce 'ingest': failed to run: x, exited with 2",
            ],
            255,
            "ingest: no documents",
        ),
        (
            [
                "Traceback",
                "KeyError: 'f1'",
                "ERROR: failed to reproduce 'x': failed to run: x, exited with 1",
            ],
            255,
            "KeyError: 'f1'",
        ),
        (
            ["12/40 rows", "ERROR: failed to reproduce 'x': failed to run: x, exited with -9"],
            255,
            "killed by signal 9 (often: too little memory), stopped: run the same command again",
        ),
        (
            ["12/40 rows", "ERROR: failed to reproduce 'x': failed to run: x, exited with 137"],
            255,
            "killed by signal 9 (often: too little memory), stopped: run the same command again",
        ),
        (
            ["ERROR: failed to reproduce 'x': missing data 'source': y"],
            255,
            "failed to reproduce 'x': missing data 'source': y",
        ),
        (["12/40 rows"], -9, "stopped: run the same command again"),
        ([], 1, "printed nothing"),
    ],
)
def test_the_line_that_matters(lines: list[str], code: int, shown: str) -> None:
    assert shown in line_that_matters(lines, code)


def test_the_form_takes_any_profiles_and_explains_itself(toy: Path) -> None:
    """Loaded by file name, as a served deployment loads it."""
    code = """
import json
from prefect.flows import load_flow_from_entrypoint
adapt = load_flow_from_entrypoint("flows/adapt.py:adapt")
adapt.validate_parameters({"profile": "warm, größe+1,", "task_types": ["exqa"], "rows": 10, "seed": 3, "overrides": ["generate.seed=2"]})
for field, wrong in {"profile": "warm;x", "overrides": ["seed"], "rows": -1, "seed": "x", "task_types": ["exq"], "name": "x" * 99}.items():
    try:
        adapt.validate_parameters({field: wrong})
    except Exception as error:
        assert field in str(error), error
    else:
        raise SystemExit(f"{field}={wrong} was accepted")
follow = load_flow_from_entrypoint("flows/follow.py:follow")
print(json.dumps([flow.parameters.model_dump() for flow in (adapt, follow)]))
"""
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=toy,
        env=environment(toy),
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    properties, followed = (schema["properties"] for schema in json.loads(shown))
    assert properties["profile"] == followed["profile"]
    assert "enum" not in properties["profile"], "it would be of the profiles of the start, and one"
    assert "began: warm. A file" in properties["profile"]["description"]
    assert all(
        properties[name]["description"]
        for name in (
            "profile",
            "corpus",
            "task_types",
            "generator",
            "model",
            "rows",
            "seed",
            "overrides",
            "name",
        )
    )
    assert all("anyOf" not in field for field in properties.values()), (
        "Prefect's form shows optional and union fields badly"
    )
    assert properties["rows"]["minimum"] == properties["seed"]["minimum"] == 0
    assert properties["overrides"]["items"]["pattern"]


def test_the_generators_form_offers_its_shipped_profiles() -> None:
    flow: Any = load_flow_from_entrypoint(f"{ROOT}/flows/train_bonito.py:train_bonito")
    field = flow.parameters.model_dump()["properties"]["profile"]
    shipped = {path.stem for path in (ROOT / "bonito/profiles").glob("*.yaml")}
    assert set(field["enum"]) == shipped and field["default"] in shipped


def test_addresses_of_the_users_own_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Behind a proxy the pages have other names."""
    own = {
        "PREFECT_SERVER_UI_API_URL": "https://prefect.example/api",
        "PIPELINE_MLFLOW_PAGE": "https://mlflow.example",
    }
    monkeypatch.setattr(ui, "CODE", tmp_path)
    monkeypatch.setattr(os, "environ", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", **own})
    ui._set_environment("http://127.0.0.1:4200", "http://127.0.0.1:5000")
    assert {name: os.environ[name] for name in own} == own


def test_another_checkouts_server_is_not_taken_for_this_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A killed make ui left its address behind, and the next one on that port may be anyone's."""
    (tmp_path / ".prefect").mkdir()
    monkeypatch.setattr(server, "answers", lambda _: True)
    url = "http://127.0.0.1:4200/api"
    for mark, found in ((process_mark(), url), ("99999999:1", "")):
        (tmp_path / ".prefect" / "ui.url").write_text(f"{url} {mark}\n")
        assert server.find_ui_server(tmp_path) == found


def test_a_second_ui_of_a_checkout_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """On other ports it started. Both had one database, and the end of one hid the other."""
    monkeypatch.setattr(ui, "CODE", tmp_path)
    monkeypatch.setattr(os, "environ", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    monkeypatch.setattr(ui, "find_ui_server", lambda _: "http://127.0.0.1:4200/api")
    asked = argparse.Namespace(prefect_port=4300, mlflow_port=5001, team=False, runs="1")
    with pytest.raises(PipelineError, match="already, with Prefect at http://127.0.0.1:4200/api"):
        ui._serve(ui.Servers(tmp_path), asked, threading.Event())


@pytest.mark.timeout(300)
def test_ui_starts_no_mlflow_where_there_is_a_server(toy: Path, tmp_path: Path) -> None:
    """It was given to MLflow as its store, and make ui ended."""
    mlflow = "http://127.0.0.1:9"
    own = {"MLFLOW_TRACKING_URI": mlflow, "PREFECT_SERVER_UI_API_URL": "https://p.example/api"}
    own["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"  # no server answers there
    with serve_ui(toy, tmp_path / "ui.log", {**environment(toy), **own}) as (prefect, printed):
        assert printed == mlflow
        assert _get(f"{prefect}/ui-settings")["api_url"] == "https://p.example/api"
        started = [one for one in Path("/proc").glob("[0-9]*") if _works_in(one, toy)]
        assert not any("\0mlflow\0" in (one / "cmdline").read_text() for one in started)
    await_no_process_in(toy)


@pytest.mark.parametrize("runs", ["0", "-1", "two", ""])
def test_ui_refuses_what_is_no_number_of_runs(
    runs: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 0 it started, and nothing on its pages ever ran."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert ui.main(["--runs", runs, "--prefect-port", "1", "--mlflow-port", "1"]) == 2
    told = f"error: ui: RUNS={runs} is no number of runs at once: give one from 1 to 999\n"
    assert capsys.readouterr().err == told


def test_ui_says_which_port_is_taken(toy: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "flows.ui",
            "--prefect-port",
            str(port),
            "--mlflow-port",
            str(find_free_port()),
        ]
        done = subprocess.run(
            command,
            cwd=toy,
            env=environment(toy),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: ui: cannot listen on 127.0.0.1:{port} ([Errno 98] Address already in use): stop "
        f"the program that does, or choose another port with PREFECT_PORT={port + 1}\n"
    )


@pytest.mark.timeout(300)
def test_ui_answers_and_leaves_nothing_behind(toy: Path, tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, toy / "mlflow.db")
    log = tmp_path / "ui.log"
    with serve_ui(toy, log, environment(toy)) as (prefect, mlflow):
        assert server.answers(f"{prefect}/api/health")
        assert server.answers(urljoin(mlflow, "/health"))
        _assert_foreign_pages_are_refused(urljoin(mlflow, "/api/2.0/mlflow/experiments/"))
        assert server.answers(f"{prefect}/api/deployments/name/train-bonito/train-bonito")
        _start_from_the_form(toy, f"{prefect}/api")
    await_no_process_in(toy)
    assert "database is locked" not in log.read_text(encoding="utf-8")


def _assert_foreign_pages_are_refused(experiments: str) -> None:
    """A name that was pointed at this machine, and another page: without TEAM MLflow has no
    password.
    """
    for what, foreign, body in (
        ("search?max_results=5", {"Host": "evil.example"}, None),
        ("create", {"Origin": "http://evil.example"}, b'{"name": "stolen"}'),
    ):
        head = {"Content-Type": "application/json", **foreign}
        page = urllib.request.Request(f"{experiments}{what}", body, head)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(page, timeout=30)


def _start_from_the_form(toy: Path, api: str) -> None:
    """What the page does: a token against forged requests, a wrong value refused, a right one run
    by the worker in a worktree.
    """
    with urllib.request.urlopen(f"{api}/deployments/name/adapt/adapt", timeout=20) as response:
        deployment = json.load(response)["id"]
    address = f"{api}/deployments/{deployment}/create_flow_run"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        post(address, {}, {"parameters": {"profile": "warm"}})
    with urllib.request.urlopen(f"{api}/csrf-token?client=test", timeout=20) as response:
        token = {"Prefect-Csrf-Token": json.load(response)["token"], "Prefect-Csrf-Client": "test"}
    for wrong in ({"rows": -1}, {"profile": "warm;x"}, {"seed": "x"}, {"seeed": 5}):
        with pytest.raises(urllib.error.HTTPError, match="4(09|22)") as refused:
            post(address, token, {"parameters": wrong})
        (field,) = wrong
        assert f"'{field}'" in refused.value.read().decode(), "Prefect's words, with our field"
    later = toy / "profiles" / "later.yaml"
    later.write_text("generate: {temperature: 0.8}\n")
    stacked = {"profile": "warm,later", "seed": 5}
    state = _end_of(api, post(address, token, {"parameters": stacked}))
    assert state["type"] == "COMPLETED", state
    params = read_yaml(toy / ".runs" / request.name_run(stacked) / "params.yaml")
    assert (params["finetune"]["seed"], params["generate"]["temperature"]) == (5, 0.8)
    later.unlink()
    state = _end_of(api, post(address, token, {"parameters": {"profile": "wram"}}))
    assert state["type"] == "FAILED"
    assert state["message"].startswith("unknown profile 'wram' (did you mean 'warm'?)"), state


def _end_of(api: str, run: dict[str, Any]) -> dict[str, Any]:
    """Wait for a flow run's end; return its state."""
    deadline = time.monotonic() + 200
    while (state := _get(f"{api}/flow_runs/{run['id']}")["state"])["type"] not in (
        "COMPLETED",
        "FAILED",
        "CRASHED",
    ):
        assert time.monotonic() < deadline, state
        time.sleep(1)
    found: dict[str, Any] = state
    return found


def post(address: str, headers: dict[str, str], body: dict[str, Any]) -> dict[str, Any]:
    """Post as Prefect's client does: 503 says that the database is busy, and to ask again."""
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    deadline = time.monotonic() + 100
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                found: dict[str, Any] = json.load(response)
            return found
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            time.sleep(2)


def _get(address: str) -> dict[str, Any]:
    with urllib.request.urlopen(address, timeout=20) as response:
        found: dict[str, Any] = json.load(response)
    return found


def test_servers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    """However it ends: SIGKILL leaves no time to clean up."""
    code = (
        "import pathlib, time; from flows.ui import Servers\nwith "
        f"Servers(pathlib.Path({str(tmp_path)!r})) as s: s.start('x', ['http.server', '0']); "
        "time.sleep(600)"
    )
    running = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 20
    while not any(_works_in(process, tmp_path) for process in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    running.kill()
    running.wait()
    await_no_process_in(tmp_path)


@pytest.mark.parametrize(
    ("pins", "profile"),
    [("0a1b cpu\n", "default"), ("0a1b gpu\n", "mistral-7b"), (None, "default")],
)
def test_the_papers_profile_suits_a_machine_with_a_gpu(
    tmp_path: Path, pins: str | None, profile: str
) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "mistral-7b.yaml").touch()
    if pins:
        (tmp_path / ".venv").mkdir()
        (tmp_path / ".venv" / "pins.sha256").write_text(pins)
    assert request.machine_profile(tmp_path) == profile


def test_an_empty_file_of_verdicts_is_no_warning(tmp_path: Path) -> None:
    """`make start` makes it; DVC warns of it, and a person would look for a fault."""
    said = """print("WARNING: '/a b/reviews/mine.jsonl' is empty."); print("Running stage 'verify':")"""
    shown: list[str] = []
    lines, code = run_child([sys.executable, "-c", said], tmp_path, shown.append, {})
    assert (code, len(lines), shown) == (0, 2, ["Running stage 'verify':"])
