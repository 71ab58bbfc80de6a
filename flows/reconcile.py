"""Put right what a crash left behind in Prefect: a flow run whose process was killed says RUNNING
for ever.

A run is dead when nobody holds its checkout, on the machine that it names in its tags.
"""

from __future__ import annotations

import datetime
import socket
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.runtime import flow_run
from prefect.states import Completed, Crashed, Failed

from flows.runs import request, summary, worktree
from flows.runs.die_with_parent import CODE

_MESSAGE = "its process was killed; the same run, started again, goes on where it stopped"
_HOST = "host:"
#: A run that has just started may not hold its checkout yet.
_GRACE = datetime.timedelta(minutes=2)


def tag_with_host() -> None:
    """Write this machine's name into the tags of the flow run that is going on: on a shared server
    only it can tell whether the run lives.
    """
    if flow_run.id:
        with get_client(sync_client=True) as client:
            client.update_flow_run(
                UUID(str(flow_run.id)), tags=[*(flow_run.tags or []), _HOST + socket.gethostname()]
            )


def end_dead_runs(
    name: str,
    log: Callable[[str], None],
    flow: str = "adapt",
    asked_name: Callable[[dict[str, Any]], str] = request.name_run,
) -> None:
    """Give every dead run of ``flow`` the state it should have: crashed, or how it went if it could
    not tell the server any more.

    To be called by the run that holds the checkout of ``name`` (an empty name: by none). Runs of
    other machines are left alone.
    """
    unfinished = FlowRunFilter(
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])
        )
    )
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), flow_run_filter=unfinished
        ):
            own = asked_name(run.parameters)
            if (
                str(run.id) == str(flow_run.id)
                or _is_of_another_machine(run)
                or (own != name and _may_live(run, own))
            ):
                continue
            state = _state(own, str(run.id))
            client.set_flow_run_state(run.id, state, force=True)
            log(
                f"run {own!r} of {run.start_time:%Y-%m-%d %H:%M} was killed: marked as "
                f"{state.name.lower()}"
            )


def _is_of_another_machine(run: FlowRun) -> bool:
    hosts = [tag for tag in run.tags if tag.startswith(_HOST)]
    return bool(hosts) and _HOST + socket.gethostname() not in hosts


def _may_live(run: FlowRun, name: str) -> bool:
    if run.start_time is None or datetime.datetime.now(datetime.UTC) - run.start_time < _GRACE:
        return True
    return worktree.is_held(CODE, name)


def _state(name: str, flow_run_id: str) -> State[Any]:
    """Return what became of a run: the server may have died before the run's end reached it."""
    failed = summary.read_ending(worktree.folder_of(CODE, name), flow_run_id)
    if failed is None:
        return Crashed(message=_MESSAGE)
    return (
        Failed(message=failed)
        if failed
        else Completed(message="all stages were done; the server was not there to be told")
    )
