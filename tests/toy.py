"""A small pipeline in a repository of its own: the real flow, DVC, git and stage machinery around
three stages that take milliseconds.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import yaml

from tasks.core.overlay import overlay
from tasks.core.setting_paths import NOTHING
from tasks.core.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[1]

#: Packages of ``tasks`` that the toy replaces by its own.
STAGES = ("ingest", "generate", "validate")
_STAGE = '''
"""A stage of the toy pipeline."""
import os, sys, time
from pathlib import Path
from tasks.core.errors import PipelineError
from tasks.core.files import write_json, write_text
from tasks.core.stage import Stage, run_stage

def show_sample(stage: Stage) -> None:
    if stage.name == "generate":  # as tasks/generate/stage.py writes it
        fields = {{"task_type": "exqa", "context": "<b>A text.</b>", "prediction": "What? That.", "parsed": True, "rows": 1}}
        write_json(stage.work / "sample.json", fields)

def work(stage: Stage) -> None:
    meter = stage.progress(3, "rows")
    if os.environ.get("TOY_HANG") == stage.name:
        meter.advance(1)
        show_sample(stage)
        write_text(Path(".work") / "hanging", str(os.getpid()))
        while not (Path(".work") / "go").exists():
            time.sleep(0.05)
    if stage.params.generate.seed == 13 and stage.name == "generate":
        raise PipelineError("seed 13 is bad luck: take another")
    if stage.params.generate.seed == 14 and stage.name == "generate":
        raise ValueError("a bug")
    meter.advance(3)
    show_sample(stage)
    stage.summary(5, 3, {{"too_short": 2}})
    if stage.name == "generate":
        write_json(stage.out / "metrics.json", {{"temperature": stage.params.generate.temperature}})

if __name__ == "__main__":
    sys.exit(run_stage("{name}", work, {inputs}))
'''

#: A path that the user chooses is read from the parameters, as the real stages do.
_FROM_PARAMS = 'inputs=[], settings={"source": "ingest.corpus"}'

_GRAPH = """
stages:
  ingest:
    cmd: python -m tasks.ingest --params params.yaml --out artifacts/ingest
    deps: [tasks/ingest, "${ingest.corpus}"]
    params: [ingest]
    outs: [artifacts/ingest]
  generate:
    cmd: python -m tasks.generate --params params.yaml --source artifacts/ingest --out artifacts/generate
    deps: [tasks/generate, artifacts/ingest]
    params: [generate]
    outs: [artifacts/generate]
  validate:
    cmd: python -m tasks.validate --params params.yaml --source artifacts/generate --out artifacts/validate
    deps: [tasks/validate, artifacts/generate]
    params: [validate]
    outs: [artifacts/validate]
metrics:
  - artifacts/generate/metrics.json
"""


def make_toy(folder: Path) -> Path:
    """Make the repository in ``folder`` with one commit, and return its root."""
    shutil.copytree(_first_toy(), folder, symlinks=True)
    git(folder, "update-index", "-q", "--refresh")  # the copies have other times than git noted
    return folder


@cache
def _first_toy() -> Path:
    """The repository that the others are copies of: to make one takes seconds."""
    scratch = tempfile.mkdtemp(prefix="toy-")
    atexit.register(shutil.rmtree, scratch, ignore_errors=True)
    return _make_toy(Path(scratch) / "toy")


def _make_toy(folder: Path) -> Path:
    # With the bytecode, which stays valid: no process of the toy has to compile our code. Python
    # writes it under another name first, that may be gone when it is copied.
    unfinished = "*.pyc.*"
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns(unfinished))
    stages = shutil.ignore_patterns(unfinished, *STAGES)
    shutil.copytree(ROOT / "tasks", folder / "tasks", ignore=stages)
    for name in STAGES:
        inputs = _FROM_PARAMS if name == "ingest" else 'inputs=["source"]'
        write_stage(folder, name, _STAGE.format(name=name, inputs=inputs))
    for name in ("prefect.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder)
    nothing = {"verify": {"reviews": NOTHING}, "finetune": {"start": NOTHING, "restart": NOTHING}}
    settings = overlay(read_yaml(ROOT / "params.yaml"), nothing)
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    shutil.copytree(
        ROOT / ".dvc",
        folder / ".dvc",
        ignore=shutil.ignore_patterns("cache", "tmp", "config.local"),
    )
    (folder / "dvc.yaml").write_text(_GRAPH)
    # The generator's graph stands in every checkout, nearly always with nothing made of it: DVC
    # must not stumble over it.
    (folder / "bonito").mkdir()
    shutil.copy(ROOT / "bonito" / "dvc.yaml", folder / "bonito")
    for name in (
        "data/incidents/documents/a.txt",
        "data/incidents/evaluation.jsonl",
        "datasets/incidents.yaml",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text\n")
    shutil.copytree(ROOT / "supervision", folder / "supervision")
    (folder / "profiles").mkdir()
    (folder / "profiles" / "warm.yaml").write_text("generate: {temperature: 0.9}\n")
    for command in (
        ["git", "init", "-q"],
        [sys.executable, "-m", "dvc", "add", "-q", "data"],
        ["git", "add", "-A"],
        ["git", "commit", "-q", "-m", "toy"],
    ):
        subprocess.run(
            command, cwd=folder, check=True, env=environment(folder), capture_output=True
        )
    return folder


def write_stage(root: Path, name: str, code: str) -> None:
    """Write a package of ``tasks`` that is run as ``python -m tasks.<name>``."""
    package = root / "tasks" / name
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(code)


def environment(folder: Path) -> dict[str, str]:
    """Return an environment that reads nothing of the user's: home, git identity, Prefect and
    MLflow settings.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT", "MLFLOW", "GIT_", "DVC_"))
    }
    who = {
        f"GIT_{role}_{what}": "toy"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    here = {"HOME": str(folder.parent), "DVC_SITE_CACHE_DIR": str(folder.parent / "dvc")}
    return {**kept, **who, **here}


def dvc(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run DVC in the toy repository, with the stages' Python first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=root,
        env={**environment(root), "PATH": path, **more},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )


def pipeline(root: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m flows.pipeline`` in the toy repository, as ``make run`` does."""
    command = [sys.executable, "-m", "flows.pipeline", *arguments]
    return subprocess.run(
        command,
        cwd=root,
        env={**environment(root), **more},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def git(root: Path, *arguments: str) -> str:
    """Run git in a toy repository; return what it prints."""
    return subprocess.run(
        ["git", "-C", str(root), *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment(root),
    ).stdout
