"""Which recovery branches a soak has entered: each has to be entered at least once.

The branches are lines of the product, named here. :func:`install` lets the import of their modules
put a call in front of each line, in the processes of the harness alone; the files stay as they are.
What is entered is a line of the file that ``FAULT_BRANCHES`` names: it outlives any kill.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

VARIABLE = "FAULT_BRANCHES"
_CALL = "_entered_branch"


@dataclass(frozen=True)
class Branch:
    """A branch: its name, its module, the text that it is found by (once in the file; the call goes
    where ``@@`` stands), and a condition there.
    """

    name: str
    module: str
    text: str
    when: str = "True"

    def insert(self, source: str) -> str:
        """Return the module's source with the call in it; the lines keep their numbers."""
        old, call = self.text.replace("@@", ""), f"{_CALL}({self.name!r}, {self.when}); "
        if source.count(old) != 1:
            raise ValueError(f"branch {self.name!r}: {self.module} has {old!r} not once")
        return source.replace(old, self.text.replace("@@", call))


BRANCHES = (
    Branch(
        "what a killed writer left is swept",
        "tasks.core.files",
        'folder.rglob(".*.partial"):\n        @@partial.unlink',
    ),
    Branch(
        "a half-written output is removed",
        "tasks.core.files",
        "@@shutil.rmtree(scratch, ignore_errors=True)\n    scratch.mkdir",
        "scratch.exists()",
    ),
    Branch("a new output takes an old one's place", "tasks.core.files", "@@_exchange(scratch"),
    Branch("a run waits for a lock", "tasks.core.lock", "@@time.sleep(0.1)"),
    Branch("a second run is refused", "tasks.core.lock", "@@raise LockedError(name, handle"),
    Branch("a full disk is one line", "tasks.core.stage", "@@where = getattr(error"),
    Branch("a damaged result is made again", "tasks.core.store", '@@log.warning("%s: it is made'),
    Branch(
        "a damaged input is refused",
        "tasks.core.store",
        '@@raise PipelineError(\n                f"{fault}: delete {folder}',
    ),
    Branch("a file's process has died", "tasks.core.pool", "@@worker.process.join(5)"),
    Branch("a file takes too long", "tasks.core.pool", '@@detail = f"more than {self._limits.sec'),
    Branch(
        "a file takes too long in all",
        "tasks.core.pool",
        '@@detail = f"more than {self._limits.total',
    ),
    Branch(
        "parts of an unfinished file are removed",
        "tasks.ingest.journal",
        '@@self._base.execute("DELETE FROM part WHERE key NOT IN (SELECT key FROM done)")',
        'self._base.execute("SELECT 1 FROM part WHERE key NOT IN (SELECT key FROM done)").fetchone()',
    ),
    Branch(
        "a file that may be read now is tried again",
        "tasks.ingest.journal",
        '@@self._base.execute("DELETE FROM done WHERE final = 0")',
        'self._base.execute("SELECT 1 FROM done WHERE final = 0").fetchone()',
    ),
    Branch(
        "damaged results of files are read again",
        "tasks.ingest.journal",
        '@@log.warning("%s is damaged: %d files',
    ),
    Branch(
        "a damaged journal is started again",
        "tasks.ingest.journal",
        '@@log.warning("%s is damaged: every file',
    ),
    Branch("ingest continues", "tasks.ingest.stage", '@@log.info("%d of %d files need no reading"'),
    Branch(
        "generate continues", "tasks.generate.stage", '@@log.info("%d rows are already in the j'
    ),
    Branch(
        "verify continues",
        "tasks.verify.asking",
        "@@progress.skip(*_add(",
        "len(todo) < len(sizes)",
    ),
    Branch(
        "answers of a killed scoring are kept",
        "tasks.scoring.pieces",
        "@@return concat((store.get",
        "pieces and not todo",
    ),
    Branch(
        "a damaged checkpoint is passed over", "tasks.lm.checkpoints", "@@shutil.rmtree(checkpoint)"
    ),
    Branch(
        "a training continues from a checkpoint",
        "tasks.lm.training",
        '@@log.info("training on %d rows%s"',
        "resume",
    ),
    Branch(
        "a damaged model is merged again",
        "tasks.lm.model_cache",
        '@@log.warning("%s is damaged: it is made',
    ),
    Branch(
        "a half-merged model is removed",
        "tasks.lm.model_cache",
        "@@shutil.rmtree(partial, ignore_errors=True)",
    ),
    Branch(
        "a dead process's MLflow run is ended",
        "tasks.tracking.mlflow_store",
        '@@client.set_terminated(run.info.run_id, "KILLED")',
    ),
    Branch(
        "MLflow does not answer a stage",
        "tasks.tracking.mlflow_store",
        '@@raise PipelineError(\n            f"the MLflow store {shown_uri()} does not answer',
    ),
    Branch(
        "MLflow is away while training",
        "tasks.tracking.training_run",
        '@@log.warning(\n                "MLflow does not answer (%s): %d points wait',
    ),
    Branch(
        "a training continues in its MLflow run",
        "tasks.tracking.training_run",
        "@@client.set_tag(run.info.run_id, OWNER, owner())\n        client.update_run",
    ),
    Branch(
        "a registration continues in its MLflow run",
        "tasks.tracking.registry",
        "@@ledger = cls(client, run.info.run_id)",
        "REGISTER_KEY in run.data.tags",
    ),
    Branch(
        "register logs the steps that MLflow lacks",
        "tasks.tracking.registry",
        "@@self.client.log_metric(self.run_id, name, value, step=step)",
    ),
    Branch(
        "a model that was logged is not logged again",
        "tasks.tracking.registry",
        "@@return str(ready[0].model_uri)",
    ),
    Branch(
        "a version that was registered is not registered again",
        "tasks.tracking.registry",
        "@@return version\n        with",
    ),
    Branch(
        "a run of the same name is refused",
        "flows.runs.worktree",
        '@@raise PipelineError(\n            f"run {run.name!r} is already in progress',
    ),
    Branch(
        "a dead run's page says crashed",
        "flows.reconcile",
        "@@return Crashed(message=_MESSAGE)",
    ),
    Branch(
        "the page of a run that the server missed says how it ended",
        "flows.reconcile",
        '@@return Completed(message="all stages',
    ),
    Branch("damage that DVC put back is found", "flows.runs.dvc_repro", "@@return str(error)"),
    Branch("a damaged object of the cache is removed", "flows.runs.repair", "@@path.unlink()"),
    Branch(
        "a worker whose request is gone stops",
        "flows.remote_stage",
        'or content.get("stop")):\n            @@raise PipelineError(STOPPED)',
    ),
)


def install() -> None:
    """Count the branches of modules that are imported from now on, here and in what is forked."""
    setattr(builtins, _CALL, _entered)
    sys.meta_path.insert(0, _Finder())


def count(path: Path) -> Counter[str]:
    """Return how often each branch was entered, by the file's lines."""
    lines = path.read_text().splitlines() if path.exists() else []
    return Counter(line for line in lines if line)


def _entered(name: str, when: object = True) -> None:
    path = os.environ.get(VARIABLE)
    if path and when:
        # Not open(): the harness may watch it.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{name}\n".encode())
        os.close(file)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules that have branches as usual, and loads them with the calls."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        own = [branch for branch in BRANCHES if branch.module == name]
        spec = importlib.machinery.PathFinder.find_spec(name, path) if own else None
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        source = self.get_source(fullname) or ""
        for branch in BRANCHES:
            if branch.module == fullname:
                source = branch.insert(source)
        return compile(source, self.path, "exec", dont_inherit=True)
