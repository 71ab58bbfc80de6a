"""The journal of files that were read: whole, or read again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tasks.ingest.discovery import CorpusFile
from tasks.ingest.journal import Journal
from tasks.ingest.readers.document import Unreadable


def _filled(path: Path) -> None:
    with closing(Journal(path)) as journal:
        for key in ("a", "b"):
            for number in range(2):
                journal.add(key, number, f'[{{"member": "{key}{number}"}}]')
            journal.finish(key, final=True)


def _entries(path: Path) -> dict[str, list[str]]:
    with closing(Journal(path)) as journal:
        return {
            key: found
            for key in ("a", "b")
            if (found := [entry["member"] for entry in journal.entries(key)])
        }


def test_what_was_finished_is_kept(tmp_path: Path) -> None:
    _filled(tmp_path / "journal.sqlite")
    assert _entries(tmp_path / "journal.sqlite") == {"a": ["a0", "a1"], "b": ["b0", "b1"]}


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM part WHERE key = 'a' AND number = 1",
        "UPDATE part SET content = x'00' WHERE key = 'a' AND number = 0",
        "UPDATE done SET digest = x'00' WHERE key = 'a'",
    ],
)
def test_a_damaged_result_is_named_and_read_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.sqlite"
    _filled(path)
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(damage)
    assert _entries(path) == {"b": ["b0", "b1"]}
    assert f"{path} is damaged: 1 files are read again" in caplog.text


def test_a_key_that_is_no_text_any_more_starts_the_journal_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "journal.sqlite"
    _filled(path)
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("UPDATE done SET key = CAST(x'61ff' AS TEXT) WHERE key = 'a'")
    assert _entries(path) == {}
    assert f"{path} is damaged: every file is read again" in caplog.text


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_file_that_is_no_journal_is_started_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    assert _entries(path) == {}
    _filled(path)
    assert sorted(_entries(path)) == ["a", "b"]


def test_a_journal_of_an_earlier_form_is_started_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE done (key TEXT PRIMARY KEY, final INTEGER) WITHOUT ROWID")
    assert _entries(path) == {}


def test_what_is_unfinished_or_may_pass_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(Journal(path)) as journal:
        journal.add("a", 0, '[{"member": "a0"}]')
        journal.finish("a", final=False)
        for number in range(2):
            journal.add("b", number, f'[{{"member": "b{number}"}}]')
        journal.finish("c", final=True)
    with closing(sqlite3.connect(path)) as base, base:  # as a kill before the end of b
        base.execute("DELETE FROM done WHERE key = 'b'")
    assert _entries(path) == {}
    with closing(Journal(path)) as journal:
        files = [(CorpusFile(key, key), key) for key in ("a", "b", "c")]
        journal.list(files)
        assert journal.plan() == (3, 2)
        assert [key for key, _, _ in journal.todo()] == ["a", "b"]


def test_results_that_no_file_needs_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    _filled(path)
    with closing(Journal(path)) as journal:
        journal.list([(CorpusFile("b", "b"), "b")])
        assert journal.plan() == (1, 0)
    assert _entries(path) == {"b": ["b0", "b1"]}


def test_a_full_disk_or_a_lock_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.sqlite"
    _filled(path)

    def fail(path: Path) -> sqlite3.Connection:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("tasks.ingest.journal._open_database", fail)
        with pytest.raises(sqlite3.OperationalError):
            Journal(path)
    assert sorted(_entries(path)) == ["a", "b"]


def test_pages_that_do_not_fit_together_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the part of the file that holds no result, which no digest covers."""
    path = tmp_path / "journal.sqlite"
    with closing(Journal(path)) as journal:
        journal.list([(CorpusFile(f"{n:03}", "x" * 50), f"key-{n}") for n in range(500)])
    with closing(sqlite3.connect(path)) as base:
        (root,) = base.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'file_key'"
        ).fetchone()
        (size,) = base.execute("PRAGMA page_size").fetchone()
    data = bytearray(path.read_bytes())
    data[(root - 1) * size + 8 : root * size] = bytes(size - 8)
    path.write_bytes(data)
    assert _entries(path) == {}
    assert "is damaged: every file is read again" in caplog.text


def test_a_file_is_unsettled_three_times_at_most(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"

    def run(final: bool) -> int:
        with closing(Journal(path)) as journal:
            gone = Unreadable("unreadable", "no answer")
            hidden = Unreadable("hidden", "its name begins with a dot")
            files = [(CorpusFile("a", "a"), "a"), (CorpusFile("b", "b"), "b")]
            journal.list(
                [*files, (CorpusFile("c", "c", gone), ""), (CorpusFile(".d", "d", hidden), "")]
            )
            for key, _, _ in journal.todo() if journal.plan()[1] else ():
                journal.finish(key, final or key == "b")
            return journal.count_unsettled()

    assert [run(final=False) for _ in range(4)] == [2, 2, 0, 0]
    assert run(final=True) == 0, "c was tried often enough"
    with closing(sqlite3.connect(path)) as base, base:
        base.execute("DELETE FROM done")
    assert run(final=False) == 1, "a begins again"
