"""One stage of somebody else's run, in the pool this flow is deployed to. Started by
:mod:`flows.remote_stage`, not by people.

Annotations are not postponed in this module: a deployment loads it by file name, and then Prefect
cannot look up their names.
"""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows import remote_stage
from flows.runs.die_with_parent import CODE
from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError


@flow(name=remote_stage.FLOW, persist_result=False)
def stage(folder: str, stage: str, ticket: str, parent: str = "") -> State[Any]:
    """Bring one stage of a run's checkout up to date, for the run that asked for it.

    Args:
        folder: The run's checkout, on a file system that both machines share.
        stage: The stage's name in dvc.yaml.
        ticket: What tells this request from an earlier one.
        parent: The flow run that asked.
    """
    log = get_run_logger()
    set_prefect_environment(CODE)
    try:
        outcome = remote_stage.serve_stage(Path(folder), stage, ticket, log, parent)
    except PipelineError as error:
        return Failed(message=str(error))
    return (
        Failed(message=outcome.error)
        if outcome.status == "failed"
        else Completed(message=f"{outcome.status}, {outcome.seconds:.0f} s")
    )
