"""Get promptsource's templates: ``python -m bonito.templating.fetch_templates --out FOLDER``.

The public package promptsource 0.2.3 (Apache-2.0) has them in its source archive, and needs an
older Python. pip downloads the archive and checks its SHA-256. Only its YAML files are taken; none
of its code is run, not even ``setup.py``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from bonito.sources import load_datasets
from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file, staged_folder
from tasks.core.stage import one_line_errors

VERSION = "0.2.3"
SHA256 = "f106c889778a0fe5590e7183904bf964e1a01691c8a29451e44f3df5ddef05f5"

#: pip asks a source archive's build backend for metadata before it delivers the archive. This
#: backend shadows the archive's and answers instead.
_BACKEND = f"""
import os

class _Answer:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        name = "promptsource-{VERSION}.dist-info"
        os.makedirs(os.path.join(metadata_directory, name))
        metadata = os.path.join(metadata_directory, name, "METADATA")
        with open(metadata, "w", encoding="utf-8") as handle:
            handle.write("Metadata-Version: 2.1\\nName: promptsource\\nVersion: {VERSION}\\n")
        return name

__legacy__ = _Answer()
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``<dataset>/[<config>/]templates.yaml`` for the known datasets; return 0, or 2 after an
    error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bonito.templating.fetch_templates",
        allow_abbrev=False,
        description=__doc__.split("\n")[0],
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder to write; an existing one is replaced if it only holds such templates",
    )
    parser.add_argument(
        "--datasets",
        type=Path,
        default=Path("bonito/datasets.yaml"),
        help="datasets file with the configurations to take",
    )
    parser.add_argument("--all", action="store_true", help="take every dataset of promptsource")
    parser.add_argument(
        "--archive",
        type=Path,
        help=f"a local promptsource-{VERSION}.tar.gz, instead of a download",
    )
    arguments = parser.parse_args(argv)
    with one_line_errors("fetch_templates"), tempfile.TemporaryDirectory() as scratch:
        _refuse_to_replace(arguments.out)
        archive = arguments.archive or download(Path(scratch))
        number = extract(
            archive,
            arguments.out,
            None if arguments.all else set(load_datasets([arguments.datasets])),
        )
        print(f"{number} templates.yaml in {arguments.out}")
        return 0
    return 2


def download(folder: Path) -> Path:
    """Let pip download the archive into ``folder``, from the index of pip's own settings."""
    backend = folder / "backend" / "setuptools"
    backend.mkdir(parents=True)
    (backend / "__init__.py").write_text("", encoding="utf-8")
    (backend / "build_meta.py").write_text(_BACKEND, encoding="utf-8")
    wanted = folder / "wanted.txt"
    wanted.write_text(f"promptsource=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary"]
    command += [":all:", "--no-build-isolation", "--ignore-requires-python"]
    environment = os.environ | {
        "PYTHONPATH": str(backend.parent),
        "PIP_USE_PEP517": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    done = subprocess.run(
        [*command, "--dest", str(folder), "--requirement", str(wanted)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    archive = folder / f"promptsource-{VERSION}.tar.gz"
    if done.returncode or not archive.exists():
        why = done.stderr.strip().splitlines()
        raise PipelineError(
            f"pip could not download promptsource {VERSION}: "
            f"{why[-1] if why else 'no reason given'}. Offline, pass the archive with --archive"
        )
    return archive


def extract(
    archive: Path, out: Path, wanted: Collection[tuple[str, str]] | None, sha256: str = SHA256
) -> int:
    """Write the template files of the ``wanted`` (dataset, config), None: all, below ``out``, whole
    or not at all; return their number.
    """
    if not archive.exists():
        raise PipelineError(f"{archive} does not exist")
    if sha256_file(archive) != sha256:
        raise PipelineError(
            f"{archive} has another SHA-256 than {sha256}: download promptsource {VERSION} again"
        )
    number = 0
    with (
        tarfile.open(archive) as members,
        staged_folder(out, out.with_name(f".{out.name}.partial")) as staged,
    ):
        for member in members:
            place = _place(member.name)
            if place is None or (wanted is not None and place not in wanted):
                continue
            stream = members.extractfile(member) if member.isfile() else None
            if stream is not None:
                target = staged.joinpath(*filter(None, place), "templates.yaml")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())
                number += 1
        for path in sorted(out.rglob("templates.yaml")):
            if not (staged / path.relative_to(out)).exists():
                raise PipelineError(
                    f"{path} is none of the templates to fetch, and would be lost: choose another "
                    "folder, and copy it there afterwards"
                )
    return number


def _place(name: str) -> tuple[str, str] | None:
    """Return the (dataset, config) of a member of the archive; None if it is no template file, or
    its path leaves the templates folder.
    """
    parts = PurePosixPath(name).parts
    if (
        parts[:3] != (f"promptsource-{VERSION}", "promptsource", "templates")
        or parts[-1] != "templates.yaml"
        or ".." in parts
        or len(parts) not in (5, 6)
    ):
        return None
    return parts[3], parts[4] if len(parts) == 6 else ""


def _refuse_to_replace(out: Path) -> None:
    strangers = (
        [path for path in out.rglob("*") if path.is_file() and path.name != "templates.yaml"]
        if out.exists()
        else []
    )
    if strangers:
        raise PipelineError(
            f"{out} holds other files than templates ({strangers[0].name}): choose another folder"
        )


if __name__ == "__main__":
    raise SystemExit(main())
