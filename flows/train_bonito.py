"""The generator's training as a Prefect flow: ``bonito/dvc.yaml`` with a profile of ``bonito/``.

Annotations are not postponed here: a deployment loads this module by file name, and Prefect then
cannot resolve postponed names.
"""

import sys
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.reconcile import drop_secret_parameters, end_dead_runs, tag_with_host
from flows.runs import CODE, worktree
from flows.runs.dvc_repro import line_that_matters, run_child
from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.overlay import profile_names
from tasks.core.secrets import hide

NAME = "train-bonito"
Profile = Annotated[
    str, Field(json_schema_extra={"enum": [*profile_names(CODE / "bonito" / "profiles")]})
]
Override = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)+=")]


def name_training(_: dict[str, Any]) -> str:
    """Return the name by which the training is locked and shown: there is one at a time."""
    return NAME


@flow(name=NAME, flow_run_name=NAME)
def train_bonito(
    profile: Profile = "embedded",
    overrides: list[Override] = [],  # noqa: B006  Prefect copies it
) -> State[Any]:
    """Make a Bonito generator from annotated datasets: CTGA remix, training and evaluation.

    Args:
        profile: Settings of bonito/ for a base model and a machine.
        overrides: Settings for this run only, each section.key=value, such as
            remix.max_rows_per_dataset=1000.
    """
    log = get_run_logger()
    set_prefect_environment(CODE)
    tag_with_host()
    try:
        for path in ("local/sources.yaml", "local/templates"):
            if not (CODE / path).exists():
                raise PipelineError(f"{path} does not exist in {CODE}: see docs/generator.md")
        with worktree.hold(worktree.Run(NAME, CODE, CODE, {})):
            end_dead_runs(NAME, log.info, NAME, name_training)
            changes = ["--set", *overrides] if overrides else []
            run_command.with_options(task_run_name="settings")(
                ["bonito.settings", "--profile", profile, *changes]
            )
            graph = ["dvc", "repro", "bonito/dvc.yaml:evaluate"]
            run_command.with_options(task_run_name="bonito")(graph)
    except PipelineError as error:
        drop_secret_parameters()
        return Failed(message=hide(str(error)))
    return Completed(message="the generator is in bonito/artifacts")


@task(persist_result=False)
def run_command(module: list[str]) -> None:
    """Run ``python -m MODULE ...`` in the checkout; after a kill, a rerun continues the work."""
    lines, code = run_child(
        [sys.executable, "-m", *module],
        CODE,
        get_run_logger().info,
        {"PIPELINE_FLOW_RUN": str(flow_run.id or "")},
    )
    if code:
        raise PipelineError(line_that_matters(lines, code))
