"""A small pipeline whose stages run in forked children: libraries are imported once, so that a
trial costs a second and not ten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tasks.core.files import sha256_file
from tasks.core.overlay import overlay
from tasks.core.yaml_file import read_yaml
from tests.faults import moments

ROOT = Path(__file__).resolve().parents[2]
#: The system's folder for temporary files, of a trial's processes.
TEMPORARY = "temporary"
STAGES = (
    "ingest",
    "generate",
    "validate",
    "verify",
    "supervise",
    "finetune",
    "baseline",
    "evaluate",
    "register",
)
#: What each stage reads, as ``dvc.yaml`` gives it.
INPUTS: dict[str, dict[str, str]] = {
    "ingest": {"corpus": "corpus", "items": "items.jsonl"},
    "generate": {"passages": "artifacts/ingest/passages.parquet"},
    "validate": {"predictions": "artifacts/generate/predictions.parquet"},
    "verify": {
        "passages": "artifacts/ingest/passages.parquet",
        "predictions": "artifacts/generate/predictions.parquet",
        "instructions": "artifacts/validate/instructions.parquet",
        "quarantine": "artifacts/validate/quarantine.parquet",
        "tests": "supervision/none",
        "reviews": "supervision/none",
    },
    "supervise": {
        "passages": "artifacts/ingest/passages.parquet",
        "instructions": "artifacts/verify/instructions.parquet",
        "rows": "supervision/none",
        "items": "items.jsonl",
        "reviews": "supervision/none",
    },
    "finetune": {
        "instructions": "artifacts/supervise/instructions.parquet",
        "start": "supervision/none",
    },
    "baseline": {
        "items": "items.jsonl",
        "general": "supervision/none",
        "start": "supervision/none",
    },
    "evaluate": {
        "adapter": "artifacts/finetune",
        "baseline": "artifacts/baseline",
        "passages": "artifacts/ingest/passages.parquet",
        "instructions": "artifacts/supervise/instructions.parquet",
        "heldout": "artifacts/supervise/heldout.parquet",
        "items": "items.jsonl",
        "general": "supervision/none",
        "start": "supervision/none",
    },
    "register": {
        "ingest": "artifacts/ingest/summary.json",
        "generate": "artifacts/generate/summary.json",
        "validate": "artifacts/validate",
        "verify": "artifacts/verify",
        "supervise": "artifacts/supervise",
        "finetune": "artifacts/finetune",
        "evaluate": "artifacts/evaluate",
    },
}
_PARTS = ("seal", "bearing", "valve", "relay", "filter", "gauge", "hatch", "cable")
_PATIENCE = 900.0


@dataclass
class World:
    """A folder with an undisturbed run of every stage, against which disturbed ones are held."""

    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    _moments: dict[str, int] = field(default_factory=dict)
    _count: int = 0
    _shared: dict[str, tuple[Any, Callable[[Any], None]]] = field(default_factory=dict)

    @property
    def branches(self) -> Path:
        """The file of the recovery branches that were entered (:mod:`tests.faults.sometimes`)."""
        return self.folder / "branches"

    @property
    def reference(self) -> Path:
        return self.folder / "reference"

    def prepare(self) -> None:
        """Make corpus, items, model and an empty MLflow store."""
        from tests.conftest import make_tiny_model

        make_tiny_model(self.folder / "model")
        _write_inputs(self.reference, self.folder / "model")
        self._make_empty_store()

    def build(self, quick: bool = False) -> None:
        """Make all of it and the undisturbed run; ``quick``: only of what comes before
        registering.
        """
        self.prepare()
        for stage in STAGES[: -1 if quick else None]:
            self.run_undisturbed(stage)

    def run_undisturbed(self, stage: str) -> None:
        """Run a stage in the reference: its seconds, its moments and its output's digest."""
        tally, out = self.folder / f"moments-{stage}", self.reference / "artifacts" / stage
        tally.unlink(missing_ok=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copy(self.folder / "empty.db", self.reference / "mlflow.db")
        started = time.monotonic()
        status = run(self.reference, stage, before=moments.tally(tally))
        self.seconds[stage] = time.monotonic() - started
        if status:
            raise AssertionError(
                f"the undisturbed {stage} ends with {status}:\n{log_of(self.reference)}"
            )
        shutil.rmtree(self.reference / ".work" / stage)
        self._moments[stage] = tally.stat().st_size
        self.digests[stage] = digest(out)

    def moments(self, stage: str) -> int:
        """Return how many moments the undisturbed stage has (:mod:`tests.faults.moments`)."""
        return self._moments[stage]

    def draw_moment(self, stage: str, chance: Random) -> int:
        """Return the number of a moment of the undisturbed stage. Every second one is in its last
        fifth: there its output takes its place, and register has logged a model and registered a
        version, which may not be done twice.
        """
        count = self.moments(stage)
        return chance.randrange(count * 4 // 5 if chance.random() < 0.5 else 0, count)

    def shared(self, name: str, make: Callable[[], Any], end: Callable[[Any], None]) -> Any:
        """Return what several trials use, made at the first call; :meth:`close` ends it."""
        if name not in self._shared:
            self._shared[name] = (make(), end)
        return self._shared[name][0]

    def close(self) -> None:
        """End what the trials shared."""
        for thing, end in self._shared.values():
            end(thing)

    def _make_empty_store(self) -> None:
        if made := os.environ.get("FAULT_STORE"):
            shutil.copy(made, self.folder / "empty.db")
            return

        def create() -> int:
            import mlflow

            mlflow.MlflowClient(f"sqlite:///{self.folder / 'empty.db'}").search_experiments()
            return 0

        assert wait(fork(self.folder, create, {})) == 0

    def trial(self, stage: str) -> Path:
        """Return a fresh folder in which ``stage`` can run: its inputs, its parameters, an empty
        MLflow store.
        """
        self._count += 1
        folder = self.folder / f"trial-{self._count}"
        fill(folder, self.reference, self.folder / "empty.db", stage)
        return folder

    def is_as_undisturbed(self, folder: Path, stage: str) -> str:
        """Return an empty string, or how the stage's output differs from the undisturbed one's, or
        which temporary files are left.
        """
        found = folder / "artifacts" / stage
        left = [path for path in folder.glob(f"{TEMPORARY}/*") if not _is_probe(path)]
        if left:
            return f"temporary files are left: {sorted(path.name for path in left)}"
        if stage == "register":
            return _ledger_fault(folder)
        if not found.is_dir():
            return "no output"
        if digest(found) == self.digests[stage]:
            return ""
        want, have = (contents(place) for place in (self.reference / "artifacts" / stage, found))
        return (
            "differs in "
            f"{sorted(name for name in want.keys() | have.keys() if want.get(name) != have.get(name))}"
        )


def _is_probe(path: Path) -> bool:
    """Tell whether a file is the one by which Python's tempfile finds a folder that it may write
    to: four bytes, removed at once.
    """
    probe = re.fullmatch(r"[a-z0-9_]{8}", path.name) and path.is_file()
    return bool(probe) and path.read_bytes() in (b"", b"blat")


def fill(folder: Path, reference: Path, store: Path, stage: str) -> None:
    """Copy what ``stage`` needs into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "items.jsonl", "dataset.yaml"):
        shutil.copy(reference / name, folder / name)
    shutil.copytree(reference / "supervision", folder / "supervision")
    if stage == "ingest":
        shutil.copytree(reference / "corpus", folder / "corpus")
    shutil.copy(store, folder / "mlflow.db")
    for path in {
        path.split("/")[1] for path in INPUTS[stage].values() if path.startswith("artifacts/")
    }:
        shutil.copytree(reference / "artifacts" / path, folder / "artifacts" / path)


def _write_inputs(folder: Path, model: Path) -> None:
    (folder / "corpus").mkdir(parents=True)
    shutil.copytree(ROOT / "supervision", folder / "supervision")
    for number in range(12):
        part = _PARTS[number % 8]
        text = (
            f"Pump {number} at site {number} stopped because its {part} broke.\n\nCrew "
            f"{number} replaced the {part} of unit {number * 7} within {number + 2} hours."
        )
        (folder / f"corpus/report-{number}.md").write_text(text)
    items = [
        {
            "id": str(n),
            "context": f"Line {n} failed: its {p} broke.",
            "question": "What broke?",
            "answers": [f"its {p}"],
        }
        for n, p in enumerate(_PARTS)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    shutil.copy(ROOT / "datasets" / "incidents.yaml", folder / "dataset.yaml")
    settings: dict[str, Any] = {
        "ingest": {
            "corpus": "corpus",
            "passage_tokens": 90,
            "min_tokens": 5,
            "near_duplicates": 0.0,
            "workers": 1,
            "file_seconds": 120.0,  # here, as some faults replace these three
            "file_total_seconds": 1200.0,
            "max_file_mb": 256,
        },
        "generate": {"generator": str(model), "samples": 1, "shard_rows": 4},
        "verify": {
            "reader": str(model),
            "engine": "transformers",
            "answers": 2,
            "shard_rows": 4,
        },
        "finetune": {
            "model": str(model),
            "start": "supervision/none",
            "restart": "supervision/none",
            "max_steps": 12,
            "epochs": 20.0,
            "batch_rows": 4,
            "micro_batch_rows": 4,
            "precision": "float32",
            "checkpoint_steps": 3,
        },
        "evaluate": {
            "dataset": "dataset.yaml",
            "items": "items.jsonl",
            "templates": 1,
            "engine": "transformers",
            "max_new_tokens": 8,
            "bootstrap": 100,
        },
    }
    (folder / "params.yaml").write_text(
        yaml.safe_dump(overlay(read_yaml(ROOT / "params.yaml"), settings))
    )


def run(
    folder: Path,
    stage: str,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> int:
    """Run a stage in ``folder`` to its end and return its exit status; its output goes to
    ``folder/log``.
    """
    return wait(start(folder, stage, environment, before))


def start(
    folder: Path,
    stage: str,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
    parent: bool = False,
) -> int:
    """Start a stage in a process group of its own and return its pid; with ``parent`` that of a
    process that stands for DVC above it.
    """

    def work() -> int:
        import tasks.generate.shards

        tasks.generate.shards.open_engine = rule_engine  # type: ignore[assignment]
        if before:
            before()
        module = sys.modules[f"tasks.{stage}.stage"]
        arguments = [word for name, path in INPUTS[stage].items() for word in (f"--{name}", path)]
        return int(
            module.main(["--params", "params.yaml", "--out", f"artifacts/{stage}", *arguments])
        )

    def as_dvc() -> int:
        return wait(fork(folder, work, {}, group=False))

    (folder / TEMPORARY).mkdir(exist_ok=True)
    given = {
        "BONITO_CACHE": str(folder / "cache"),
        "TMPDIR": str(folder / TEMPORARY),
        "FAULT_TRIAL": str(folder),
        "DVC_ROOT": str(folder),
        **(environment or {}),
    }
    return fork(folder, as_dvc if parent else work, given)


def fork(
    folder: Path, work: Callable[[], int], environment: dict[str, str], group: bool = True
) -> int:
    """Run ``work`` in a child whose working folder is ``folder``; return its pid."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if group:
            os.setpgid(0, 0)
        os.chdir(folder)
        os.environ.update(environment)
        tempfile.tempdir = environment.get("TMPDIR")  # the parent's choice is remembered otherwise
        if "TZ" in environment:
            time.tzset()
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.argv = ["stage"]
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(pid: int, patience: float = _PATIENCE) -> int:
    """Return the exit status of a child, negative for a signal; a child that hangs is killed and
    counts as -99.
    """
    deadline = time.monotonic() + patience
    pause = 0.001
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return -99
        time.sleep(pause := min(pause * 1.5, 0.05))


class rule_engine:
    """Asks for the third to fifth word of the passage it finds in the prompt; every fifth passage
    gets an answer that cannot be parsed.
    """

    def __init__(self, kind: str, model: Any, *_: Any, **__: Any) -> None:
        from tasks.lm.tokenizers import load_tokenizer

        self.tokenizer = load_tokenizer(str(model))

    def generate(self, prompts: Any, sampling: Any, seeds: Any, on_done: Any) -> list[Any]:
        """One line a batch in ``batches``: what was done can be counted."""
        with open("batches", "a") as batches:
            batches.write(f"{len(prompts)}\n")
        time.sleep(0.02)
        return [self._complete(self.tokenizer.decode(prompt)) for prompt in prompts]

    def _complete(self, prompt: str) -> Any:
        from tasks.lm.engine import Completion

        words = prompt.partition("<|context|>\n")[2].partition("\n<|task|>")[0].split()
        text = (
            f"{{{{context}}}}\n\nQuestion: What stands behind the opening of this "
            f"passage?\n<|pipe|>\n{' '.join(words[2:5])}"
        )
        return Completion("no mark" if len(words) % 5 == 0 else text, len(words), True)


def contents(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below ``folder``."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest(folder: Path) -> str:
    """Return one SHA-256 over names and bytes of everything below ``folder``."""
    return hashlib.sha256(json.dumps(contents(folder), sort_keys=True).encode()).hexdigest()


def orphans(folder: Path) -> Iterator[int]:
    """Yield the processes that still work for the trial in ``folder``."""
    mark = f"FAULT_TRIAL={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("stat").read_text().rpartition(")")[2].split()[0] in "ZX":
                continue
            if (process / "cwd").readlink() == folder or mark in (
                process / "environ"
            ).read_bytes().split(b"\0"):
                yield int(process.name)
        except OSError:
            continue


def none_left(folder: Path, patience: float = 5.0) -> bool:
    """Tell whether no process works for the trial, now or within ``patience`` seconds."""
    deadline = time.monotonic() + patience
    while any(True for _ in orphans(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def log_of(folder: Path) -> str:
    """Return what the trial's stages have printed."""
    path = folder / "log"
    return path.read_text(errors="replace") if path.exists() else ""


def finish(world: World, folder: Path, name: str) -> str:
    """Run the stage to its end; return what is wrong, or an empty string."""
    if status := run(folder, name):
        return f"the last run ends with {status}: {log_of(folder)[-300:]}"
    return world.is_as_undisturbed(folder, name)


def done(folder: Path, said: str) -> str:
    """Remove a trial's folder where nothing is wrong; return ``said``."""
    if not said:
        shutil.rmtree(folder)
    return said


def _ledger_fault(folder: Path) -> str:
    """Return an empty string where MLflow holds one finished run with its scores and one registered
    version, else what is wrong.
    """

    def look() -> int:
        import mlflow

        client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        said = json.loads((folder / "artifacts/register/registration.json").read_text())
        runs = client.search_runs([client.get_experiment_by_name(said["experiment"]).experiment_id])
        versions = client.search_model_versions(f"name = '{said['model_name']}'")
        files = {file.path for file in client.list_artifacts(said["run_id"], "evaluation")}
        faults = [
            len(runs) != 1 and f"{len(runs)} runs",
            any(run.info.status != "FINISHED" for run in runs) and "a run is not finished",
            len(versions) != 1 and f"{len(versions)} versions",
            not any(name.startswith("f1/") for name in runs[0].data.metrics) and "no F1",
            not {"evaluation/scores.json", "evaluation/predictions.parquet"} <= files
            and "artifacts are missing",
            str(client.get_model_version_by_alias(said["model_name"], said["alias"]).version)
            != said["version"]
            and "the alias points elsewhere",
        ]
        (folder / "ledger").write_text("; ".join(str(fault) for fault in faults if fault))
        return 0

    if not (folder / "artifacts/register/registration.json").is_file():
        return "no output"
    status = wait(fork(folder, look, {}))
    return (
        (folder / "ledger").read_text()
        if status == 0
        else f"the ledger cannot be read: {log_of(folder)[-300:]}"
    )
