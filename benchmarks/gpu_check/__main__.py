"""``python -m benchmarks.gpu_check``: run every path, print one table, write results.json.

Ten minutes on an H200 by the arithmetic of docs/gpu.md, without the hub. With ``--shape tiny``
the same code runs on a CPU.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.harness import ROOT
from benchmarks.machine import describe
from tasks.core.card import take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.log_lines import ignore_closed_stdout
from tasks.core.privacy import CACHES, silence

_VERSIONS = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "vllm")


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 if every gate passed, 1 if one failed, 2 if the check cannot run here."""
    arguments = _parser().parse_args(argv)
    ignore_closed_stdout()
    try:
        with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=arguments.work) as work:
            return _check(arguments.shape, Path(work).absolute(), arguments.out)
    except (PipelineError, OSError) as error:
        print(f"error: gpu-check: {error}", file=sys.stderr)
        return 2


def _check(name: str, work: Path, out: Path) -> int:
    silence()
    take_cards()  # its lock is where runs look for it, in the user's own cache
    # What is merged, compiled and cached goes with the folder.
    cache = work / "cache"
    os.environ |= {variable: str(cache / name) for variable, name in CACHES.items()}
    os.environ |= {"BONITO_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    import torch

    # Before the other libraries are imported, which takes several seconds.
    if name != "tiny" and not torch.cuda.is_available():
        raise PipelineError(
            "torch sees no NVIDIA GPU here; --shape tiny runs the same paths on the CPU"
        )
    from benchmarks.gpu_check.model import SHAPES
    from benchmarks.gpu_check.outcome import render
    from benchmarks.gpu_check.paths import run_paths

    shape = SHAPES[name]
    if shutil.disk_usage(work).free < shape.disk * 1e9:
        raise PipelineError(
            f"{work} has less than {shape.disk} GB free: set TMPDIR to a folder with room"
        )
    runner = run_paths(shape, work)
    write_json(
        out / "results.json",
        {
            "shape": name,
            "machine": describe(torch.get_num_threads()),
            "gpu": torch.cuda.is_available(),
            "versions": {package: _version(package) for package in _VERSIONS},
            "ceiling": runner.ceiling,
            "paths": [one.as_json() for one in runner.outcomes],
        },
    )
    print(render(runner.outcomes))
    print(
        f"\nmeasured: {runner.ceiling['flops'] / 1e12:.1f} TFLOP/s (matrix product), "
        f"{runner.ceiling['bytes'] / 1e9:.0f} GB/s (copy). {out / 'results.json'}"
    )
    return 1 if any(one.gate.startswith("failed") for one in runner.outcomes) else 0


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check",
        description="Run the pipeline's GPU paths on a random model; see benchmarks/README.md.",
    )
    parser.add_argument(
        "--shape",
        choices=("mistral-7b", "tiny"),
        default="mistral-7b",
        help="tiny: the same paths on a tiny model, also without a GPU",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "artifacts" / "gpu",
        help="where results.json goes",
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="where the models are for the time being (default: a temporary folder)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
