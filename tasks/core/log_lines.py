"""What a stage prints: our own lines, and of the libraries only what is wrong."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from tasks.core.process import rank

#: Set where the parent stamps and names every line itself, as Prefect does: "1" leaves our own
#: stamp out.
BARE = "STAGE_BARE_LINES"
#: Loggers of which only errors are shown. bitsandbytes advises to install a package that would
#: fetch compiled code from a hub; the others report what they are doing, which our lines say.
_LOGGERS = (
    "alembic",
    "bitsandbytes",
    "great_expectations",
    "httpx",
    "matplotlib",
    "mlflow",
    "torch._library",
    "transformers",
    "vllm",
)
#: Libraries that warn of their own calls into others, which nobody here can change. MLflow also
#: warns that a data set's local path matches two of its classes, which are the same class twice.
_WARNERS = ("peft", "vllm", "mlflow")
_VARIABLES = {
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # torch reads it once, when it is loaded: without it every engine start prints a warning about
    # memory binding.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def quiet_libraries() -> None:
    """Leave out what libraries say below an error.

    Called when ``tasks`` is imported: bitsandbytes and torch speak while they are being imported,
    before a stage's ``main`` can set up logging.
    """
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    for library in _WARNERS:
        warnings.filterwarnings("ignore", module=rf"{library}\..*")
    for variable, value in _VARIABLES.items():
        os.environ.setdefault(variable, value)


def set_up_logging(name: str) -> None:
    """Print our own lines on standard error, with the time and the stage's ``name`` in front unless
    the parent process adds both (:data:`BARE`).
    """
    bare = os.environ.get(BARE) == "1"
    logging.basicConfig(
        level=logging.INFO if rank() == 0 else logging.WARNING,
        format="%(message)s" if bare else f"%(asctime)s {name:9} %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stderr,
        force=True,
    )
    quiet_libraries()  # again: a library that is imported by now has set its own level
