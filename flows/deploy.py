"""Create the work pools and deployments, and end the runs that a crash left unfinished.

``make ui`` runs it as ``python -m flows.deploy``. ``prefect.yaml`` lists what people can start.
Each further pool of ``PIPELINE_POOLS`` gets the flow that runs one stage.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Collection, Sequence
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL
from prefect.utilities.templating import apply_values
from prefect.workers.process import ProcessWorker

from flows import remote_stage
from flows.follow import name_follow_run
from flows.matrix.flow import name_matrix_run
from flows.reconcile import end_dead_runs, end_pending_runs
from flows.runs import CODE, request
from flows.runs.look import FOLLOW
from flows.server import await_answer
from flows.train_bonito import NAME, name_training
from tasks.core.errors import PipelineError
from tasks.core.stage import one_line_errors
from tasks.core.yaml_file import read_yaml

POOL = "pipeline"
_DESCRIPTION = "Create the work pools and deployments, and end the runs that a crash left."
_FILE = CODE / "prefect.yaml"
#: Each flow of the pool, and how the lock of its runs is named. A dead run that is left RUNNING
#: counts against the pool's limit: no other would ever start.
_FLOWS = {
    "adapt": request.name_run,
    FOLLOW: name_follow_run,
    "matrix": name_matrix_run,
    NAME: name_training,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Create the pools and deployments; ``argv`` may say how many runs work at once (default: 1).

    Returns 0, or 2 after a one-line error.
    """
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=_DESCRIPTION)
    parser.add_argument("runs", nargs="?", type=int, default=1, help="runs at once (default: 1)")
    runs = parser.parse_args(argv).runs
    with one_line_errors("deploy"):
        if not (url := PREFECT_API_URL.value()):
            raise PipelineError(
                "PREFECT_API_URL is not set: name a Prefect server, or run make ui, which deploys"
            )
        await_answer(url)
        os.environ["PIPELINE_HOME"] = str(CODE)  # prefect.yaml names it
        _make_pool(POOL, runs)
        deployments = list_deployments()
        _create_missing(deployments)
        for name, entrypoint in deployments.items():
            _deploy(name, entrypoint, POOL)
        for pool in sorted(set(remote_stage.read_pools().values())):
            _make_pool(pool)
            _deploy(pool, "flows/remote_flow.py:stage", pool)
        end_dead()
        return 0
    return 2


def end_dead() -> None:
    """End the runs that a crash left unfinished, of every flow."""
    for flow, name_run in _FLOWS.items():
        end_dead_runs("", print, flow, name_run)
    end_pending_runs(POOL)


def list_deployments() -> dict[str, str]:
    """Return the deployments of ``prefect.yaml`` whose flow this checkout holds: the entrypoint of
    each by its name.
    """
    deployments = read_yaml(_FILE)["deployments"]
    return {
        deployment["name"]: deployment["entrypoint"]
        for deployment in deployments
        if (CODE / deployment["entrypoint"].partition(":")[0]).is_file()
    }


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


def _create_missing(names: Collection[str]) -> None:
    """Create those of the deployments of ``prefect.yaml`` whose names the server does not know.

    With one call of Prefect's command, which takes two seconds to start.
    """
    asked = DeploymentFilter(name=DeploymentFilterName(any_=list(names)))
    with get_client(sync_client=True) as client:
        known = {found.name for found in client.read_deployments(deployment_filter=asked)}
    if missing := [name for name in names if name not in known]:
        _create(missing)


def _deploy(name: str, entrypoint: str, pool: str) -> None:
    """Create a deployment, or give the one that is there the code and the form of this checkout.

    What people set on its page stays: schedules, automations, default values, a pause. Prefect's
    command would replace them all by those of ``prefect.yaml``, so it only creates.
    """
    flow: Flow[..., Any] = load_flow_from_entrypoint(str(CODE / entrypoint))
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(f"{flow.name}/{name}")
        except ObjectNotFound:
            _create([name], *([] if pool == POOL else [entrypoint, "--pool", pool]))
            deployment = client.read_deployment_by_name(f"{flow.name}/{name}")
        changes = {
            "entrypoint": entrypoint,
            "description": flow.description,
            "pull_steps": apply_values(read_yaml(_FILE)["pull"], {}),
            # The server then refuses a request with a parameter that the flow does not have. The
            # run would fail as it starts, and its page would not say why.
            "parameter_openapi_schema": {
                **flow.parameters.model_dump(mode="json", exclude_unset=True),
                "additionalProperties": False,
            },
            # None where someone deleted the pool.
            **({} if deployment.work_pool_name else {"work_pool_name": pool}),
        }
        try:
            # Not client.update_deployment: its form of a schema has no additionalProperties.
            client.request(
                "PATCH", "/deployments/{id}", path_params={"id": deployment.id}, json=changes
            )
        except PrefectHTTPStatusError as error:  # such as a default value that is no longer valid
            told = " ".join(error.response.text.split())
            raise PipelineError(
                f"{flow.name}/{name} cannot be updated ({told}): correct it on its page, or delete "
                "the deployment there and start again"
            ) from error


def _create(names: Sequence[str], *more: str) -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    asked = [word for name in names for word in ("-n", name)]
    done = subprocess.run(
        [*prefect, "deploy", "--prefect-file", _FILE.name, *asked, *more],
        cwd=CODE,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        raise PipelineError(f"{', '.join(names)} cannot be deployed: {output.splitlines()[-1]}")


if __name__ == "__main__":
    sys.exit(main())
