"""The whole pipeline with nothing but loopback around it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

from tests.faults.world import INPUTS, ROOT, STAGES, World, fill


def needs() -> str:
    """A network namespace and a trace of system calls."""
    if not shutil.which("strace") or not shutil.which("unshare"):
        return "strace or unshare is not installed"
    return (
        ""
        if subprocess.run(["unshare", "-rn", "true"], check=False).returncode == 0
        else "network namespaces are not allowed here"
    )


def whole(world: World, chance: Random) -> str:
    """Every stage in a process of its own, under an empty environment; the connections it tries
    beyond loopback are counted.
    """
    folder = world.folder / f"cut-off-{chance.randrange(1 << 30)}"
    tried = 0
    for stage in STAGES:
        place = folder / stage
        fill(place, world.reference, world.folder / "empty.db", stage)
        if said := _cut_off(place, stage):
            return said
        trace = (place / "trace").read_text(errors="replace")
        tried += sum(
            not re.search(r'"127\.|"::1"', line)
            for line in trace.splitlines()
            if "sin_addr" in line or "AF_INET6" in line
        )
        if fault := world.is_as_undisturbed(place, stage):
            return f"{stage}: {fault}"
    shutil.rmtree(folder)
    return f"{tried} connections were tried" if tried else ""


def _cut_off(place: Path, stage: str) -> str:
    words = [word for option, path in INPUTS[stage].items() for word in (f"--{option}", path)]
    command = ["unshare", "-rn", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
    command += ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", "trace"]
    command += [
        sys.executable,
        "-m",
        f"tasks.{stage}",
        "--params",
        "params.yaml",
        "--out",
        f"artifacts/{stage}",
        *words,
    ]
    # The fake engine is found by name: see tests/fake_engine.
    environment = {
        "PATH": os.defpath,
        "HOME": str(place),
        "BONITO_CACHE": str(place / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests/fake_engine"), str(ROOT)])
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    return f"{stage} ends with {done.returncode}: {done.stderr[-300:]}" if done.returncode else ""
