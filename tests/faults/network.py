"""The whole pipeline with nothing but loopback around it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from random import Random

from tests.faults.catalogue import load_libraries
from tests.faults.world import ROOT, STAGES, World, fill, log_of, run


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
    """Every stage in a process of its own, under an empty environment; the connections that they
    try beyond loopback are counted.

    The processes are forked from one that is cut off already and has imported the libraries: for
    nine of them to do so took two minutes.
    """
    folder = world.folder / f"cut-off-{chance.randrange(1 << 30)}"
    for stage in STAGES:
        fill(folder / stage, world.reference, world.folder / "empty.db", stage)
    if said := _cut_off(folder):
        return said
    for stage in STAGES:
        if fault := world.is_as_undisturbed(folder / stage, stage):
            return f"{stage}: {fault}"
    tried = [
        line
        for line in (folder / "trace").read_text(errors="replace").splitlines()
        if ("sin_addr" in line or "AF_INET6" in line) and not re.search(r'"127\.|"::1"', line)
    ]
    shutil.rmtree(folder)
    return f"{len(tried)} connections were tried: {tried[0]}" if tried else ""


def _cut_off(folder: Path) -> str:
    command = ["unshare", "-rn", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
    command += ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect", "-o", "trace"]
    command += [sys.executable, "-m", "tests.faults.network"]
    environment = {
        "PATH": os.defpath,
        "HOME": str(folder),
        "BONITO_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return f"{done.stdout}{done.stderr}"[-600:] if done.returncode else ""


def main() -> int:
    """Run the stages, each in its folder below this one; return 0, or 1 with what went wrong."""
    load_libraries()
    for stage in STAGES:
        place = Path.cwd() / stage
        if status := run(place, stage):
            print(f"{stage} ends with {status}: {log_of(place)[-300:]}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
