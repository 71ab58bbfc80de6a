"""``dvc.yaml`` as DVC reads it: the stages, their order, what each reads and writes."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import networkx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.repo.graph import build_graph
from dvc.stage import PipelineStage
from dvc.stage.exceptions import StageFileDoesNotExistError

from tasks.core.errors import PipelineError


@dataclass(frozen=True)
class Node:
    """One stage. Paths are relative to the repository's root; absolute if outside it."""

    name: str
    command: str
    #: Stages whose outputs this one reads.
    after: tuple[str, ...]
    deps: tuple[str, ...]
    #: Sections or keys of ``params.yaml``.
    params: tuple[str, ...]
    outs: tuple[str, ...]


def read_graph(root: Path) -> list[Node]:
    """Return the stages of ``root/dvc.yaml`` in topological order, ties in the file's order.

    Raises :class:`PipelineError` where DVC refuses the file (unknown parameter, overlapping
    outputs, a cycle, ...).
    """
    try:
        with Repo(str(root)) as repo:
            stages = [
                stage
                for stage in repo.stage.load_all(str(root / "dvc.yaml"))
                if isinstance(stage, PipelineStage)
            ]
            graph = build_graph(stages)
            place = {stage: position for position, stage in enumerate(stages)}
            order = networkx.lexicographical_topological_sort(
                graph.reverse(), key=place.__getitem__
            )
            return [_node(stage, [s.name for s in stages if s in graph[stage]]) for stage in order]
    except StageFileDoesNotExistError as error:
        raise PipelineError(
            f"{root / 'dvc.yaml'} does not exist: there is no graph to run"
        ) from error
    except DvcException as error:
        raise PipelineError(f"dvc.yaml: {error}") from error


def list_unchanged(root: Path, nodes: Sequence[Node]) -> frozenset[str]:
    """Return the stages that have nothing to do: ``dvc.lock`` fits them and all stages before them.

    One look in this process, where ``dvc repro --single-item`` starts another for each stage. What
    DVC cannot look at is not in it: running it gives DVC's error.
    """
    unchanged: set[str] = set()
    with contextlib.suppress(DvcException, OSError), Repo(str(root)) as repo, repo.lock:
        stages = {stage.name: stage for stage in repo.stage.load_all(str(root / "dvc.yaml"))}
        for node in nodes:
            with contextlib.suppress(DvcException, OSError):
                if unchanged.issuperset(node.after) and not stages[node.name].changed():
                    unchanged.add(node.name)
    return frozenset(unchanged)


def list_behind(nodes: Sequence[Node], stage: str) -> frozenset[str]:
    """Return a stage and all that read what it writes, directly or not; ``nodes`` are in order."""
    behind = {stage}
    for node in nodes:
        if not behind.isdisjoint(node.after):
            behind.add(node.name)
    return frozenset(behind)


def _node(stage: PipelineStage, after: list[str]) -> Node:
    files = [dep for dep in stage.deps if not hasattr(dep, "params")]
    keys = [key for dep in stage.deps for key in getattr(dep, "params", ())]
    return Node(
        stage.name,
        stage.cmd,
        tuple(after),
        tuple(str(dep) for dep in files),
        tuple(keys),
        tuple(str(out) for out in stage.outs),
    )
