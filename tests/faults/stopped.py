"""A writer that stands still past its time and then continues: it may not write over what came after."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.faults import moments
from tests.faults.settings import lock_waits
from tests.faults.world import World, contents, done, fork, log_of, none_left, run, start, wait

_LOG = logging.getLogger(__name__)


def stage(world: World, chance: Random) -> str:
    """A stage that is stopped at a moment, for longer than the next one waits for the lock: the
    second run is refused by name (or is the only one), and both together leave the right bytes.
    """
    from tasks.core.lock import is_locked

    name = chance.choice(sorted(world.digests))
    folder = world.trial(name)
    number = chance.randrange(world.moments(name))
    first = start(folder, name, before=moments.at(number, moments.stop))
    _, status = os.waitpid(first, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return f"{name}, moment {number}: it was not stopped"
    held = is_locked(folder / ".work" / name / "lock")
    before = contents(folder / "artifacts" / name)
    second = run(folder, name, before=lock_waits(chance))
    said = ""
    if held and (second != 2 or f'"pid": {first}' not in log_of(folder)):
        said = f"the second run ends with {second}: {log_of(folder)[-300:]}"
    elif held and contents(folder / "artifacts" / name) != before:
        said = "the second run was refused, and wrote"
    elif not held and second:
        said = f"with a free lock the second run ends with {second}: {log_of(folder)[-300:]}"
    os.kill(first, signal.SIGCONT)
    status = wait(first)
    said = said or (f"the first ends with {status}: {log_of(folder)[-300:]}" if status else "")
    said = said or world.is_as_undisturbed(folder, name)
    said = said or ("" if none_left(folder) else "an orphan is left")
    return done(folder, said) and f"{name}, moment {number}: {said}"


def worker(world: World, chance: Random) -> str:
    """A worker of another pool that stands still while its run gives up and asks again: when it
    continues it stops its stage, and neither output nor answer is its.
    """
    from flows import remote_stage
    from flows.runs.dvc_repro import stage_environment
    from tasks.core.files import read_json, write_json
    from tests.toy import environment, make_toy

    root = world.shared("toy-lease", lambda: make_toy(world.folder / "toy-lease"), lambda _: None)
    name = chance.choice(("ingest", "generate"))
    work = root / ".work"
    for mark in ("hanging", "go"):
        (work / mark).unlink(missing_ok=True)
    around = stage_environment(environment(root))
    if name == "generate":
        _dvc(root, around, "repro", "--single-item", "ingest")
    _dvc(root, around, "remove-output", name)
    question, answer = remote_stage._files(root, name)

    def serve(ticket: str, hangs: bool) -> int:
        def work() -> int:
            outcome = remote_stage.serve_stage(root, name, ticket, _LOG, "", "")
            print(outcome, flush=True)
            return int(outcome.status == "failed")

        return fork(root, work, {**around, "TOY_HANG": name if hangs else ""})

    tickets = [f"{chance.randrange(1 << 40):x}" for _ in range(2)]
    write_json(question, {"ticket": tickets[0], "beat": 1})
    stale = serve(tickets[0], hangs=True)
    deadline = time.monotonic() + 120
    while not (work / "hanging").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(stale, signal.SIGSTOP)
    write_json(question, {"ticket": tickets[0], "stop": True})
    write_json(question, {"ticket": tickets[1], "beat": 1})
    busy = wait(serve(tickets[1], hangs=False))
    os.killpg(stale, signal.SIGCONT)
    status = wait(stale, 60)
    said = read_json(answer) if answer.exists() else {}
    out = root / "artifacts" / name
    if status == 0 or (said.get("ticket") == tickets[0] and "outcome" in said):
        return f"{name}: the stale worker answers: status {status}, {said}"
    if busy and out.exists():
        return f"{name}: the stale worker's stage has written {sorted(contents(out))}"
    if not none_left(root):
        return f"{name}: a process of the stale worker is left"
    write_json(question, {"ticket": tickets[1], "beat": 2})
    status, said = wait(serve(tickets[1], hangs=False)), read_json(answer)
    right = said.get("ticket") == tickets[1] and said["outcome"]["status"] in ("ran", "unchanged")
    return "" if status == 0 and right and out.exists() else f"{name}: then {status}: {said}"


def _dvc(root: Path, around: dict[str, str], *words: str) -> None:
    """Call DVC; ``remove-output`` lets a stage's output and DVC's memory of it be gone."""
    if words[0] == "remove-output":
        subprocess.run(["rm", "-rf", f"artifacts/{words[1]}", "dvc.lock"], cwd=root, check=True)
        subprocess.run(["rm", "-rf", ".dvc/cache/runs"], cwd=root, check=True)
        return
    command = [sys.executable, "-m", "dvc", *words]
    subprocess.run(command, cwd=root, env=around, check=True, capture_output=True)
