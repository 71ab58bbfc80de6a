"""The checkout of a run with a name of its own, after a move, a stopped removal or a killed git."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.runs import git as git_commands
from flows.runs import request, worktree
from flows.runs.corpus_files import tell_items_read
from flows.runs.git import run_git
from flows.runs.run_params import write_params
from flows.runs.terminated import Terminated, heed_term
from flows.runs.worktree import Run
from tasks.core.errors import PipelineError
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=u", "-c", "user.email=u@h", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_an_interrupted_git_takes_its_lock_away(tmp_path: Path) -> None:
    """Killed, it leaves .git/index.lock in the user's checkout, and no git works there any more."""
    lock = tmp_path / "index.lock"
    git = (
        f"trap 'rm {lock}; exit 1' TERM; touch {lock}; sleep 0.5; kill -TERM $PPID; sleep 60 & wait"
    )
    with heed_term(), pytest.raises(Terminated):
        git_commands._finish(["bash", "-c", git], tmp_path, None)
    assert not lock.exists()


@pytest.fixture
def main(tmp_path: Path) -> Path:
    """A checkout with parameters, a profile, two documents, and a run's worktree that has worked."""
    folder = tmp_path / "main"
    (folder / "profiles").mkdir(parents=True)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "profiles" / "warm.yaml").write_text("ingest: {corpus: docs}\n")
    (folder / "docs" / "a.md").write_text("A document.\n")
    (folder / "docs" / ".gitignore").write_text("*.log\n")
    (folder / ".gitignore").write_text(".runs/\n.work/\nartifacts/\n")
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _git(folder, "add", "-A")
    _git(folder, "commit", "--quiet", "-m", "first")
    run = _plan(folder)
    worktree._make_worktree(run, print)
    (run.path / ".work").mkdir()
    (run.path / ".work" / "journal").write_text("shards")
    (run.path / "dvc.lock").write_text("its own")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text() + "# mine\n")
    return folder


def _plan(main: Path) -> Run:
    return request.plan(main, "warm")


def _assert_good(main: Path) -> None:
    """The user's edit and branch are there, and the run has its checkout and its work."""
    run = _plan(main)
    worktree._make_worktree(run, print)
    assert _git(main, "branch", "--show-current") == "main"
    assert (main / "params.yaml").read_text().endswith("# mine\n")
    assert (run.path / "params.yaml").read_text().endswith("# mine\n")
    assert _git(run.path, "rev-parse", "--show-toplevel") == str(run.path.resolve())
    assert (run.path / ".work" / "journal").read_text() == "shards"
    assert (run.path / "dvc.lock").read_text() == "its own"
    assert sorted(path.name for path in (main / ".runs").iterdir()) == ["warm"]


@pytest.mark.parametrize("again", [1, 2])
def test_a_removal_that_was_stopped_touches_nothing_of_the_user(main: Path, again: int) -> None:
    """Without its .git file git takes the folder for a part of the main checkout around it."""
    (main / ".runs" / "warm" / ".git").unlink()
    for _ in range(again):
        _assert_good(main)


def test_a_checkout_that_was_moved_runs_on(main: Path) -> None:
    place = main.rename(main.with_name("moved"))
    _assert_good(place)


def test_a_copied_checkout_has_worktrees_of_its_own(main: Path) -> None:
    copy = Path(shutil.copytree(main, main.with_name("copy")))
    _assert_good(copy)
    _assert_good(main)


def test_a_git_that_was_killed_leaves_no_lock(main: Path) -> None:
    (main / ".git" / "worktrees" / "warm" / "index.lock").touch()
    _assert_good(main)


def test_a_run_in_a_hook_of_git_leaves_the_users_branch_and_index_alone(main: Path) -> None:
    """git names its folder and its index to a hook, and so to each git that the hook starts."""
    (main / "new.md").write_text("to be committed\n")
    _git(main, "add", "new.md")
    staged = _git(main, "status", "--porcelain")
    place = {"GIT_DIR": str(main / ".git"), "GIT_INDEX_FILE": str(main / ".git" / "index")}
    made = (
        "import sys; from pathlib import Path; from flows.runs import request, worktree; "
        "worktree._make_worktree(request.plan(Path(sys.argv[1]), 'warm'), print)"
    )
    command = [sys.executable, "-c", made, str(main)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **place}, check=True)
    assert _git(main, "status", "--porcelain") == staged
    _assert_good(main)


def test_a_new_file_of_an_earlier_run_is_not_read_again(main: Path) -> None:
    """It was staged then, so the run had it. Git no longer tracks it, and it says something else
    now: the old one was read, without a word.
    """
    name = "datasets/mine.yaml"
    (main / "datasets").mkdir()
    (main / name).write_text("name: old\n")
    _git(main, "add", name)
    run = request.plan(main, "warm", [f"evaluate.dataset={name}"], "warm")
    worktree._make_worktree(run, print)
    assert (run.path / name).read_text() == "name: old\n"
    _git(main, "reset", "--quiet")
    (main / name).write_text("name: new\n")
    _assert_good(main)
    write_params(run.params, run.main, run.path, print)
    assert read_yaml(run.path / "params.yaml")["evaluate"]["dataset"] == str(main / name)


def test_an_untracked_file_is_known_by_its_name_whatever_its_letters(main: Path) -> None:
    name = "datasets/pr\u00fcfung.yaml"
    (main / "datasets").mkdir()
    (main / name).touch()
    said = list[str]()
    worktree._make_worktree(
        request.plan(main, "warm", [f"evaluate.dataset={name}"], "warm"), said.append
    )
    assert said == [f"used from your checkout, not versioned with this run: {name}"]


def test_a_folder_that_git_refuses_is_told_in_gits_words(tmp_path: Path) -> None:
    """Of another user's checkout, or an unpacked archive, it was said to need a commit."""
    run = Run("warm", tmp_path, tmp_path / ".runs" / "warm", {})
    with pytest.raises(PipelineError, match="not a git repository"):
        worktree._make_worktree(run, print)


def test_data_that_dvc_cannot_look_at_are_not_said_to_differ(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC's status is 1 where they differ, and 255 while another run holds its lock."""
    run, said = _plan(main), list[str]()
    (run.path / "data.dvc").touch()
    (main / "data").mkdir()
    monkeypatch.setattr(worktree, "run_dvc", lambda *_: "")
    for status in (0, 255, 1):
        monkeypatch.setattr(worktree, "ask_dvc", lambda *_, status=status: status)
        worktree._check_out_data(run, said.append)
    assert len(said) == 1 and "data/ differs from data.dvc" in said[0]


def test_data_that_the_cache_lacks_are_told_with_what_fetches_them(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC's own line ends before it names them."""
    run = _plan(main)
    (run.path / "data.dvc").touch()
    (main / "data").mkdir()

    def fail(*_: object) -> str:
        raise PipelineError("dvc checkout: Checkout failed for following targets:")

    monkeypatch.setattr(worktree, "run_dvc", fail)
    monkeypatch.setattr(worktree, "ask_dvc", lambda *_: 0)
    with pytest.raises(PipelineError, match=r"cache lacks .*dvc fetch data\.dvc gets it"):
        worktree._check_out_data(run, print)


def test_a_cache_whose_name_begins_as_the_old_ones_is_another(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, asked = _plan(main), list[tuple[str, ...]]()

    def answer(folder: Path, *words: str) -> str:
        asked.append(words)
        return "/mnt/cache"

    monkeypatch.setattr(worktree, "run_dvc", answer)
    (run.path / ".dvc").mkdir()
    for old, written in (("/mnt/cache-of-2024", True), ("/mnt/cache", False)):
        asked.clear()
        (run.path / ".dvc" / "config.local").write_text(f"[cache]\n    dir = {old}\n")
        worktree._share_cache(run)
        assert (("cache", "dir", "--local", "/mnt/cache") in asked) == written, old


def test_two_runs_that_end_together_are_saved_one_after_the_other(
    main: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dvc exp save` works with references that all worktrees share: of two at once, one failed, or
    was saved under no name.
    """
    at_once = 0
    seen = list[int]()

    def save(*_: object, **__: object) -> str:
        nonlocal at_once
        at_once += 1
        time.sleep(0.2)
        seen.append(at_once)
        at_once -= 1
        return ""

    monkeypatch.setattr(worktree, "run_dvc", save)
    runs = [request.plan(main, "warm", name=name) for name in ("one", "two")]
    threads = [threading.Thread(target=worktree.record, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [1, 1]


def test_what_git_says_is_told_and_not_what_it_advises(main: Path) -> None:
    (main / ".git" / "index.lock").touch()
    with pytest.raises(PipelineError, match=r"index\.lock"):
        run_git(main, "add", "params.yaml")


@pytest.mark.parametrize("name", ["b.md", "b.log"])
def test_documents_that_git_does_not_track_are_read(main: Path, name: str) -> None:
    """A worktree has the tracked ones alone."""
    run, said = _plan(main), list[str]()
    worktree._make_worktree(run, print)
    write_params(run.params, run.main, run.path, said.append)
    assert read_yaml(run.path / "params.yaml")["ingest"]["corpus"] == "docs" and not said
    (main / "docs" / name).write_text("A new one.\n")
    write_params(run.params, run.main, run.path, said.append)
    corpus = Path(read_yaml(run.path / "params.yaml")["ingest"]["corpus"])
    assert corpus == (main / "docs").resolve() and (corpus / name).exists()
    assert "git does not track all files of docs" in said[0]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("ingest", "corpus", "../warm"), ("finetune", "start", "artifacts/finetune")],
)
def test_a_path_means_the_users_file_whatever_the_worktree_has_there(
    main: Path, section: str, key: str, value: str
) -> None:
    """``.runs/warm/../warm`` is the run's own checkout, and from its second time on a run has an
    adapter of its own: DVC would say that a stage reads what it writes.
    """
    run = _plan(main)
    (main / value).mkdir(parents=True)
    (run.path / value).mkdir(parents=True, exist_ok=True)
    run.params[section][key] = value
    write_params(run.params, run.main, run.path, print)
    written = read_yaml(run.path / "params.yaml")[section][key]
    assert written == str((main / value).resolve())


@pytest.mark.parametrize("corpus", [".", ".."])
def test_a_corpus_that_holds_the_checkout_is_refused(main: Path, corpus: str) -> None:
    run = _plan(main)
    run.params["ingest"]["corpus"] = corpus
    with pytest.raises(PipelineError, match="the checkout itself is in it"):
        worktree.prepare(run, print)


def test_no_command_asks_for_a_run_with_a_name_of_ones_own(main: Path) -> None:
    assert request.plan(main, "warm").command == "make run PROFILE=warm"
    assert request.plan(main, "warm", name="foo").command == ""
    for profile in (" warm", "warm,", "warm , "):
        assert request.plan(main, profile).name == "warm"


@pytest.mark.parametrize(
    ("items", "column", "refused"),
    [
        ("docs/items.csv", "", True),
        ("docs/inner/items.jsonl", "premise", True),
        ("docs/items.jsonl", "text", False),  # a table without the column is not read
        ("docs/.items/items.csv", "", False),
        ("items.csv", "", False),
        ("link/items.csv", "", True),
    ],
)
def test_items_that_would_be_read_as_documents_are_refused(
    main: Path, items: str, column: str, refused: bool
) -> None:
    (main / "link").symlink_to("docs")
    path = main / items
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '{"id": "1", "premise": "It broke.", "hypothesis": "It did.", "label": "neutral"}\n'
        if path.suffix == ".jsonl"
        else "id,premise,hypothesis,label\n1,It broke.,It did.,neutral\n"
    )
    settings = [f"evaluate.items={items}", f"ingest.text_column={column}"]
    run = request.plan(main, "warm", settings)
    told = tell_items_read(main / items, main / "docs", run.params["ingest"])
    assert ("would read the answers as documents: move it out" in told) == refused
    if refused:
        with pytest.raises(PipelineError, match=r"evaluate\.items: .* is in the corpus"):
            worktree.prepare(run, print)


@pytest.fixture
def hub_cache(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with own/model, and no network; ``refs/main`` says where its branch is."""
    model = tmp_path / "hub" / "models--own--model"
    for commit in ("a" * 40, "b" * 40):
        shutil.copytree(tiny_model, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("a" * 40)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # this checkout has no code
    monkeypatch.delenv("PIPELINE_POOLS", raising=False)
    return model


def _name_target(run: Run, name: str) -> None:
    """Let a run load that model alone."""
    run.params["supervise"]["source"] = "tapt"
    run.params["finetune"] |= {"model": name, "start": "supervision/none"}


def test_a_branch_of_the_hub_that_moves_is_another_setting(
    main: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, said = _plan(main), list[str]()
    _name_target(run, "own/model")
    worktree._make_worktree(run, print)
    written = []
    for commit in ("a" * 40, "b" * 40):
        (hub_cache / "refs" / "main").write_text(commit)
        write_params(run.params, run.main, run.path, said.append)
        written.append(read_yaml(run.path / "params.yaml"))
    assert [params["finetune"]["revision"] for params in written] == ["a" * 40, "b" * 40]
    assert said[0] == f"finetune.model is at commit {'a' * 12} of the hub"
    assert run.params["finetune"]["revision"] == "main", "the run's own stay as they were"
    others = [params | {"finetune": None} for params in written]
    assert others[0] == others[1], "nothing else is another"
    monkeypatch.setenv("PIPELINE_POOLS", "finetune=gpu")
    write_params(run.params, run.main, run.path, said.append)
    assert read_yaml(run.path / "params.yaml")["finetune"]["revision"] == "main"


def test_a_model_that_is_not_on_the_hub_ends_the_run_before_it_begins(
    main: Path, hub_cache: Path
) -> None:
    run = _plan(main)
    _name_target(run, "own/other")
    worktree._make_worktree(run, print)
    with pytest.raises(PipelineError, match=r"^finetune.model: model 'own/other' is neither"):
        write_params(run.params, run.main, run.path, print)
