"""The matrix as a Prefect flow: one task run for each cell, a pipeline run in its own worktree.

Cells share passages, generated rows and the zero-shot baseline through DVC's cache. A matrix that
was killed and started again skips finished work. A failed cell reports its error and the others
continue. One cell runs at a time, or one on each GPU.

Annotations are not postponed here: a deployment loads this module by file name, and Prefect then
cannot resolve postponed names.
"""

import os
import queue
import shutil
import subprocess
import threading
from itertools import takewhile
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows import cancelled
from flows.matrix.cells import Cell, check_inputs, expand
from flows.matrix.matrix_file import Matrix, read_matrix
from flows.matrix.results import Result, tabulate_cells
from flows.matrix.run_cell import OUT, bring_up_to_date, write_results
from flows.progress import FlowLogger, Watcher, drop_failure_records
from flows.reconcile import end_dead_runs, tag_with_host
from flows.runs import CODE, worktree
from flows.runs.dvc_repro import stop_children, unless_stopped
from flows.runs.readers import reading
from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.secrets import hide

#: What a request without a file asks for.
_FILE = "matrices/embedded.yaml"


def list_gpus() -> list[str]:
    """Return the GPUs that cells may use, by number; none on a CPU."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        # CUDA sees none from -1 on.
        names = takewhile(lambda name: name != "-1", map(str.strip, given.split(",")))
        return [name for name in names if name]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout.split() if listed.returncode == 0 else []


def name_matrix_run(parameters: dict[str, Any]) -> str:
    """Return the name by which a flow run's matrix is locked and shown."""
    return f"matrix-{Path(str(parameters.get('file') or _FILE)).stem}"


def _run_name() -> str:
    return name_matrix_run(flow_run.parameters)


_RUNNER: Any = ThreadPoolTaskRunner(max_workers=max(1, len(list_gpus())))


@flow(name="matrix", flow_run_name=_run_name, task_runner=_RUNNER)
def matrix(file: str = _FILE) -> State[Any]:
    """Compare supervision sources: run every cell of a matrix file and write a report.

    Args:
        file: A matrix file, see docs/matrix.md.
    """
    log = get_run_logger()
    drop_failure_records()
    set_prefect_environment(CODE)
    tag_with_host()
    try:
        plan = read_matrix(CODE / file)
        cells = expand(plan, CODE)
        check_inputs(plan, cells, CODE)
        name = name_matrix_run({"file": file})
        with worktree.hold(worktree.Run(name, CODE, CODE, {})):
            end_dead_runs(name, log.info, "matrix", name_matrix_run)
            # A finished cell is read again for the report.
            with reading(CODE, [cell.name for cell in cells]), cancelled.heed_cancel():
                return _run_cells(plan, cells, log)
    except PipelineError as error:
        return Failed(message=hide(str(error)))
    except cancelled.CancelledOnPageError:
        return Cancelled(message=cancelled.MESSAGE)


def _run_cells(plan: Matrix, cells: list[Cell], log: FlowLogger) -> State[Any]:
    log.info("matrix %r: %d cells", plan.name, len(cells))
    free: queue.Queue[str] = queue.Queue()
    for number in list_gpus() or [""]:
        free.put(number)
    stopped = threading.Event()
    futures: dict[str, PrefectFuture[Any]] = {}
    results: list[Result] = []
    try:
        for cell in cells:
            named = run_cell.with_options(name=cell.name, task_run_name=cell.name)
            futures[cell.name] = named.submit(
                cell,
                free,
                stopped,
                return_state=False,
                wait_for=[futures[cell.start]] if cell.start else [],
            )
        for cell in cells:
            results.append(_result(cell, futures[cell.name]))
            write_results(plan, results, CODE, final=cell is cells[-1])
    except BaseException:  # Ctrl-C, or cancelled from the UI
        stopped.set()  # else the next cell would begin, and Prefect would wait for its end
        stop_children()
        raise
    rows = tabulate_cells(results, CODE)
    names = ["cell", "f1", "f1_low", "f1_high", "status", "reason"]
    if any(row["start"] is not None for row in rows):
        names[1:1] = ["start", "gain_over_start"]
    shown = [{name: row[name] for name in names} for row in rows]
    create_table_artifact(shown, key="cells", description="F1 in points of every cell")
    done = sum(result.status == "done" for result in results)
    message = f"{done} of {len(results)} cells done; report: {OUT / plan.name / 'report.html'}"
    return Completed(message=message) if done == len(results) else Failed(message=message)


@task(persist_result=False, cache_policy=NO_CACHE)
def run_cell(cell: Cell, free: "queue.Queue[str]", stopped: threading.Event) -> State[Any]:
    """Bring one cell up to date, on a GPU of its own where there are any, unless the matrix was
    ``stopped``.
    """
    log = get_run_logger()
    gpu = free.get()
    try:
        if stopped.is_set():
            return Failed(message="not run: the matrix was stopped")
        environment = {
            "PIPELINE_FLOW_RUN": str(flow_run.id or ""),
            **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}),
        }
        result = bring_up_to_date(
            cell,
            CODE,
            environment,
            int(bool(gpu)),
            log.info,
            lambda path, stage: unless_stopped(stopped, Watcher(path, stage, log).poll),
        )
    finally:
        free.put(gpu)
    if result.status != "done":
        return Failed(message=result.reason, data=result)
    return Completed(message="done", data=result)


def _result(cell: Cell, future: PrefectFuture[Any]) -> Result:
    future.wait()
    state = future.state
    if state.is_pending():
        return Result(cell, "not run", f"it continues cell {cell.start}, which failed")
    result = state.result(raise_on_failure=False)
    if isinstance(result, Result):
        return result
    return Result(cell, "failed", state.message or str(state.name))
