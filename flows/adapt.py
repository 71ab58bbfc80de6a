"""The Prefect flow: one task run for each stage of ``dvc.yaml``.

Each runs ``dvc repro --single-item STAGE`` in its own process. The order comes from DVC. The flow
skips what ``dvc repro`` has already done, and the other way round.

Annotations are not postponed here: a deployment loads this module by file name, and Prefect then
cannot resolve postponed names.
"""

import threading
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows import cancelled, remote_stage
from flows.progress import FlowLogger, Watcher, drop_failure_records
from flows.reconcile import drop_secret_parameters, end_dead_runs, tag_with_host
from flows.runs import CODE, figures, forecast, request, worktree
from flows.runs.board import ENDED, begin_board, find_ending, mark, read_progress
from flows.runs.dvc_graph import Node, list_behind, list_unchanged, read_graph
from flows.runs.dvc_repro import (
    StageOutcome,
    StoppedError,
    reproduce,
    stop_children,
    unless_stopped,
)
from flows.runs.last_run import UNDONE, remove_explanations, write_outcomes
from flows.runs.limits import STOPPED, RunLimits, TimeUp
from flows.runs.registration import REGISTER, find_lost
from flows.runs.unsettled import INGEST, explain_unsettled
from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT, profile_names
from tasks.core.secrets import hide
from tasks.core.task_types import TASK_TYPES

TypeName = Enum("TypeName", {name: name for name in TASK_TYPES}, type=str)  # type: ignore[misc]
#: Text, not a list to choose from: that would be the profiles that were there when ``make ui``
#: began, and would take only one. An unknown name is refused.
Profile = Annotated[
    str,
    Field(
        pattern=r"^[^/;\n]*$",
        max_length=1000,
        json_schema_extra={
            "description": "Files of profiles/ that overlay params.yaml, with commas between; the "
            f"last one wins. {DEFAULT}: params.yaml alone, in the main checkout. There when make "
            f"ui began: {', '.join(profile_names(CODE / 'profiles'))}. A file that you add later "
            "can be named, too."
        },
    ),
]
Override = Annotated[str, Field(pattern=r"^[a-z_]+(\.[a-z_]+)+=")]
Name = Annotated[str, Field(max_length=80)]
Text = Annotated[str, Field(max_length=1000)]
RowLimit = Annotated[int, Field(ge=0, le=10_000_000)]
Minutes = Annotated[float, Field(ge=0.0)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _run_name() -> str:
    """Return the name of the run's checkout and DVC experiment."""
    return request.name_run(flow_run.parameters)


#: A stage needs the whole machine, and DVC locks the checkout while one runs.
_ONE_AT_A_TIME: Any = ThreadPoolTaskRunner(max_workers=1)


@flow(name="adapt", flow_run_name=_run_name, task_runner=_ONE_AT_A_TIME)
def adapt(
    profile: Profile = DEFAULT,
    corpus: Text = "",
    task_types: list[TypeName] = [],  # noqa: B006  Prefect copies it
    generator: Text = "",
    model: Text = "",
    rows: RowLimit = 0,
    seed: Seed = 0,
    max_minutes: Minutes = 0.0,
    overrides: list[Override] = [],  # noqa: B006
    name: Name = "",
) -> State[Any]:
    """Adapt a language model to unlabelled text: run every stage that is not up to date, in order.

    Args:
        profile: Files of profiles/ that overlay params.yaml, with commas between.
        corpus: Folder or file of documents, on the machine that runs this. Empty: the profile's.
        task_types: What kinds of tasks to generate. None: the profile's.
        generator: The Bonito model or adapter that writes the tasks: a path or a hub name. Empty:
            the profile's.
        model: The target model to adapt: a path or a hub name. Empty: the profile's.
        rows: Most training rows, of all sources together, drawn with the seed. 0: the profile's.
        seed: Seed of generation, selection and training; the questions asked stay the same. 0: the
            profile's.
        max_minutes: The run ends after this number of minutes, even in the middle of a stage. The
            same request continues it. 0: the profile's.
        overrides: Settings for this run only, each section.key=value, such as
            generate.temperature=0.7.
        name: Name of the run's worktree and DVC experiment. Empty: derived from the profile and
            the settings.
    """
    log = get_run_logger()
    drop_failure_records()
    set_prefect_environment(CODE)
    tag_with_host()
    try:
        fields = {
            "corpus": corpus,
            "task_types": task_types,
            "generator": generator,
            "model": model,
            "rows": rows,
            "seed": seed,
            "max_minutes": max_minutes,
        }
        run = request.plan(
            CODE, profile, request.read_settings({**fields, "overrides": overrides}), name
        )
        with worktree.hold(run):
            end_dead_runs(run.name, log.info)
            worktree.prepare(run, log.info)
            for doubt in request.find_doubts(run):
                log.warning("%s", doubt)
            log.info("run %r in %s", run.name, run.path)
            with cancelled.heed_cancel():
                return _run_graph(run, log)
    except PipelineError as error:
        drop_secret_parameters()
        return Failed(message=hide(str(error)))
    except cancelled.CancelledOnPageError:
        return Cancelled(message=cancelled.MESSAGE)


def _run_graph(run: worktree.Run, log: FlowLogger) -> State[Any]:
    began, nodes = time.time(), read_graph(run.path)
    stopped = threading.Event()
    try:
        futures = _submit(run, nodes, stopped, log)
        outcomes = [_outcome(node, futures[node.name]) for node in nodes]
    # Ctrl-C, or cancelled in the UI. Only this thread learns of it, not the one that waits for the
    # stage.
    except BaseException:
        stopped.set()  # else a next stage could begin, and Prefect would wait for its end
        stop_children()
        raise
    _keep(run, outcomes, began, log)
    ended = next((outcome for outcome in outcomes if outcome.status in ENDED), None)
    if ended:
        name = STOPPED if ended.status == "stopped" else "Failed"
        return Failed(name=name, message=f"{ended.stage}: {ended.error}")
    if run.own_checkout:
        log.info("%s", worktree.record(run))
    ran = sum(outcome.status == "ran" for outcome in outcomes)
    return Completed(message=f"{ran} of {len(outcomes)} stages ran, the others were up to date")


def _submit(
    run: worktree.Run, nodes: list[Node], stopped: threading.Event, log: FlowLogger
) -> dict[str, PrefectFuture[Any]]:
    """Submit every stage, each after those whose outputs it reads; return their futures by name."""
    pools = remote_stage.read_pools([node.name for node in nodes])
    limits = RunLimits.of(run.params, run.command)
    begin_board(run.path, [node.name for node in nodes])
    unchanged = _find_unchanged(run.path, nodes, log)
    futures: dict[str, PrefectFuture[Any]] = {}
    for node in nodes:
        named = run_stage.with_options(name=node.name, task_run_name=node.name)
        futures[node.name] = named.submit(
            run.path,
            node.name,
            pools.get(node.name, ""),
            limits,
            stopped,
            node.after,
            node.name in unchanged,
            return_state=False,
            wait_for=[futures[other] for other in node.after],
        )
    return futures


def _find_unchanged(checkout: Path, nodes: list[Node], log: FlowLogger) -> frozenset[str]:
    """Return the stages that have nothing to do, of which DVC knows by their files, and not by what
    a reader missed or the MLflow store lost.
    """
    unchanged = list_unchanged(checkout, nodes)
    if INGEST in unchanged and explain_unsettled(checkout):
        unchanged -= list_behind(nodes, INGEST)
    if REGISTER in unchanged and find_lost(checkout, log.warning):
        unchanged -= {REGISTER}
    return unchanged


def _keep(run: worktree.Run, outcomes: list[StageOutcome], began: float, log: FlowLogger) -> None:
    """Write how each stage ended, and show the run's figures on its page."""
    for outcome in outcomes:
        mark(run.path, outcome.stage, outcome.status, outcome.seconds, outcome.error)
    remove_explanations(run.path, outcomes)
    settings, own = worktree.fingerprint_results(run.params), str(flow_run.id or "")
    write_outcomes(run.path, run.name, outcomes, own, run.command, settings, began)
    ran = any(outcome.status == "ran" for outcome in outcomes)
    done = {outcome.stage for outcome in outcomes if outcome.status not in UNDONE}
    # The run is done, whether or not its forecast can be read and its server answers.
    try:
        compared = forecast.record(run.path, run.main, log.info, log.warning) if ran else []
        _show(run.path, done, [one.row() for one in compared])
    except Exception as error:  # noqa: BLE001
        log.warning("Prefect cannot show the tables (%s)", type(error).__name__)


@task(persist_result=False, cache_policy=NO_CACHE)
def run_stage(
    folder: Path,
    stage: str,
    pool: str,
    limits: RunLimits,
    stopped: threading.Event,
    after: tuple[str, ...] = (),
    unchanged: bool = False,
) -> State[dict[str, Any]]:
    """Bring one stage of the checkout in ``folder`` up to date, here or in another work pool.

    ``limits.command`` asks for the run again: a registered model's card shows it. Nothing starts
    once the run is ``stopped``. ``after`` are the stages whose outputs this one reads.
    ``unchanged`` says that DVC was asked, and has nothing to do here.
    """
    log = get_run_logger()
    watcher = Watcher(folder, stage, log)
    ending = "the run was stopped" if stopped.is_set() else find_ending(folder)
    if ending:
        # The run has ended already: what does not depend on that stage waits, as with `dvc repro`.
        outcome = StageOutcome(stage, "not run", 0.0)
        return Completed(name="NotRun", message=f"not run: {ending}", data=vars(outcome))
    began = time.time()

    def watch() -> None:
        watcher.poll()
        limits.check_time()

    try:
        limits.check_time()
        shortfall = limits.find_shortfall(folder, after)
        if shortfall:
            outcome = StageOutcome(stage, "stopped", 0.0, shortfall)
        elif unchanged:
            outcome = StageOutcome(stage, "unchanged", 0.0)
        else:
            mark(folder, stage, "running")
            heeding = unless_stopped(stopped, watch)
            outcome = _work(folder, stage, pool, limits.command, log, heeding)
    except StoppedError as error:
        outcome = StageOutcome(stage, "failed", time.time() - began, str(error))
    except TimeUp:
        line = limits.explain_time(stage, read_progress(folder, stage, began))
        outcome = StageOutcome(stage, "stopped", time.time() - began, line)
    mark(folder, stage, outcome.status, outcome.seconds, outcome.error)
    if outcome.status in ENDED:
        name = STOPPED if outcome.status == "stopped" else "Failed"
        return Failed(name=name, message=outcome.error, data=vars(outcome))
    name, message = {
        "ran": ("Completed", f"done in {outcome.seconds:.0f} s"),
        "unchanged": ("Unchanged", "unchanged, skipped"),
        "restored": ("Unchanged", "restored from the cache: an earlier run did the same work"),
    }[outcome.status]
    log.info("%s: %s", stage, message)
    return Completed(name=name, message=message, data=vars(outcome))


def _work(
    folder: Path,
    stage: str,
    pool: str,
    command: str,
    log: FlowLogger,
    watch: Callable[[], None],
) -> StageOutcome:
    run_id = str(flow_run.id or "")
    if pool:
        return remote_stage.request_stage(pool, folder, stage, log, watch, run_id, command)
    environment = {"PIPELINE_FLOW_RUN": run_id, "PIPELINE_COMMAND": command}
    return reproduce(folder, stage, log.info, watch, environment)


def _outcome(node: Node, future: PrefectFuture[Any]) -> StageOutcome:
    future.wait()
    state = future.state
    if state.is_pending():
        return StageOutcome(node.name, "not run", 0.0)
    fields = state.result(raise_on_failure=False)
    if isinstance(fields, dict):
        return StageOutcome(**fields)
    # The task itself broke, not the stage.
    return StageOutcome(node.name, "failed", 0.0, state.message or str(state.name))


def _show(path: Path, done: set[str], compared: list[dict[str, Any]]) -> None:
    """Put the tables and the links on the run's page, of the stages that this run has done: of
    others the artifacts are an earlier run's.
    """
    create_markdown_artifact(
        figures.list_links(path, done), key="links", description="model, report, data version"
    )
    f1 = figures.tabulate_f1(path) if "evaluate" in done else []
    for key, description, rows in (
        ("rows", "rows in, kept and dropped, by stage", figures.tabulate_rows(path, done)),
        ("f1", "F1 in points (0-100) with 95 % intervals", f1),
        ("forecast", "what make plan forecast (80 % intervals) and what came", compared),
    ):
        if rows:
            create_table_artifact(rows, key=key, description=description)
