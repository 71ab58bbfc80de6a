"""The Prefect flow that follows a corpus: look at its files, and run the pipeline if any changed.

Annotations are not postponed here, as in ``flows/adapt.py``.
"""

from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.adapt import Name, Override, Profile, adapt
from flows.progress import FlowLogger
from flows.reconcile import drop_secret_parameters, end_dead_runs, tag_with_host
from flows.runs import CODE, look, request, worktree
from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT
from tasks.core.secrets import hide


def name_follow_run(parameters: dict[str, Any]) -> str:
    """Return the name by which a flow run's look is locked and shown; no run has a blank in its."""
    return f"{look.FOLLOW} {request.name_run(parameters)}"


def _run_name() -> str:
    return name_follow_run(flow_run.parameters)


@flow(name=look.FOLLOW, flow_run_name=_run_name)
def follow(
    profile: Profile = DEFAULT,
    overrides: list[Override] = [],  # noqa: B006  Prefect copies it
    name: Name = "",
) -> State[Any]:
    """Look at the corpus; where files or settings changed since the last look, run the pipeline.

    Args:
        profile: Files of profiles/ that name the corpus, with commas between.
        overrides: Settings of the run, each section.key=value.
        name: Name of the run's worktree and DVC experiment. Empty: derived from the profile and
            the settings.
    """
    log = get_run_logger()
    set_prefect_environment(CODE)
    tag_with_host()
    own = name_follow_run({"profile": profile, "overrides": overrides, "name": name})
    try:
        run = request.plan(CODE, profile, overrides, name)
        # The look can take minutes, in which another start would take this run for a dead one.
        with worktree.hold(worktree.Run(own, CODE, CODE, {})), run.reading():
            end_dead_runs(own, log.info, look.FOLLOW, name_follow_run)
            return _look_and_run(run, profile, overrides, name, log)
    except PipelineError as error:
        drop_secret_parameters()
        return Failed(message=hide(str(error)))


def _look_and_run(
    run: worktree.Run, profile: str, overrides: list[str], name: str, log: FlowLogger
) -> State[Any]:
    seen = look.look(run)
    log.info("%s", seen.describe())
    state: State[Any] | None = None
    if seen.changed:
        with worktree.hold(run):
            look.announce(seen)
        state = adapt(profile=profile, overrides=overrides, name=name, return_state=True)
    failed = "" if state is None or state.is_completed() else state.message or str(state.name)
    if not failed:
        look.settle(seen)
    create_markdown_artifact(
        look.report(seen, run, failed), key=look.FOLLOW, description=seen.describe()
    )
    if failed:
        return Failed(message=failed)
    if state is None:
        return Completed(name="Unchanged", message=f"nothing changed in {seen.describe()}")
    return Completed(message=seen.describe())
