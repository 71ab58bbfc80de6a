"""Only template files leave the archive, and only to where they belong."""

import io
import tarfile
from pathlib import Path

import pytest

from bonito.templating.fetch_templates import extract, main
from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w:gz") as members:
        for name in names:
            content = b"templates: {}\n"
            member = tarfile.TarInfo(name)
            member.size = len(content)
            members.addfile(member, io.BytesIO(content))
    return path


def test_only_wanted_templates_are_taken(tmp_path: Path) -> None:
    root = "promptsource-0.2.3/promptsource"
    packed = archive(
        tmp_path / "a.tar.gz",
        f"{root}/templates/toy/templates.yaml",
        f"{root}/templates/toy/small/templates.yaml",
        f"{root}/templates/other/templates.yaml",
        f"{root}/templates/../../evil/templates.yaml",
        f"{root}/templates/toy/setup.py",
        "promptsource-0.2.3/setup.py",
        "/promptsource/templates/toy/templates.yaml",
    )
    number = extract(packed, tmp_path / "out", {("toy", ""), ("toy", "small")}, sha256_file(packed))
    assert number == 2
    assert sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")
    ) == [
        "toy/small/templates.yaml",
        "toy/templates.yaml",
    ]
    assert extract(packed, tmp_path / "all", None, sha256_file(packed)) == 3


def test_templates_of_ones_own_are_not_lost(tmp_path: Path) -> None:
    packed = archive(
        tmp_path / "a.tar.gz", "promptsource-0.2.3/promptsource/templates/toy/templates.yaml"
    )
    out = tmp_path / "out"
    assert extract(packed, out, None, sha256_file(packed)) == 1
    assert extract(packed, out, None, sha256_file(packed)) == 1
    (out / "harbours").mkdir()
    (out / "harbours/templates.yaml").write_text("years of work")
    with pytest.raises(PipelineError, match=r"harbours/templates.yaml .* would be lost"):
        extract(packed, out, None, sha256_file(packed))
    assert (out / "harbours/templates.yaml").read_text() == "years of work"


def test_another_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="has another SHA-256 than"):
        extract(archive(tmp_path / "a.tar.gz", "x"), tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["--out", str(tmp_path)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
