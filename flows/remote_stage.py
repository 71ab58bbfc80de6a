"""Run a stage in another work pool, on a machine that shares this checkout's file system.

``PIPELINE_POOLS`` says which stages. Requester and worker exchange heartbeats through two files: a
stage must stop when its run is gone, and a run must not wait for ever for a machine that is. The
outcome comes back through the same files, so that Prefect's server may fail meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed

from flows.progress import FlowLogger
from flows.runs.dvc_repro import STOPPED, StageOutcome, reproduce
from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.files import read_json, write_json

VARIABLE = "PIPELINE_POOLS"
#: The flow that runs one stage. Each pool has a deployment of it, under the pool's name.
FLOW = "stage"
_BEAT_SECONDS = 2.0
#: Time without a heartbeat after which a side counts as gone: a shared file system may hang.
_SILENCE_SECONDS = 180.0


def read_pools(stages: Collection[str] | None = None) -> dict[str, str]:
    """Return stage -> work pool from ``PIPELINE_POOLS="generate=gpu finetune=gpu"``; a name that is
    not in ``stages`` is an error.
    """
    pools: dict[str, str] = {}
    for part in re.split(r"[\s,]+", os.environ.get(VARIABLE, "")):
        stage, _, pool = part.partition("=")
        if part and not (re.fullmatch(r"\w+", stage) and re.fullmatch(r"[\w.-]+", pool)):
            raise PipelineError(
                f"{VARIABLE}: {part!r} is not stage=pool, as in generate=gpu finetune=gpu"
            )
        if part and stages is not None and stage not in stages:
            raise PipelineError(
                f"{VARIABLE}: there is no stage {stage!r}{did_you_mean(stage, stages)}"
            )
        if part:
            pools[stage] = pool
    return pools


@dataclass
class _PeerFile:
    """The other side's file. That side is alive while the content changes, whatever its clock."""

    path: Path
    content: dict[str, Any] = field(default_factory=dict)
    changed: float = field(default_factory=time.monotonic)

    def read(self) -> dict[str, Any]:
        """Return the content; empty where it cannot be read."""
        try:
            content: dict[str, Any] = read_json(self.path)
        except (OSError, PipelineError, ValueError):
            content = {}
        if content != self.content:
            self.content, self.changed = content, time.monotonic()
        return content

    def is_silent(self) -> bool:
        """Tell whether the content has not changed for too long."""
        return time.monotonic() - self.changed > _SILENCE_SECONDS


class _Heartbeat:
    """This side's file, rewritten every two seconds."""

    def __init__(self, path: Path, ticket: str) -> None:
        self.path, self.ticket = path, ticket
        self._count, self._last = 0, 0.0

    def __call__(self) -> None:
        if time.monotonic() - self._last >= _BEAT_SECONDS:
            self._count, self._last = self._count + 1, time.monotonic()
            write_json(self.path, {"ticket": self.ticket, "beat": self._count})

    def stop(self) -> None:
        """Say that this side has ended: a worker that still runs the stage stops."""
        write_json(self.path, {"ticket": self.ticket, "stop": True})


def _files(folder: Path, stage: str) -> tuple[Path, Path]:
    place = folder / ".work" / "elsewhere"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{stage}.asked.json", place / f"{stage}.answer.json"


def request_stage(
    pool: str,
    folder: Path,
    stage: str,
    log: FlowLogger,
    watch: Callable[[], None],
    parent: str,
    command: str,
) -> StageOutcome:
    """Bring ``stage`` of the checkout in ``folder`` up to date in ``pool``, and wait.

    ``parent`` is the flow run that asks, ``command`` what a person would type for it. An error
    there is a failed outcome. What ``watch`` raises ends the request, and the stage there.
    """
    started = time.monotonic()
    question, answer = _files(folder, stage)
    ticket = uuid.uuid4().hex
    beat = _Heartbeat(question, ticket)
    beat()
    parameters = {
        "folder": str(folder.resolve()),
        "stage": stage,
        "ticket": ticket,
        "parent": parent,
        "command": command,
    }
    try:
        with _child(pool, parameters, beat) as child:
            log.info("%s: flow run %s waits for a worker of pool %r", stage, child, pool)
            outcome = _await(child, pool, stage, _PeerFile(answer), beat, watch, log)
    except ObjectNotFound:
        outcome = (
            f"this server has no deployment {FLOW}/{pool}: python -m flows.deploy creates it, with "
            f"the same {VARIABLE}"
        )
    finally:
        beat.stop()
    if isinstance(outcome, dict):
        return StageOutcome(**outcome)
    return StageOutcome(stage, "failed", time.monotonic() - started, outcome)


@contextlib.contextmanager
def _child(pool: str, parameters: dict[str, str], beat: _Heartbeat) -> Iterator[UUID]:
    """Create the flow run; cancel it if the block ends by an exception."""
    child = run_deployment(
        f"{FLOW}/{pool}", parameters=parameters, timeout=0, flow_run_name=parameters["stage"]
    )
    try:
        yield child.id
    except BaseException:
        beat.stop()  # first: the server may be away
        _end(child.id, Cancelled(message=STOPPED))
        raise


def _await(
    child: UUID,
    pool: str,
    stage: str,
    answer: _PeerFile,
    beat: _Heartbeat,
    watch: Callable[[], None],
    log: FlowLogger,
) -> dict[str, Any] | str:
    """Return the outcome that the worker wrote, or one line that says why there is none."""
    ended = 0.0
    warned = time.monotonic()
    while True:
        content = answer.read()
        watch()
        if content.get("ticket") == beat.ticket and "outcome" in content:
            return dict(content["outcome"])
        beat()
        state = _state(child)
        if state and state.is_final():
            ended = ended or time.monotonic()
            if not state.is_completed():
                return f"pool {pool}: {state.message or state.name}"
            if time.monotonic() - ended > 15:  # a shared file system shows a new file late
                return (
                    f"pool {pool}: the stage is done, but not in {answer.path.parents[2]}: the "
                    "pool's machines must share this file system"
                )
        elif state and state.is_running() and answer.is_silent():
            reason = f"pool {pool}: its worker sent no heartbeat for {_SILENCE_SECONDS:.0f} s"
            _end(child, Crashed(message=reason))
            return reason
        elif not (state and state.is_running()):
            answer.changed = time.monotonic()
            if state and time.monotonic() - warned > 60:
                warned = time.monotonic()
                log.warning(
                    "%s still waits for a worker: prefect worker start --pool %s", stage, pool
                )
        time.sleep(0.5)


def _state(child: UUID) -> State[Any] | None:
    try:
        with get_client(sync_client=True) as client:
            return client.read_flow_run(child).state
    except Exception:  # noqa: BLE001 - the server may fail: the files still have the state
        return None


def _end(child: UUID, state: State[Any]) -> None:
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        client.set_flow_run_state(child, state, force=True)


def serve_stage(
    folder: Path, stage: str, ticket: str, log: FlowLogger, parent: str, command: str
) -> StageOutcome:
    """Run a requested stage on the pool's machine.

    Stops when the requester is gone, has stopped, or has sent another request.
    """
    here = socket.gethostname()
    if not folder.is_dir():
        raise PipelineError(
            f"{folder} does not exist on {here}: the pool's machines must share the checkout's "
            "file system"
        )
    question, answer = _files(folder, stage)
    requester, beat = _PeerFile(question), _Heartbeat(answer, ticket)
    if not requester.read():
        raise PipelineError(STOPPED)

    def watch() -> None:
        content = requester.read()
        # What cannot be read is silence: a network file system may fail while a file is replaced.
        if content and (content.get("ticket") != ticket or content.get("stop")):
            raise PipelineError(STOPPED)
        if requester.is_silent():
            raise PipelineError(
                f"the requesting run sent no heartbeat for {_SILENCE_SECONDS:.0f} s: {STOPPED}"
            )
        beat()

    watch()
    environment = {"PIPELINE_FLOW_RUN": parent, "PIPELINE_COMMAND": command}
    outcome = reproduce(folder, stage, log.info, watch, environment)
    write_json(answer, {"ticket": ticket, "outcome": vars(outcome)})
    return outcome
