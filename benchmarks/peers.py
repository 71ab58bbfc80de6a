"""The peers' environment: their pinned packages on top of ours, so that torch, transformers and
vLLM are the very builds we run on.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from tasks.core.lock import hold_lock

PINS = Path(__file__).with_name("peers.txt")


def interpreter(work: Path, install: bool = True) -> tuple[str, str]:
    """Return the peers' Python, and an empty text or why there is none.

    Made in ``work``/peers; a second call finds it as it is.
    """
    if not install:
        return "", "the peers' packages were not asked for"
    folder = work / "peers"
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / "lock", "the installation of the peers", patience=math.inf):
        return str(_python(folder)), _make(folder)


def _make(folder: Path) -> str:
    """Bring the environment to the pins; return why that failed, or nothing."""
    ours, stamp = sysconfig.get_paths()["purelib"], folder / "pins.sha256"
    wanted = hashlib.sha256(PINS.read_bytes() + f"{sys.version} {ours}".encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted and _python(folder).exists():
        return ""
    print(f"benchmarks: installing {PINS.name} into {folder} (once)", file=sys.stderr, flush=True)
    if failure := _run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")]):
        return f"no virtual environment can be made: {failure}"
    (site,) = folder.glob("venv/lib/python*/site-packages")
    (site / "ours.pth").write_text(ours + os.linesep)  # behind the peers' own packages on the path
    # The pins are complete; resolving them would bring other builds of what both environments
    # share.
    install = [str(_python(folder)), "-m", "pip", "install", "--quiet", "--no-input", "--no-deps"]
    if failure := _run([*install, "--disable-pip-version-check", "-r", str(PINS)]):
        return f"{PINS.name} cannot be installed: {failure}"
    stamp.write_text(wanted)
    return ""


def _run(command: list[str]) -> str:
    """Run a command; return its last line with an error if it failed, or nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.returncode:
        return ""
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    return errors[-1][:200] if errors else f"status {done.returncode}"


def _python(folder: Path) -> Path:
    return folder / "venv" / "bin" / "python"
