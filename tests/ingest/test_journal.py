"""The journal of files that were read: whole, or read again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tasks.ingest.journal import Journal


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


@pytest.mark.parametrize("content", [b"no database", b""])
def test_a_file_that_is_no_journal_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(content)
    assert _entries(path) == {}
    _filled(path)
    assert sorted(_entries(path)) == ["a", "b"]


def test_a_journal_of_an_earlier_form_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.execute("CREATE TABLE done (key TEXT PRIMARY KEY, final INTEGER) WITHOUT ROWID")
    assert _entries(path) == {}
