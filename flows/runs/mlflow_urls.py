"""Addresses of MLflow's pages: the runs of an experiment compared, and one run.

MLflow 3.17 opens its view of chat applications unless the address names another one.
``python -m flows.runs.mlflow_urls`` prints the id of the experiment that params.yaml names, and
creates the experiment where it is missing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from flows.runs.own_process import run_module
from tasks.core.errors import PipelineError
from tasks.core.secrets import bare_address

_TRAINING = "workflowType=machine_learning"


def runs_page(server: str, experiment: str) -> str:
    """Return the address of an experiment's runs with a chart of every metric."""
    page = f"{bare_address(server)}/#/experiments/{experiment}/runs"
    return f"{page}?{_TRAINING}&compareRunsMode=CHART"


def run_page(server: str, experiment: str, run: str) -> str:
    """Return the address of one run."""
    return f"{bare_address(server)}/#/experiments/{experiment}/runs/{run}?{_TRAINING}"


def ask_experiment(checkout: Path) -> str:
    """Return the experiment's id, or "" on failure."""
    try:
        return run_module("flows.runs.mlflow_urls", "experiment", checkout)
    except PipelineError:
        return ""


def main() -> int:
    """Print the id."""
    from tasks.core.params import load_params
    from tasks.tracking.mlflow_store import connect, experiment_id

    print(experiment_id(connect(), load_params(Path("params.yaml")).register.experiment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
