"""What the forked processes of trials have ready."""

from __future__ import annotations

import gc
import importlib
import sys

from tests.faults.world import STAGES


def load_libraries() -> None:
    """Import once what the stages would import, some of it in the middle of their work, and compute
    once what depends on the installed packages and on our code alone: none of it is a file of a
    trial.
    """
    import git  # noqa: F401
    import great_expectations  # noqa: F401
    import matplotlib
    import mlflow
    import mlflow.pyfunc.scoring_server
    import mlflow.store.model_registry.sqlalchemy_workspace_store
    import mlflow.store.tracking.sqlalchemy_workspace_store
    import mlflow.transformers  # noqa: F401
    import peft  # noqa: F401
    import transformers.pipelines  # noqa: F401
    from mlflow.utils import requirements_utils
    from sqlalchemy.orm import configure_mappers

    from tasks.claims.patterns import load_patterns
    from tasks.core.code import code_digest

    matplotlib.use("Agg")  # as register does; what follows loads it
    importlib.import_module("matplotlib.pyplot")
    for stage in STAGES:
        importlib.import_module(f"tasks.{stage}.stage")

    configure_mappers()
    requirements_utils._init_packages_to_modules_map()  # MLflow's, of all installed packages
    load_patterns()
    # A third to two thirds of what a stage takes here: it reads all code that it imports.
    ours = [name for name in sys.modules if name.startswith("tasks.")]
    keyed = {name for name in ours if hasattr(sys.modules[name], "work_key")}
    for name in sorted({"tasks.ingest.file_pool", *keyed} - {"tasks.core.store"}):
        code_digest(name)
    gc.freeze()  # else each child would look through all of it, and copy it
