"""The whole pipeline with nothing but loopback around it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.faults.answering import Answering, answer_lines
from tests.faults.libraries import load_libraries
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


class CutOff(Answering):
    """A process that is cut off and has imported the libraries; the stages are forked from it: for
    nine of them to import took two minutes. Its trace has what the imports try, too.
    """

    #: How many trials one process serves. The next process imports the libraries again.
    TRIALS = 20

    def __init__(self, folder: Path) -> None:
        """Start it in ``folder``, under an empty environment."""
        folder.mkdir()
        self.trace, self.trials, self._read = folder / "trace", 0, 0
        command = ["unshare", "-rn", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
        command += ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect"]
        command += ["-o", str(self.trace), sys.executable, "-m", "tests.faults.network"]
        environment = {
            "PATH": os.defpath,
            "HOME": str(folder),
            "BONITO_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        super().__init__(command, folder, environment, folder / "log")

    @classmethod
    def of(cls, world: World) -> CutOff:
        """Return the world's process; a new one at first, and after ``TRIALS`` trials."""
        place = world.folder / "cut-off"
        own: dict[str, CutOff] = world.shared("cut off", dict, _close)
        if own and (own["now"].trials >= cls.TRIALS or own["now"].process.poll() is not None):
            _close(own)
            shutil.rmtree(place)
        if not own:
            own["now"] = cls(place)
        own["now"].trials += 1
        return own["now"]

    def connections(self, folder: Path) -> list[str]:
        """Return the lines of the trace since the last call, up to the one that :func:`_run_all`
        makes after the stages of ``folder``: the trace must have it.
        """
        deadline = time.monotonic() + 60
        while True:
            lines = self.trace.read_text(errors="replace").splitlines()[self._read :]
            ends = [n for n, line in enumerate(lines) if _ending(folder) in line]
            if ends:
                self._read += ends[0] + 1
                return lines[: ends[0]]
            if time.monotonic() > deadline:
                raise AssertionError("the trace of connections does not show the trial's end")
            time.sleep(0.05)


def _close(held: dict[str, CutOff]) -> None:
    """Let the process end, and forget it."""
    while held:
        held.popitem()[1].close()


def _ending(folder: Path) -> str:
    """Return the name of a socket that nobody listens on."""
    return f"end-of-{folder.name}"


def whole(world: World, chance: Random) -> str:
    """Every stage in a process of its own, under an empty environment; the connections that they
    try beyond loopback are counted.
    """
    folder = world.folder / f"stages-{chance.randrange(1 << 30)}"
    for stage in STAGES:
        fill(folder / stage, world.reference, world.folder / "empty.db", stage)
    cut_off = CutOff.of(world)
    if said := cut_off.ask(str(folder)):
        return said
    for stage in STAGES:
        if fault := world.is_as_undisturbed(folder / stage, stage):
            return f"{stage}: {fault}"
    tried = [
        line
        for line in cut_off.connections(folder)
        if ("sin_addr" in line or "AF_INET6" in line) and not re.search(r'"127\.|"::1"', line)
    ]
    shutil.rmtree(folder)
    return f"{len(tried)} connections were tried: {tried[0]}" if tried else ""


def _run_all(folder: Path) -> str:
    """Run the stages, each in its folder below ``folder``; return what is wrong."""
    said = ""
    for stage in STAGES:
        if status := run(folder / stage, stage):
            said = f"{stage} ends with {status}: {log_of(folder / stage)[-300:]}"
            break
    with socket.socket(socket.AF_UNIX) as mark:
        mark.connect_ex(_ending(folder))
    return said


if __name__ == "__main__":
    load_libraries()
    answer_lines(lambda folder: _run_all(Path(folder)))
