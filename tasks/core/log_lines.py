"""What a command prints: our own lines, errors of libraries, and nothing for a reader that left."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from functools import partial
from typing import Any

from tasks.core.process import rank

#: "1" leaves out our time and name: for a parent that adds both to every line, as Prefect does.
BARE = "STAGE_BARE_LINES"
#: Loggers of which only errors are shown. bitsandbytes advises to install a package that would
#: fetch compiled code from a hub; the others report progress, as our own lines do.
_LOGGERS = (
    "alembic",
    "bitsandbytes",
    "great_expectations",
    "httpx",
    "httpx2",
    "matplotlib",
    "mlflow",
    "torch._library",
    "transformers",
    "vllm",
)
#: Libraries that warn of their own calls into others, which we cannot change. MLflow also warns
#: that a dataset's local path matches two of its classes, which are the same class twice.
_WARNERS = ("peft", "vllm", "mlflow")
_VARIABLES = {
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # torch reads it once, at its import: unset, every engine start prints a warning about memory
    # binding.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def quiet_libraries() -> None:
    """Hide the messages of libraries below an error.

    Called when ``tasks`` is imported: bitsandbytes and torch log during their import, before a
    stage's ``main`` can set up logging.
    """
    for logger in _LOGGERS:
        logging.getLogger(logger).setLevel(logging.ERROR)
    for library in _WARNERS:
        warnings.filterwarnings("ignore", module=rf"{library}\..*")
    for variable, value in _VARIABLES.items():
        os.environ.setdefault(variable, value)


def set_up_logging(name: str) -> None:
    """Print our lines on standard error, after the time and ``name`` unless :data:`BARE` is set."""
    bare = os.environ.get(BARE) == "1"
    handler = logging.StreamHandler(sys.stderr)
    form = "%(message)s" if bare else f"%(asctime)s {name:9} %(message)s"
    handler.setFormatter(_Printable(form, "%H:%M:%S"))
    level = logging.INFO if rank() == 0 else logging.WARNING
    logging.basicConfig(level=level, handlers=[handler], force=True)
    quiet_libraries()  # again: a library imported since then has set its own level


def tell_interrupts(name: str) -> None:
    """From now on print one line where Ctrl-C ends the command."""
    sys.excepthook = partial(_end, name)


def _end(name: str, kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print what ends a command: Ctrl-C is no fault, and has no trace."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"{name}: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def ignore_closed_stdout() -> None:
    """From now on drop what is printed after the reader of standard output has gone.

    So ``make why | head`` ends without a trace, and a command that prints while it works finishes
    and returns its own status. What programs started afterwards print is dropped too.
    """
    printed = sys.stdout
    if printed is not sys.__stdout__ or not isinstance(printed, io.TextIOWrapper):
        return  # done before, closed, or captured by a test
    printed.flush()
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(printed.fileno(), "wb", closefd=False)),
        encoding=printed.encoding,
        errors=printed.errors,
        line_buffering=printed.line_buffering or printed.write_through,
    )


class _Printable(logging.Formatter):
    """Leaves out control characters: a file's name may hold commands to the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text = super().formatMessage(record)
        return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


class _Stdout(io.FileIO):
    """Standard output; from the first write that nobody reads it goes to the null device."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return super().write(data)
