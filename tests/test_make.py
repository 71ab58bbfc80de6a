"""What a user gives make reaches the program whole, and neither make nor a shell runs any of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.errors import PipelineError
from tasks.core.overlay import split_settings
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT

#: Each part would make the file ``run``: a shell's ways, and make's own.
_EVIL = "a b`touch run`$(touch run)$(shell touch run);touch run'\"|touch run&#*"
#: Target, and the variables whose values its commands must get.
_TARGETS = {
    "run": ("PROFILE", "SET"),
    "ingest": ("CORPUS", "EVALUATION", "PROFILE", "SET"),
    "matrix": ("MATRIX",),
    "ui": ("PREFECT_PORT", "MLFLOW_PORT", "RUNS"),
    "serve": ("MODEL", "SERVE_PORT"),
    "ask": ("PROFILE", "MODEL", "ASK_PORT"),
    "export": ("MODEL", "OUT"),
    "push": ("MODEL", "REPO", "YES"),
    "prune": ("DAYS", "YES"),
    "soak": ("TRIALS", "JOBS", "MINUTES", "FAULT"),
    "soak-eye": ("FAULT",),
    "bench": ("BENCH", "ROUNDS", "MODEL", "SIZE"),
    "gpu-check": ("SHAPE",),
    "doctor": ("TEMPLATES", "SOURCES", "BONITO_PARAMS"),
    "bonito": ("PROFILE", "SET"),
    "answering": ("SET",),
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with ``place``, whose ``python`` and ``dvc`` write down what they are given."""
    (tmp_path / "place/bin").mkdir(parents=True)
    for name in ("python", "dvc"):
        program = tmp_path / "place/bin" / name
        program.write_text(
            f"#!{sys.executable}\nimport json, sys\n"
            f"print(json.dumps([{name!r}, *sys.argv[1:]]), file=open({str(tmp_path / 'told')!r}, 'a'))\n"
        )
        program.chmod(0o755)
    return tmp_path


def _make(programs: Path, target: str, values: dict[str, str], given: str) -> list[str]:
    """Run make in an empty folder; return all that its programs got."""
    place = programs / "place"
    (place / "local/templates").mkdir(parents=True, exist_ok=True)
    (place / "local/sources.yaml").touch()
    told = programs / "told"
    told.unlink(missing_ok=True)
    words = [f"{name}={value}" for name, value in values.items()] if given == "argument" else []
    clean = {name: value for name, value in os.environ.items() if name not in _ALL}
    done = subprocess.run(
        ["make", "-f", str(ROOT / "Makefile"), "-o", "setup", "BIN=bin", target, *words],
        cwd=place,
        env=clean | ({} if words else values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (place / "run").exists(), "part of a value was run"
    return [word for line in told.read_text().splitlines() for word in json.loads(line)]


_ALL = {name for names in _TARGETS.values() for name in names}


@pytest.mark.parametrize("given", ["argument", "environment"])
@pytest.mark.parametrize("target", _TARGETS)
def test_values_reach_the_program_and_nothing_runs_them(
    programs: Path, target: str, given: str
) -> None:
    values = dict.fromkeys(_TARGETS[target], _EVIL)
    told = _make(programs, target, values, given)
    got = sum(word == _EVIL or word.endswith(f"={_EVIL}") for word in told)
    assert got == len(values), told


def test_settings_with_spaces_stay_whole(programs: Path) -> None:
    told = _make(programs, "run", {"SET": "a.b=c d.e='f g'"}, "argument")
    assert told[-1] == "--settings=a.b=c d.e='f g'"
    assert split_settings("a.b=c d.e='f g'") == ["a.b=c", "d.e=f g"]
    assert split_settings("generate.task_types=[exqa,ynqa]") == ["generate.task_types=[exqa,ynqa]"]
    assert split_settings("") == []
    lists = ["generate.task_types=[exqa, ynqa]", "finetune.mixture={exqa: 2, a: {b: 3}}", "a.b=1"]
    assert split_settings(" ".join(lists)) == lists
    assert split_settings("a.b=[1 c.d=2") == ["a.b=[1", "c.d=2"]
    with pytest.raises(PipelineError, match="cannot be split into words: No closing quotation"):
        split_settings("a.b='c")


@pytest.mark.parametrize(
    ("cache", "place"),
    [("/mnt/my disk/c", "/mnt/my disk/c/dvc"), ("my cache", "{here}/my cache/dvc")],
)
def test_a_cache_may_have_a_blank_in_its_name(tmp_path: Path, cache: str, place: str) -> None:
    show = ["--eval", 'show: ; @echo "$$DVC_SITE_CACHE_DIR"', "show", f"BONITO_CACHE={cache}"]
    clean = {name: text for name, text in os.environ.items() if name != "DVC_SITE_CACHE_DIR"}
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), *show]
    told = subprocess.run(
        command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == place.format(here=tmp_path)


@pytest.mark.parametrize("variable", ["PROFIL", "profile", "HF_HUB_OFFLINE"])
def test_an_unknown_variable_is_refused(programs: Path, variable: str) -> None:
    """Ignored, a misspelt PROFILE would run the shipped example."""
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "setup", "BIN=bin", "run"]
    place = programs / "place"

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name != "PROFILE"}
        return subprocess.run(
            [*command, *words],
            cwd=place,
            env=clean | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    refused = run(f"{variable}=mine")
    assert refused.returncode == 2 and f"unknown variable {variable}:" in refused.stderr
    assert not (programs / "told").exists(), "a program was started"
    assert run(**{variable: "mine"}).returncode == 0, "the environment may hold anything"


@pytest.mark.parametrize(
    ("target", "variable", "said"),
    [
        ("repro", "PROFILE", "make repro runs params.yaml alone"),
        ("repro", "SET", "make repro runs params.yaml alone"),
        ("publish", "PROFILE", "make publish knows the run of params.yaml alone"),
        ("publish", "SET", "make publish knows the run of params.yaml alone"),
        ("matrix", "PROFILE", "make matrix takes its settings from the matrix file alone"),
        ("matrix", "SET", "make matrix takes its settings from the matrix file alone"),
        ("answering", "PROFILE", "make answering takes no PROFILE"),
    ],
)
def test_a_command_refuses_what_it_would_ignore(
    programs: Path, target: str, variable: str, said: str
) -> None:
    command = ["make", "-f", str(ROOT / "Makefile"), "BIN=bin"]
    for made in ("setup", "data", "annotated"):
        command += ["-o", made]
    done = subprocess.run(
        [*command, target, f"{variable}=a.b=1"],
        cwd=programs / "place",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and said in done.stderr
    assert not (programs / "told").exists()


@pytest.mark.parametrize(("there", "status"), [(True, 0), (False, 2)])
def test_data_that_was_edited_stay_and_missing_ones_are_an_error(
    programs: Path, there: bool, status: int
) -> None:
    """DVC refuses to replace the edits, and its advice, --force, would delete them."""
    place = programs / "place"
    (place / "bin/dvc").write_text("#!/bin/sh\ntest $1 = pull && echo 'Use --force' >&2\nexit 1\n")
    if there:
        (place / "data").mkdir()
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "setup", "BIN=bin", "data"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("data/ differs from data.dvc, and stays" in done.stdout) == there
    assert ("--force" in done.stderr) != there


def test_data_that_dvc_cannot_look_at_are_not_said_to_differ(programs: Path) -> None:
    """Another run held DVC's lock: status and pull ended with 255."""
    place = programs / "place"
    (place / "bin/dvc").write_text("#!/bin/sh\nexit 255\n")
    (place / "data").mkdir()
    command = ["make", "-f", str(ROOT / "Makefile"), "-o", "setup", "BIN=bin", "data"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "DVC cannot compare it with data.dvc now" in done.stdout
    assert "differs" not in done.stdout


def test_no_recipe_pastes_a_value() -> None:
    """``$(if $(NAME),...)`` only asks whether there is one."""
    text = (ROOT / "Makefile").read_text()
    recipes = [line for line in text.splitlines() if line.startswith("\t")]
    for name in _ALL:
        for line in recipes:
            pasted = line.replace(f"$(filter-out default,$({name}))", "")
            assert f"$({name})" not in pasted, line


def test_what_is_published_is_what_dvc_compares() -> None:
    """Else `dvc metrics diff` warns in a fresh clone, and a column stays empty there."""
    graph = read_yaml(ROOT / "dvc.yaml")
    compared = {*graph["metrics"], *(name for plot in graph["plots"] for name in plot)}
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (figures,) = re.findall(r"^FIGURES := (.*)$", text, re.MULTILINE)
    assert set(figures.split()) == compared


def test_a_plain_push_goes_nowhere() -> None:
    """datastore/ is in git: passages, rows and weights must not land there by default."""
    config = (ROOT / ".dvc" / "config").read_text(encoding="utf-8")
    assert "remote = " not in config.replace("'remote ", "")
    assert read_yaml(ROOT / "data.dvc")["outs"][0]["remote"] == "datastore"


def test_the_list_of_commands_names_every_variable() -> None:
    """The refusal of an unknown variable sends people there."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    (values,) = re.findall(r"^VALUES := (.*)$", text, re.MULTILINE)
    told = " ".join(re.findall(r"^[a-z-]+:.*## (.*)", text, re.MULTILINE))
    assert sorted({*values.split()} - {*re.findall(r"[A-Z_]+", told)}) == []
