"""Put right what a crash left behind in Prefect: a flow run whose process was killed says RUNNING for ever."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.runtime import flow_run
from prefect.states import Crashed

from flows import checkout

_MESSAGE = "its process was killed; the same run, started again, goes on where it stopped"


def end_dead_runs(name: str, log: Callable[[str], None], flow: str = "adapt", asked_name: Callable[[dict[str, Any]], str] = checkout.asked_name) -> None:
    """Mark as crashed every other flow run called ``name`` that says it is running.

    To be called by the run that holds the checkout of that name: nobody else can be running in it.
    """
    unfinished = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING])))
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), flow_run_filter=unfinished):
            if str(run.id) != flow_run.id and asked_name(run.parameters) == name:
                client.set_flow_run_state(run.id, Crashed(message=_MESSAGE), force=True)
                log(f"run of {run.start_time:%Y-%m-%d %H:%M} was killed: marked as crashed")
