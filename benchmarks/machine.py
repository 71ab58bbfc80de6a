"""What the figures were measured on, in one short line."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path


def describe(threads: int) -> str:
    """Return processor, cores, memory, GPU and the version of torch."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        _processor(),
        f"{os.cpu_count()} cores, {threads} threads",
        f"{memory:.0f} GiB",
        *_gpus(),
        f"torch {version('torch')}",
    ]
    return ", ".join(parts)


def has_gpu() -> bool:
    """Tell whether there is a GPU, without loading torch."""
    return bool(_gpus())


def _processor() -> str:
    """Return the processor's name; where a virtual machine hides it, what it can do tells more."""
    name, family, flags = platform.processor() or platform.machine(), "", set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key == "model":
                family = f" (model {value}"
            elif key == "flags":
                flags = set(value.split())
                break
    except OSError:
        return name
    able = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return name + (f"{family}, {' '.join(able)})" if family and able else "")


def _gpus() -> list[str]:
    try:
        asked = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return []
    if asked.returncode:
        return []
    return [line.strip() for line in asked.stdout.splitlines() if line.strip()]
