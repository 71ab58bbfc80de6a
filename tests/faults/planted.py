"""``python -m tests.faults.planted`` (``make soak-eye``): does the harness see? Faults are planted in
a copy of the code, one at a time; the check that guards it has to pass without and to fail with it.

The faults are in ``planted.yaml``: name, file, the text that is replaced (once in the file), what
stands there instead, one line of what it breaks, and the checks that are to see it. A check is a
test (``tests/...::name``) or a fault of the soak with the stage it is tried on (``soak: fault @
stage``). A fault that no check sees says why in ``survives``.

Libraries are imported once: each check runs in a forked child that imports only our code again.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
_LIST = Path(__file__).with_name("planted.yaml")
_OURS = ("tasks", "flows", "bonito", "tests", "scripts", "benchmarks")
_LIBRARIES = (
    "pytest",
    "_pytest.assertion.rewrite",
    "pyarrow.parquet",
    "psutil",
    "yaml",
    "pydantic",
)
_HEAVY = ("torch", "transformers", "peft", "mlflow", "great_expectations", "prefect.flow_engine")
#: Files that are larger are linked into the copy, not copied: weights.
_LARGE = 1 << 20
#: A check that takes longer hangs.
_PATIENCE = 240.0
#: Trials of a fault of the soak: each at another moment.
_TRIALS = 4
#: Those of the default tests: they need milliseconds.
QUICK = ("a file is named before it is synced", "no lock", "digests are not compared")


#: No file of the copy was changed in one of these.
_SECONDS = itertools.count(1)


@dataclass(frozen=True)
class Planted:
    """One planted fault, see the module."""

    name: str
    file: str
    old: str
    new: str
    breaks: str
    checks: tuple[str, ...]
    survives: str = ""

    def plant(self, root: Path) -> None:
        """Put it into the copy; a text that is not there, or twice, is an error."""
        path = root / self.file
        source = path.read_text(encoding="utf-8")
        if source.count(self.old) != 1:
            times = source.count(self.old)
            raise ValueError(f"{self.name}: {self.file} has its text {times} times, not once")
        changed = source.replace(self.old, self.new)
        compile(changed, self.file, "exec")
        path.write_text(changed, encoding="utf-8")
        _date(path)

    def remove(self, root: Path) -> None:
        """Take it out again."""
        shutil.copyfile(ROOT / self.file, root / self.file)
        _date(root / self.file)


def _date(path: Path) -> None:
    """Give a file a second of its own: Python takes one of the same size that was changed twice in
    a second from the bytecode of the first change, and would not see the fault.
    """
    second = next(_SECONDS)
    os.utime(path, (second, second))


def read_planted() -> list[Planted]:
    """Return all of them."""
    rows = yaml.safe_load(_LIST.read_text(encoding="utf-8"))
    return [Planted(**{**row, "checks": tuple(row["checks"])}) for row in rows]


@dataclass(frozen=True)
class Seen:
    """What a check said: whether it passed, its seconds, and the end of its output."""

    passed: bool
    seconds: float
    output: str


class Eye:
    """A copy of the code in a folder of its own, and the checks that run there."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.root, self.seed = folder, folder / "code", seed
        _copy_code(self.root)
        self._clean: dict[str, Seen] = {}

    def passes_clean(self, check: str) -> Seen:
        """Run a check on the code as it is, once."""
        if check not in self._clean:
            self._clean[check] = self.run(check)
        return self._clean[check]

    def run(self, check: str) -> Seen:
        """Run a check in a child, on the code as it stands in the copy."""
        log = self.folder / "log"
        began = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(self, check, log)
        passed = _wait(pid) == 0
        output = log.read_text(errors="replace")
        return Seen(passed, time.monotonic() - began, output)

    @property
    def base(self) -> Path:
        """The world whose undisturbed outputs the planted stages read; made at the first need."""
        return self.folder / "base"

    @contextmanager
    def planted(self, fault: Planted) -> Iterator[None]:
        """Let the copy have a fault for a while."""
        fault.plant(self.root)
        try:
            yield
        finally:
            fault.remove(self.root)


def _copy_code(root: Path) -> None:
    """Copy what git tracks as it stands in the checkout, and the data beside it."""
    command = [
        "git",
        "-C",
        str(ROOT),
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        source, target = ROOT / name, root / name
        if not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.stat().st_size > _LARGE:
            target.symlink_to(source)
        else:
            shutil.copy(source, target)
    for name in ("data", ".venv"):
        if (ROOT / name).exists() and not (root / name).exists():
            (root / name).symlink_to((ROOT / name).resolve())


def _child(eye: Eye, check: str, log: Path) -> None:
    """Run a check on the copy's code, and end."""
    status = 1
    try:
        os.setpgid(0, 0)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(eye.root)
        for name in [name for name in sys.modules if name.partition(".")[0] in _OURS]:
            del sys.modules[name]
        sys.path[:] = [str(eye.root), *(p for p in sys.path if p not in ("", str(ROOT)))]
        importlib.invalidate_caches()
        status = _try_soak(eye, check) if check.startswith("soak: ") else _test(eye, check)
    except BaseException:  # whatever a planted fault does, the child ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _test(eye: Eye, check: str) -> int:
    import pytest

    folder = eye.folder / "pytest"
    shutil.rmtree(folder, ignore_errors=True)
    options = ["-x", "-q", "--no-header", "--tb=short", f"--rootdir={eye.root}"]
    return int(pytest.main([*options, f"--basetemp={folder}", check]))


def _try_soak(eye: Eye, check: str) -> int:
    """Try a fault of the soak, on one stage, at several moments; 0 if its promise is kept."""
    name, _, stage = check.removeprefix("soak: ").partition(" @ ")
    from tests.faults.catalogue import faults
    from tests.faults.world import STAGES, World

    fault = next(fault for fault in faults() if fault.name == name)
    folder = eye.folder / "world"
    shutil.rmtree(folder, ignore_errors=True)
    if stage:
        _extend_base(eye, STAGES[: STAGES.index(stage)])
        importlib.import_module(f"tasks.{stage}.stage")
        shutil.copytree(eye.base, folder, symlinks=True)
    world = World(folder)
    folder.mkdir(exist_ok=True)
    if stage:  # alone: faults choose a stage of those that the world knows
        world.run_undisturbed(stage)
    try:
        for number in range(_TRIALS):
            if said := fault.trial(world, random.Random(f"{eye.seed}/{name}/{number}")):
                print(f"trial {number}: {said}")
                return 1
    finally:
        world.close()
    return 0


def _extend_base(eye: Eye, stages: tuple[str, ...]) -> None:
    """Make the undisturbed outputs of stages that the base lacks: with clean code, as every check
    runs there first.
    """
    from tests.faults.world import World

    base = World(eye.base)
    if not eye.base.exists():
        base.prepare()
    for stage in stages:
        if not (base.reference / "artifacts" / stage).exists():
            importlib.import_module(f"tasks.{stage}.stage")
            base.run_undisturbed(stage)


def _wait(pid: int) -> int:
    """Return a child's status; one that hangs is killed with all that it started."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not done:
        os.waitpid(pid, 0)
        return -1
    return os.waitstatus_to_exitcode(status)


class BlindCheckError(Exception):
    """A check fails without any fault: it says nothing."""


def judge(fault: Planted, eye: Eye) -> tuple[list[str], float]:
    """Return the checks that see a fault, and the seconds of all its checks."""
    for check in fault.checks:
        clean = eye.passes_clean(check)
        if not clean.passed:
            raise BlindCheckError(f"{check} fails without any fault:\n{clean.output[-2000:]}")
    with eye.planted(fault):
        said = {check: eye.run(check) for check in fault.checks}
    seconds = sum(seen.seconds for seen in said.values())
    return [check for check, seen in said.items() if not seen.passed], seconds


def main() -> int:
    """Return 0 if every fault is seen or explained, and at least 19 of 20 are seen."""
    given = _arguments()
    chosen = [
        fault
        for fault in read_planted()
        if any(word in fault.name for word in given.only.split(","))
        and (fault.name in QUICK or not given.quick)
    ]
    if given.list or not chosen:
        print("\n".join(fault.name for fault in chosen) or f"no fault has {given.only!r}")
        return 0 if chosen else 2
    with tempfile.TemporaryDirectory(prefix="planted-") as scratch:
        _warm_up(Path(scratch).resolve(), _LIBRARIES if given.quick else (*_LIBRARIES, *_HEAVY))
        return _look(chosen, Eye(Path(scratch).resolve(), given.seed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.planted", allow_abbrev=False)
    parser.add_argument(
        "--only",
        default="",
        help="the faults whose names have one of these words, separated by commas",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments that the soak takes")
    parser.add_argument("--quick", action="store_true", help="only those of the default tests")
    parser.add_argument("--list", action="store_true", help="name the faults")
    return parser.parse_args()


def _warm_up(scratch: Path, libraries: tuple[str, ...]) -> None:
    """Import the libraries, for all children."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    for name, folder in (("PREFECT_HOME", "prefect"), ("HF_HOME", "huggingface")):
        os.environ[name] = str(scratch / folder)
    for name in libraries:
        importlib.import_module(name)
    gc.freeze()  # else each child would copy all of their memory


def _look(chosen: list[Planted], eye: Eye) -> int:
    """Plant one after the other, and print which checks see it; return the exit status."""
    began, seen, explained = time.monotonic(), 0, 0
    for fault in chosen:
        try:
            checks, seconds = judge(fault, eye)
        except BlindCheckError as error:
            print(f"{fault.name}: {error}", file=sys.stderr, flush=True)
            continue
        seen += bool(checks)
        explained += not checks and bool(fault.survives)
        told = ", ".join(checks) or f"SURVIVES: {fault.survives or 'not explained'}"
        print(f"{fault.name:<62}{seconds:>6.1f} s  {told}", flush=True)
    took = time.monotonic() - began
    print(f"{seen} of {len(chosen)} planted faults are seen ({took:.0f} s)")
    return 0 if seen * 20 >= 19 * len(chosen) and seen + explained == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
