"""Create the work pools and deployments, and end the runs that a crash left unfinished.

``make ui`` runs it as ``python -m flows.deploy``. ``prefect.yaml`` lists what people can start.
Each further pool of ``PIPELINE_POOLS`` gets the flow that runs one stage.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import WorkPoolFilter, WorkPoolFilterName
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.workers.process import ProcessWorker

from flows import remote_stage
from flows.reconcile import end_dead_runs, end_pending_runs
from flows.runs.die_with_parent import CODE
from flows.server import await_answer
from tasks.core.errors import PipelineError
from tasks.core.stage import one_line_errors
from tasks.core.yaml_file import read_yaml

POOL = "pipeline"


def main(argv: Sequence[str] | None = None) -> int:
    """Deploy for a pool of ``argv[0]`` concurrent runs; return 0, or 2 after a one-line error."""
    runs = int((argv or sys.argv[1:] or ["1"])[0])
    with one_line_errors("deploy"):
        if not (url := PREFECT_API_URL.value()):
            raise PipelineError(
                "PREFECT_API_URL is not set: name a Prefect server, or run make ui, which deploys"
            )
        await_answer(url)
        _make_pool(POOL, runs)
        for deployment in list_deployments():
            _deploy(deployment)
        pools = sorted(set(remote_stage.read_pools().values()))
        for pool in pools:
            _make_pool(pool)
            _deploy(pool, "flows/remote_flow.py:stage", "--pool", pool)
        _refuse_unknown_parameters([POOL, *pools])
        end_dead_runs("", print)
        end_pending_runs(POOL)
        return 0
    return 2


def list_deployments() -> list[str]:
    """Return the deployments of ``prefect.yaml`` whose flow this checkout holds."""
    deployments = read_yaml(CODE / "prefect.yaml")["deployments"]
    return [
        deployment["name"]
        for deployment in deployments
        if (CODE / deployment["entrypoint"].partition(":")[0]).is_file()
    ]


def _make_pool(name: str, runs: int | None = None) -> None:
    """Create a pool, or update its limit; without ``runs`` an existing pool is left alone.

    The limit counts runs of all flows: each needs the whole CPU or GPU.
    """
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(
                WorkPoolCreate(
                    name=name, type="process", base_job_template=template, concurrency_limit=runs
                )
            )
        else:
            if runs:
                client.update_work_pool(name, WorkPoolUpdate(concurrency_limit=runs))


def _deploy(name: str, *more: str) -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    done = subprocess.run(
        [*prefect, "deploy", "--prefect-file", "prefect.yaml", "-n", name, *more],
        cwd=CODE,
        env={**os.environ, "PIPELINE_HOME": str(CODE)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise PipelineError(f"{name} cannot be deployed: {output.splitlines()[-1]}")


def _refuse_unknown_parameters(pools: Sequence[str]) -> None:
    """Let the server refuse a request with a parameter that its flow does not have, for the flows
    that run in these pools. The run would fail as it starts, and its page would not say why.
    """
    named = WorkPoolFilter(name=WorkPoolFilterName(any_=list(pools)))
    with get_client(sync_client=True) as client:
        for deployment in client.read_deployments(work_pool_filter=named):
            schema = {**(deployment.parameter_openapi_schema or {}), "additionalProperties": False}
            # Not client.update_deployment: its form of a schema has no such key.
            client.request(
                "PATCH",
                "/deployments/{id}",
                path_params={"id": deployment.id},
                json={"parameter_openapi_schema": schema},
            )


if __name__ == "__main__":
    sys.exit(main())
