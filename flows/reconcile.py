"""End the flow runs in Prefect whose process was killed: they would say RUNNING for ever.

A run is dead when no process holds its checkout, on the machine and in the folder that its tags
name.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
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

from flows.runs import CODE, last_run, request, worktree
from tasks.core.process import is_alive

_MESSAGE = "its process was killed; start the same run again to continue it"
_HOST, _CHECKOUT = "host:", "checkout:"
#: A run that just started may not hold its checkout yet, nor have named its machine.
_GRACE = datetime.timedelta(minutes=2)


def tag_with_host() -> None:
    """Add the names of this machine and checkout to the tags of the current flow run, before it
    does anything else.

    On a shared server only they can tell whether the run is alive.
    """
    if flow_run.id:
        own = [_HOST + socket.gethostname(), f"{_CHECKOUT}{CODE}"]
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(flow_run.id)), tags=[*(flow_run.tags or []), *own])


def drop_secret_parameters() -> None:
    """Empty the parameters of the current flow run in Prefect's database if they hold a password or
    a key: the run refused them.
    """
    if flow_run.id and request.holds_secret(flow_run.parameters):
        with get_client(sync_client=True) as client:
            client.update_flow_run(UUID(str(flow_run.id)), parameters={})


def end_pending_runs(pool: str) -> None:
    """Mark runs of a work pool as crashed that were killed before they began: they count against
    its limit, so that no other run would ever start.
    """
    pending = _in_states(StateType.PENDING)
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(flow_run_filter=pending):
            if run.work_pool_name == pool and not _may_begin(run):
                client.set_flow_run_state(run.id, Crashed(message=_MESSAGE), force=True)


def _may_begin(run: FlowRun) -> bool:
    """Tell whether a pending run's process, whose host and number the worker noted, may live."""
    host, _, number = (run.infrastructure_pid or "").rpartition(":")
    if host and host != socket.gethostname():
        return True
    begun = datetime.datetime.now(datetime.UTC).timestamp()
    if host and number.isdecimal():
        if not is_alive(number):
            return False
        # The worker notes no start time. Its process began within moments of the state PENDING: one
        # of the same number that began later is another, as after a reboot.
        with contextlib.suppress(psutil.Error):
            begun = psutil.Process(int(number)).create_time()
    since = run.state.timestamp.timestamp() if run.state else -math.inf
    return begun - since < _GRACE.total_seconds()


def end_dead_runs(
    name: str,
    log: Callable[[str], None],
    flow: str = "adapt",
    run_name: Callable[[dict[str, Any]], str] = request.name_run,
) -> None:
    """Set the state of every dead run of ``flow``: crashed, or its outcome if the server missed it.

    The caller holds the checkout of ``name`` (empty: no checkout). Runs of other machines and
    checkouts are left alone. ``run_name`` derives a run's name from its parameters.
    """
    unfinished = _in_states(StateType.RUNNING, StateType.CANCELLING)
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=[flow])), flow_run_filter=unfinished
        ):
            other = run_name(run.parameters)
            if (
                str(run.id) == str(flow_run.id)
                or _is_of_another_machine(run)
                or _is_of_another_checkout(run)
                or (other != name and _may_live(run, other))
            ):
                continue
            state = _state(other, str(run.id))
            client.set_flow_run_state(run.id, state, force=True)
            log(
                f"run {other!r} of {run.start_time:%Y-%m-%d %H:%M} was killed: marked as "
                f"{state.name.lower()}"
            )


def _in_states(*states: StateType) -> FlowRunFilter:
    return FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*states])))


def _is_of_another_machine(run: FlowRun) -> bool:
    """Tell whether only another machine can know if a run is alive: its tags say where it runs, or
    the worker that began it.

    A run of which neither says it may be anywhere, so it is left alone while it is young. An old
    one was killed, wherever: the first thing that a run does is to tag itself.
    """
    hosts = [tag.removeprefix(_HOST) for tag in run.tags if tag.startswith(_HOST)]
    if not hosts and run.infrastructure_pid:
        hosts = [run.infrastructure_pid.rpartition(":")[0]]
    return socket.gethostname() not in hosts if hosts else _is_young(run)


def _is_of_another_checkout(run: FlowRun) -> bool:
    """Tell whether the tags name another checkout, which is still there: only its locks say whether
    the run is alive.
    """
    places = [tag.removeprefix(_CHECKOUT) for tag in run.tags if tag.startswith(_CHECKOUT)]
    return str(CODE) not in places and any(Path(place).is_dir() for place in places)


def _may_live(run: FlowRun, name: str) -> bool:
    return _is_young(run) or worktree.is_held(CODE, name)


def _is_young(run: FlowRun) -> bool:
    return run.start_time is None or datetime.datetime.now(datetime.UTC) - run.start_time < _GRACE


def _state(name: str, flow_run_id: str) -> State[Any]:
    """Return a dead run's state: the server may have died before it learnt how the run ended."""
    failed = last_run.read_ending(worktree.folder_of(CODE, name), flow_run_id)
    if failed is None:
        return Crashed(message=_MESSAGE)
    if failed:
        return Failed(message=failed)
    return Completed(message="all stages are done; the server did not run when they ended")
