"""The converted model is made again where its own code changes, and not for the code around it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.core import code
from tasks.lm.embedded import embedded_place
from tests.conftest import ROOT


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of our code, whose digests count."""
    shutil.copytree(ROOT / "tasks", tmp_path / "tasks", ignore=lambda *_: {"__pycache__"})
    monkeypatch.setattr(code, "ROOT", tmp_path)
    yield tmp_path / "tasks"
    _forget()


def _forget() -> None:
    code.code_digest.cache_clear()
    code.module_digest.cache_clear()


def _change(path: Path) -> Path:
    """Change the code of a module; return the place of the converted model afterwards."""
    path.write_text(f"{path.read_text()}\nchanged = 1\n")
    _forget()
    return embedded_place()


def test_only_the_code_that_converts_it_gives_the_model_another_place(copied: Path) -> None:
    _forget()
    before = embedded_place()
    for name in ("core/parquet.py", "core/store.py", "lm/model_cache.py", "core/files.py"):
        assert _change(copied / name) == before, name
    assert _change(copied / "lm/embedded.py") != before
