"""Write the parameters of a generator's training.

``python -m bonito.settings --profile embedded [--set finetune.seed=2 ...] [--out FILE]``

A profile overlays ``bonito/params.yaml`` (the paper's settings), single settings overlay both.
Profiles: ``embedded`` (two CPU cores), ``mistral-7b`` and ``llama-3.1-8b`` (GPUs). The result is
checked as a whole; a file whose content would not change is not written.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bonito.params import GeneratorParams
from tasks.core.digests import kept_sha256_folder
from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file, write_text
from tasks.core.overlay import parse_setting, profile_files, read_layers, split_settings
from tasks.core.params import parse_params
from tasks.core.stage import one_line_errors

_FOLDER = Path(__file__).parent
_PROFILES = _FOLDER / "profiles"
#: Settings that name a model: a name, or its folder.
_MODELS = ("model", "judge")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the merged file; return 0, or 2 for an unknown profile or setting."""
    parser = argparse.ArgumentParser(
        prog="python -m bonito.settings", allow_abbrev=False, description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "--profile",
        default="",
        help="a name such as embedded, or your own YAML file; default: the paper's settings",
    )
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--settings", default="", help="the same in one text, as make's SET")
    parser.add_argument(
        "--only", default="", metavar="SECTION", help="refuse settings of the other sections"
    )
    parser.add_argument("--out", type=Path, default=Path("bonito/artifacts/params.yaml"))
    arguments = parser.parse_args(argv)
    with one_line_errors("settings"):
        settings = [*arguments.set, *split_settings(arguments.settings)]
        if arguments.only:
            _refuse_others(settings, arguments.only)
        write_settings(merge_settings(arguments.profile, settings), arguments.out)
        print(f"wrote {arguments.out}")
        return 0
    return 2


def _refuse_others(settings: Sequence[str], section: str) -> None:
    for setting in settings:
        if parse_setting(setting)[0][0] != section:
            raise PipelineError(
                f"{setting} would have no effect: only settings of {section} are read"
            )


def write_settings(values: dict[str, Any], path: Path) -> None:
    """Write the values to a file, and each section to a file of its own beside it.

    DVC runs a stage again when the file of its section changes. That file has the digests of the
    files that the section names, since ``bonito/dvc.yaml`` cannot name them.
    """
    texts = {path: _dump(values)} | {
        path.with_suffix("") / f"{name}.yaml": _dump(section) + _digests(section or {})
        for name, section in values.items()
    }
    for file, text in texts.items():
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_text(file, text)


def _dump(part: Any) -> str:
    return yaml.safe_dump(part, sort_keys=False, allow_unicode=True)


def _digests(section: dict[str, Any]) -> str:
    """Return a comment with the digest of each file and adapter's folder that a section names, and
    of each model that it names by its folder.
    """
    files = [*section.get("datasets", []), *section.get("task_types", []), section.get("start")]
    models = [name for name in map(section.get, _MODELS) if name and Path(name).is_dir()]
    return "".join(f"# {file}: {_digest(Path(file))}\n" for file in [*files, *models] if file)


def _digest(path: Path) -> str:
    if path.is_dir():
        return kept_sha256_folder(path)
    return sha256_file(path) if path.is_file() else "missing"


def merge_settings(profile: str, settings: Sequence[str]) -> dict[str, Any]:
    """Return the checked values of ``params.yaml`` under a profile and ``section.key=value``
    settings.
    """
    is_file = profile.endswith((".yaml", ".yml"))
    files = [Path(profile)] if is_file else profile_files(_PROFILES, profile)
    values, layers = read_layers(_FOLDER / "params.yaml", files, settings)
    parse_params(values, layers, GeneratorParams, settings)
    return values


if __name__ == "__main__":
    raise SystemExit(main())
