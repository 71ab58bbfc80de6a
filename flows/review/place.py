"""Where a run's files are, and the user's files that belong to it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from flows.runs.request import make_command, plan
from flows.runs.worktree import Run, list_folders
from tasks.core import errors
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT, profile_files, split_settings
from tasks.core.params import Params, parse_params
from tasks.core.yaml_file import read_yaml
from tasks.scoring.item_page import name_answers

#: Characters of a text in a line of the terminal.
_WIDTH = 100


class Place:
    """The last run of a profile and settings: its parameters, its artifacts, the user's files in
    ``main``.
    """

    def __init__(self, main: Path, profile: str, settings: str = "") -> None:
        """``settings`` are those that the run was started with, as make's ``SET`` has them.

        Raise :class:`PipelineError` for an unknown profile or a wrong parameter.
        """
        self.main, self.profile = main, profile or DEFAULT
        self.settings = split_settings(settings)
        self.run: Run = plan(main, self.profile, self.settings)
        self.params: Params = parse_params(self.run.params, str(main / "params.yaml"))

    def artifact(self, name: str) -> Path:
        """Return a file of the run, such as ``verify/instructions.parquet``; it must exist."""
        path = self.run.path / "artifacts" / name
        if not path.is_file():
            others = "" if self.settings else ", ".join(self._runs_with_settings(name))
            also = f"; or give the SET of the run that has it: {others}" if others else ""
            raise PipelineError(f"{self.shown(path)} is missing: {self.again()} first{also}")
        return path

    def _runs_with_settings(self, name: str) -> list[str]:
        """Return the names of this profile's runs with settings of their own that have a file."""
        form = re.compile(rf"{re.escape(self.profile.replace(',', '-'))}-(.+-)?[0-9a-f]{{6}}")
        folders = list_folders(self.main)
        has = [run.name for run in folders if (run / "artifacts" / name).is_file()]
        return [run for run in has if form.fullmatch(run)]

    def user_file(self, section: str, key: str) -> Path:
        """Return the path that a setting names, seen from the main checkout."""
        return self.main / str(self.run.params[section][key])

    def need_own(self, section: str, key: str, example: str) -> None:
        """Refuse a profile that leaves a setting to params.yaml, whose file is the example's."""
        files = profile_files(self.main / "profiles", self.profile)
        if any(setting.startswith(f"{section}.{key}=") for setting in self.settings):
            return
        if files and not any(key in (read_yaml(file).get(section) or {}) for file in files):
            raise PipelineError(
                f"profile {self.profile} does not set {section}.{key}, and that of params.yaml is "
                f"the shipped example's: add {section}: {{{key}: {example}}} to it"
            )

    def command(self, target: str, **variables: str) -> str:
        """Return the make command of this profile and these settings, as typed in a shell."""
        return make_command(self.profile, self.settings, target, **variables)

    def again(self) -> str:
        """Return what starts the run again, in words."""
        return self.command("run")

    def shown(self, path: Path) -> str:
        """Return a path as a person in the main checkout would type it."""
        return str(path.relative_to(self.main) if path.is_relative_to(self.main) else path)


class FoundPlace(Place):
    """A run that is known by its answers, whatever its profile, settings and name are."""

    def __init__(self, main: Path, folder: Path, answers: str) -> None:
        """``folder`` is the run's checkout, ``answers`` what its page of evaluation names."""
        self.main, self.profile, self.settings = main, "", []
        file = folder / "params.yaml"
        self.run = Run(folder.name, main, folder, read_yaml(file))
        self.params = parse_params(self.run.params, str(file))
        self._answers = answers

    def command(self, target: str, **variables: str) -> str:
        """Return the make command for these answers."""
        return super().command(target, **{"RUN": self._answers, **variables})

    def again(self) -> str:
        """No command is known: a matrix or a form may have started it."""
        return "start that run again"


def find_places(main: Path, answers: str) -> list[Place]:
    """Return the runs that gave these answers: several, where DVC restored those of one.

    Raise :class:`PipelineError` where there is none any more.
    """
    folders = [main, *list_folders(main)]
    files = {folder: folder / "artifacts/evaluate/predictions.parquet" for folder in folders}
    found: list[Place] = [
        FoundPlace(main, folder, answers)
        for folder, file in files.items()
        if file.is_file() and name_answers(file) == answers
    ]
    if not found:
        raise PipelineError(
            f"no run here has the answers RUN={answers}: the page that names them is of an earlier "
            "run, or of a checkout that was removed; load the page of the last run again"
        )
    return found


def make_parser(module: str, description: str, port: int = 0) -> argparse.ArgumentParser:
    """Return a parser with ``--profile``, ``--settings`` and, for a server, ``--port``."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, allow_abbrev=False
    )
    parser.add_argument("--profile", default="")
    parser.add_argument("--settings", default="", help="those of the run, as make's SET")
    if port:
        parser.add_argument("--port", default=str(port))
    return parser


def say(**lines: Any) -> None:
    """Print ``name  value`` lines."""
    for name, value in lines.items():
        print(f"{name:<10}{value}", flush=True)


def one_line(value: Any, most: int = _WIDTH) -> str:
    """Return a text, or a list of texts, as one line of at most ``most`` characters and an ellipsis
    (0: all of it). Documents are hostile, so control characters go.
    """
    text = " | ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = errors.one_line(text)
    return text if not most or len(text) <= most else f"{text[:most]} ..."


def where(document: str, place: dict[str, Any] | None) -> str:
    """Return the place of a passage for a person: document, page if it has any, characters."""
    if place is None:
        return one_line(document)
    page = f", page {place['page']}" if place["page"] else ""
    return f"{one_line(document)}{page}, characters {place['start']}-{place['end']}"
