"""Make the work pool and the deployments of ``prefect.yaml``, and put right what a crash left. Started by ``make ui``: ``python -m flows.deploy``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from flows.child import CODE
from flows.reconcile import end_dead_runs
from tasks.errors import PipelineError
from tasks.params import read_yaml
from tasks.stage import one_line_errors

POOL = "pipeline"


def main(argv: Sequence[str] | None = None) -> int:
    """Deploy for a pool that runs so many at once; return 0, or 2 with one line that says what is wrong."""
    runs = int((argv or sys.argv[1:] or ["1"])[0])
    with one_line_errors("deploy"):
        _make_pool(runs)
        for deployment in deployable():
            _deploy(deployment)
        end_dead_runs("", print)
        return 0
    return 2


def deployable() -> list[str]:
    """Return the deployments of ``prefect.yaml`` whose flow this checkout holds."""
    deployments = read_yaml(CODE / "prefect.yaml")["deployments"]
    return [own["name"] for own in deployments if (CODE / own["entrypoint"].partition(":")[0]).is_file()]


def _make_pool(runs: int) -> None:
    """One limit for all runs of this machine, whichever flow they are of: each needs the processor or the GPU."""
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template, concurrency_limit=runs))
        else:
            client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=runs))


def _deploy(name: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", "prefect.yaml", "-n", name]
    done = subprocess.run(command, cwd=CODE, env={**os.environ, "PIPELINE_HOME": str(CODE)}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"{name} cannot be deployed: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


if __name__ == "__main__":
    sys.exit(main())
