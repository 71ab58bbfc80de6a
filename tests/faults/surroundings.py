"""The same input gives the same bytes whatever surrounds the run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.faults.settings import set_parameter
from tests.faults.world import INPUTS, ROOT, World, log_of, run

_ZONES = ("UTC", "Pacific/Kiritimati", "America/St_Johns", "Asia/Kathmandu")
_LOCALES = ("C", "C.UTF-8", "POSIX", "de_DE.UTF-8", "tr_TR.UTF-8")


def changed(world: World, chance: Random) -> str:
    """One stage with another clock, zone, locale and number of workers; ingest and validate in a
    process of their own with another hash seed.
    """
    name = chance.choice(sorted(set(world.digests) - {"register"}))
    folder = world.trial(name)
    shift = chance.choice((-10, 10)) * 365 * 86400 + chance.randrange(86400)
    locale = chance.choice(_LOCALES)
    around = {
        "TZ": chance.choice(_ZONES),
        "LC_ALL": locale,
        "LANG": locale,
        "PYTHONHASHSEED": str(chance.randrange(1 << 32)),
    }
    if name == "ingest":
        set_parameter(folder, "ingest.workers", chance.choice((2, 3)))
    anew = name in ("ingest", "validate")  # a hash seed is settled when Python starts
    status = (
        _anew(folder, name, around)
        if anew
        else run(folder, name, around, before=lambda: _set_clock(shift))
    )
    fault = (
        f"status {status}: {log_of(folder)[-300:]}"
        if status
        else world.is_as_undisturbed(folder, name)
    )
    if not fault:
        shutil.rmtree(folder)
    return fault and f"{name} with {around}: {fault}"


def _anew(folder: Path, name: str, around: dict[str, str]) -> int:
    words = [word for option, path in INPUTS[name].items() for word in (f"--{option}", path)]
    command = [
        sys.executable,
        "-m",
        f"tasks.{name}",
        "--params",
        "params.yaml",
        "--out",
        f"artifacts/{name}",
        *words,
    ]
    with (folder / "log").open("a") as log:
        environment = {
            **os.environ,
            **around,
            "PYTHONPATH": str(ROOT),
            "BONITO_CACHE": str(folder / "cache"),
        }
        return subprocess.run(
            command, cwd=folder, env=environment, stdout=log, stderr=log, check=False
        ).returncode


def _set_clock(shift: int) -> None:
    """Move what Python says the time is."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + shift
    time.time_ns = lambda: real_ns() + shift * 1_000_000_000
