"""The flow of a work pool that runs one stage for another run; :mod:`flows.remote_stage` starts it.

Annotations are not postponed here: a deployment loads this module by file name, and Prefect then
cannot resolve postponed names.
"""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import remote_stage
from flows.runs import CODE
from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.secrets import hide


@flow(name=remote_stage.FLOW, persist_result=False)
def stage(folder: str, stage: str, ticket: str, parent: str = "", command: str = "") -> State[Any]:
    """Bring one stage of a run's checkout up to date for the run that requested it.

    Args:
        folder: The run's checkout, on a file system that both machines share.
        stage: The stage's name in dvc.yaml.
        ticket: Identifies this request.
        parent: The flow run that requested it.
        command: The command that repeats that run.
    """
    log = get_run_logger()
    set_prefect_environment(CODE)
    try:
        outcome = remote_stage.serve_stage(Path(folder), stage, ticket, log, parent, command)
    except PipelineError as error:
        return Failed(message=hide(str(error)))
    return (
        Failed(message=outcome.error)
        if outcome.status == "failed"
        else Completed(message=f"{outcome.status}, {outcome.seconds:.0f} s")
    )
