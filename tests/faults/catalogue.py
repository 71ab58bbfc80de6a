"""The faults: what is done, and what has to hold afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from tests.faults.world import STAGES

if TYPE_CHECKING:
    from tests.faults.world import World

#: Does one trial; returns an empty string if the promise was kept, else what went wrong.
Trial = Callable[["World", Random], str]


#: What the default tests try once each: the faults that the code answers in different ways.
SHORT = (
    "SIGKILL of generate",
    "SIGKILL of the parent of finetune",
    "SIGKILL of the whole group of ingest",
    "SIGKILL of a run that recovers from one",
    "kill at each moment of a file's commit",
    "kill at each moment of a folder's commit",
    "data is on the disk before its name is",
    "a reader while a stage writes",
    "the disk fails (EIO)",
    "no more files can be opened (EMFILE)",
    "a stage that is stopped past the next one's patience",
    "half-done work of an earlier version",
    "two different faults, one after the other",
    "a second run while one works names the holder",
    "disk full",
    "corrupt shard of generate",
    "corrupt journal of ingest",
    "corrupt checkpoint",
    "corrupt output put back from DVC's cache",
    "other clock, time zone, hash seed, workers, locale",
)


def _nothing() -> str:
    return ""


@dataclass(frozen=True)
class Fault:
    """One line of the table."""

    name: str
    trial: Trial
    #: The one stage that its trials are about; empty where they choose among all.
    stage: str = ""
    #: Returns what this machine lacks for it, or an empty string.
    needs: Callable[[], str] = _nothing


def faults() -> list[Fault]:
    """Return all of them, in the order of the table."""
    from tests.faults import (
        combined,
        commits,
        corruption,
        disk,
        earlier,
        errors,
        hostile,
        kills,
        network,
        pairs,
        reader,
        runs,
        servers,
        stopped,
        surroundings,
    )

    return [
        *[Fault(f"SIGKILL of {stage}", kills.stage(stage), stage) for stage in STAGES],
        *[
            Fault(f"SIGKILL of the parent of {stage}", kills.parent(stage), stage)
            for stage in STAGES
        ],
        *[
            Fault(f"SIGKILL of the whole group of {stage}", kills.group(stage), stage)
            for stage in STAGES
        ],
        Fault("SIGKILL of a run that recovers from one", kills.recovering),
        Fault("two different faults, one after the other", combined.two_faults),
        Fault("kill at each moment of a file's commit", commits.file),
        Fault("kill at each moment of a folder's commit", commits.folder),
        Fault("kill of a stage over its old output", commits.stage),
        Fault("data is on the disk before its name is", commits.order),
        Fault("a reader while a stage writes", reader.every_moment),
        Fault("the disk fails (EIO)", errors.disk_fails),
        Fault("no more files can be opened (EMFILE)", errors.no_more_files),
        Fault("SIGKILL of the process that reads files for ingest", errors.worker_dies),
        Fault("the process that reads files for ingest stands still", errors.worker_stops),
        Fault("two runs of a stage started at once", pairs.at_once),
        Fault("a second run while one works names the holder", pairs.names_holder),
        Fault("a stage that is stopped past the next one's patience", stopped.stage),
        Fault("a worker that is stopped past its heartbeat", stopped.worker),
        Fault("half-done work of an earlier version", earlier.work),
        Fault("disk full", disk.full, needs=disk.needs),
        Fault("Prefect server killed in mid-run", servers.prefect_killed),
        Fault("MLflow server killed while training", servers.mlflow_killed),
        Fault("MLflow server not there for registering", servers.mlflow_absent),
        Fault("runs left RUNNING in Prefect by a crash", runs.left_running),
        Fault("runs left RUNNING in MLflow by a crash", servers.left_running),
        Fault("cancelled in the page, then the same request", runs.cancelled),
        Fault("corrupt shard of generate", corruption.shard),
        Fault("corrupt journal of ingest", corruption.journal),
        Fault("corrupt head of ingest's journal", corruption.journal_head),
        Fault("corrupt journal of evaluate", corruption.predictions),
        Fault("corrupt checkpoint", corruption.checkpoint),
        Fault("corrupt merged model in the cache", corruption.merged),
        Fault("corrupt output put back from DVC's cache", corruption.output),
        Fault("corrupt object of DVC's cache, repaired", runs.damaged_cache),
        Fault("other clock, time zone, hash seed, workers, locale", surroundings.changed),
        Fault("hostile template", hostile.template),
        Fault("hostile document", hostile.document),
        Fault("a piece of the hostile suite", hostile.suite),
        Fault(
            "no network: every stage, cut off, under an empty environment",
            network.whole,
            needs=network.needs,
        ),
    ]


def select(only: str, skip: str, short: bool = False) -> list[Fault]:
    """Return the faults that ``only`` names and ``skip`` does not; ``short``: of those in
    :data:`SHORT`.
    """
    chosen = [fault for fault in faults() if not short or fault.name in SHORT]
    return [
        fault
        for fault in chosen
        if (not only or _named(fault, only)) and not (skip and _named(fault, skip))
    ]


def _named(fault: Fault, words: str) -> bool:
    """Tell whether ``words`` is the fault's name, or one of them (separated by commas) stands in
    it.
    """
    names = {other.name for other in faults()}
    return (
        fault.name == words
        if words in names
        else any(word in fault.name for word in words.split(","))
    )
