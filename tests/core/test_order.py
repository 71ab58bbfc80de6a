"""What a commit does, call by call: data on the disk before its name, and its name before the next
thing. A kill cannot show that, only a power cut.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.files import _exchange, atomic_path, staged_folder, write_json
from tasks.core.parquet import write_table
from tasks.core.store import Store
from tests.conftest import passage_table
from tests.faults import moments
from tests.faults.world import fork, wait

Calls = Callable[[Callable[[], None]], list[str]]


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """Return a function that does something in a child and returns its calls that change files, as
    ``name path``; a rename has the new path.
    """

    def see(work: Callable[[], None]) -> list[str]:
        log = tmp_path.with_suffix(".moments")

        def child() -> int:
            moments.record(log)()
            work()
            return 0

        assert wait(fork(tmp_path, child, {})) == 0, (tmp_path / "log").read_text()
        rows = [line.split("\t") for line in log.read_text().splitlines()]
        log.unlink()
        own = f"{tmp_path}/"
        return [
            f"{call} {_plain(path.removeprefix(own))}"
            for _, when, call, path in rows
            if when == "after" and call not in ("read", "write")
        ]

    return see


def _plain(name: str) -> str:
    """Without the numbers of the process and the thread."""
    parts = name.split(".")
    return ".".join(part for part in parts if not part.replace("-", "").isdigit())


def test_a_file_is_synced_named_and_its_folder_synced(calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert calls(lambda: write_json(tmp_path / "in/a.json", 1)) == [
        "open in/.a.json.partial",
        "fsync in/.a.json.partial",
        "replace in/a.json",
        "fsync in",
    ]


def test_a_table_is_too(calls: Calls, tmp_path: Path) -> None:
    seen = calls(lambda: write_table(tmp_path / "rows", passage_table(3)))
    kept = [call for call in seen if call.split()[0] in ("fsync", "replace", "close")]
    assert kept == ["close ", "fsync .rows.partial", "replace rows", f"fsync {tmp_path}"]


def test_every_file_of_a_folder_is_synced_before_it_takes_its_place(
    calls: Calls, tmp_path: Path
) -> None:
    def work() -> None:
        with staged_folder(tmp_path / "final" / "out", tmp_path / "scratch") as out:
            (out / "deep").mkdir()
            (out / "deep" / "one").write_text("1")
            (out / "two").write_text("2")

    for change in ("replace", "_exchange"):
        seen = calls(work)
        place = seen.index(f"{change} final/out")
        synced = {f"fsync scratch{name}" for name in ("", "/deep", "/deep/one", "/two")}
        assert synced <= set(seen[:place])
        assert seen[place + 1] == "fsync final"


def test_a_mark_goes_before_its_data_changes_and_comes_back_last(
    calls: Calls, tmp_path: Path
) -> None:
    Store(tmp_path, "key", keep=1).put("n", 1)
    seen = calls(lambda: Store(tmp_path, "key", keep=1).put("n", 2))
    gone, opened = seen.index("unlink key/n.sha256"), seen.index("open key/.n.json.partial")
    named, marked = seen.index("replace key/n.json"), seen.index("replace key/n.sha256")
    assert gone < opened < named < marked
    assert "fsync key" in seen[named:marked], "the data's name is on the disk before the mark"


def test_what_stood_in_the_scratch_folder_is_no_output(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "of a killed run").write_text("x")
    with staged_folder(tmp_path / "out", tmp_path / "scratch") as out:
        (out / "own").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["own"]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path, ready, go = (tmp_path / name for name in ("a.json", "ready", "go"))

    def child() -> int:
        with atomic_path(path) as partial:
            partial.write_text('"child"')
            ready.touch()
            while not go.exists():
                pass
        return 0

    pid = fork(tmp_path, child, {})
    while not ready.exists():
        pass
    write_json(path, "parent")
    assert path.read_text() == '"parent"\n'
    go.touch()
    assert wait(pid) == 0
    assert path.read_text() == '"child"'


def test_an_exchange_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        _exchange(tmp_path / "one", tmp_path / "absent")
    shutil.rmtree(tmp_path / "one")
