"""The key of kept work holds the code that made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core import code


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that imports a second one, which imports a third inside a function."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "first.py").write_text("from tasks import second\n")
    (folder / "second.py").write_text("def work():\n    from tasks.third import made\n")
    (folder / "third.py").write_text("made = 1\n")
    (folder / "other.py").write_text("made = 1\n")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    code.code_digest.cache_clear()
    return folder


def digest() -> str:
    code.code_digest.cache_clear()
    return code.code_digest("tasks.first")


def test_a_change_anywhere_below_changes_the_digest(packages: Path) -> None:
    before = digest()
    (packages / "third.py").write_text("made = 2\n")
    assert digest() != before


def test_code_that_is_not_imported_a_comment_and_a_docstring_change_nothing(packages: Path) -> None:
    before = digest()
    (packages / "other.py").write_text("made = 2\n")
    (packages / "second.py").write_text(
        '"""Doc."""\n\n\ndef work():\n    """More."""\n    # why\n    from tasks.third import made\n'
    )
    assert digest() == before


def test_the_digest_of_a_module_alone_changes_with_its_own_code_only(packages: Path) -> None:
    def alone() -> str:
        code.module_digest.cache_clear()
        return code.module_digest("tasks.second")

    before = alone()
    (packages / "third.py").write_text("made = 2\n")
    assert alone() == before
    (packages / "second.py").write_text("def work():\n    from tasks.third import made as m\n")
    assert alone() != before


def test_modules_that_a_string_names_count(packages: Path) -> None:
    (packages / "readers").mkdir()
    (packages / "readers" / "csv.py").write_text("made = 1\n")
    (packages / "third.py").write_text('def read(name):\n    return f"tasks.readers.{name}"\n')
    before = digest()
    (packages / "readers" / "csv.py").write_text("made = 2\n")
    assert digest() != before
