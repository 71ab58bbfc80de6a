"""What a matrix writes into MLflow: its cells' runs under one parent run."""

from __future__ import annotations

from pathlib import Path

from tasks.tracking.mlflow_store import OWNER, connect, experiment_id, find_run, owner
from tasks.tracking.registry import Ledger

MATRIX, MATRIX_CELL = "matrix", "matrix.cell"


def group_runs(
    experiment: str,
    name: str,
    cells: dict[str, str],
    metrics: dict[str, float],
    files: list[Path],
    gains: dict[str, dict[str, float]] | None = None,
) -> tuple[str, str]:
    """Put runs (cell -> run id) under one parent run called ``name`` with its metrics and files;
    return the ids of experiment and parent.

    ``gains`` (cell -> metrics) compare a cell with others, so its own run cannot hold them yet. The
    same matrix again uses the same parent, and logs only what has changed.
    """
    client = connect()
    parent = find_run(client, experiment, MATRIX, name)
    if parent is None:
        parent = client.create_run(
            experiment_id(client, experiment), run_name=name, tags={MATRIX: name, OWNER: owner()}
        )
    for cell, run_id in cells.items():
        client.set_tag(run_id, "mlflow.parentRunId", parent.info.run_id)
        client.set_tag(run_id, MATRIX_CELL, cell)
        if gains and cell in gains:
            Ledger(client, run_id).metrics(gains[cell])
    ledger = Ledger(client, parent.info.run_id)
    ledger.metrics(metrics)
    ledger.files(files)
    ledger.finish()
    return str(parent.info.experiment_id), str(parent.info.run_id)
