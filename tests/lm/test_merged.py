"""A merged model belongs to the bytes of its base and its adapter, not to their places."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.files import write_json
from tasks.core.store import seal_folder
from tasks.lm import merged
from tasks.lm.merged import merged_folder


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are made; no model is loaded for them."""
    folders: list[Path] = []

    def make(folder: Path, keep: int, save: Callable[[Path], None]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        seal_folder(folder)
        folders.append(folder)

    monkeypatch.setenv("BONITO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(merged, "make_checkpoint", make)
    return folders


def test_other_weights_in_the_same_place_are_merged_anew(tmp_path: Path, made: list[Path]) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
        write_json(folder / "config.json", {})
    (base / "model.safetensors").write_bytes(b"one")
    (adapter / "adapter_model.safetensors").write_bytes(b"one")

    def folder(quantization: str = "none") -> Path:
        return merged_folder(str(base), "main", adapter, quantization, "float32")

    first = folder()
    assert folder() == first and made == [first]
    (adapter / "adapter_model.safetensors").write_bytes(b"two")
    second = folder()
    (base / "model.safetensors").write_bytes(b"three")
    assert len({first, second, folder(), folder("nf4")}) == 4


def test_a_damaged_one_is_made_again(tmp_path: Path, made: list[Path]) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"one")
    folder = merged_folder(str(base), "main", None, "none", "float32")
    (folder / "weights").write_bytes(b"x")
    seal_folder(folder)
    assert merged_folder(str(base), "main", None, "none", "float32") == folder and len(made) == 1
    (folder / "weights").write_bytes(b"yy")
    merged_folder(str(base), "main", None, "none", "float32")
    assert made == [folder, folder]
