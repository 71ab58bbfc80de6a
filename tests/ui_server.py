"""``make ui`` as another process: for the tests that ask its pages, and for README's pictures."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.ports import find_free_port


@contextmanager
def serve_ui(
    root: Path, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Run ``make ui`` in a repository, on free ports; lend the addresses that it prints: those of
    Prefect's pages and of MLflow's.

    The servers' log goes to ``log``. Raises :class:`PipelineError` if ``make ui`` does not start,
    or exits with an error when it is stopped.
    """
    ports = [f"--{name}-port={find_free_port()}" for name in ("prefect", "mlflow")]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as errors:
        server = subprocess.Popen(
            [sys.executable, "-m", "flows.ui", *ports],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    printed = ""
    for line in server.stdout or ():
        printed += line
        if line.startswith("Ctrl-C"):
            break
    told = dict(re.findall(r"^(Prefect|MLflow) +(http\S+)", printed, re.MULTILINE))
    try:
        if len(told) < 2:
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1:]
            raise PipelineError(f"make ui has not started: {''.join(last) or 'it says nothing'}")
        yield told["Prefect"], told["MLflow"]
    finally:
        server.terminate()
        status = server.wait(60)
    if status:
        raise PipelineError(f"make ui ended with status {status}: its log is {log}")
