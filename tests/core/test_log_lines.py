"""What a stage prints: its own lines, stamped once, and nothing of the libraries below an error.

That importing the stages prints nothing is tested in test_privacy.py, with the same imports.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tasks.core.log_lines import BARE
from tests.conftest import ROOT


def _run(code: str, **variables: str) -> str:
    """Return what a fresh interpreter prints, on both streams."""
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "logger", ["bitsandbytes.backends.cpu.ops", "transformers.modeling_utils", "vllm.config"]
)
def test_a_library_that_speaks_while_it_is_imported_is_silent(logger: str) -> None:
    speak = f"import logging; logging.getLogger({logger!r})"
    assert _run(f"import tasks; {speak}.warning('pip install kernels')") == ""
    assert _run(f"import tasks; {speak}.error('broken')") == "broken\n"


def test_a_warning_of_mlflow_about_its_own_classes_is_left_out() -> None:
    code = (
        "import tasks, warnings; warnings.warn_explicit('interpreted in multiple ways', "
        "UserWarning, 'registry.py', 148, module={module!r})"
    )
    assert _run(code.format(module="mlflow.data.dataset_source_registry")) == ""
    assert "multiple ways" in _run(code.format(module="pandas.core"))


def test_a_name_of_a_file_sends_no_command_to_the_terminal() -> None:
    code = (
        "from tasks.core.stage import one_line_errors; from tasks.core.errors import PipelineError; "
        "from tasks.core.log_lines import set_up_logging; import logging; set_up_logging('ingest'); "
        "name = chr(27) + ']0;x' + chr(7) + 'red.bin'; logging.getLogger('x').info('read %s', name)\n"
        "with one_line_errors('ingest'): raise PipelineError(name + ' is damaged')"
    )
    log, error = _run(code, **{BARE: "1"}).splitlines()
    assert (log.split(), error) == (
        ["read", "]0;x", "red.bin"],
        "error: ingest: ]0;x red.bin is damaged",
    )


def test_ctrl_c_is_a_line_and_an_error_keeps_its_trace() -> None:
    code = "from tasks.core.stage import one_line_errors\nwith one_line_errors('plan'): raise {}"
    command = [sys.executable, "-c", code.format("KeyboardInterrupt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stderr, done.returncode) == ("plan: interrupted\n", -signal.SIGINT)
    command = [sys.executable, "-c", code.format("ValueError('x')")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "Traceback" in done.stderr and done.returncode == 1


@pytest.mark.parametrize(("bare", "stamped"), [("", True), ("1", False)])
def test_a_line_is_stamped_once(bare: str, stamped: bool) -> None:
    code = (
        "from tasks.core.log_lines import set_up_logging; import logging; "
        "set_up_logging('generate'); logging.getLogger('x').info('merging')"
    )
    line = _run(code, **{BARE: bare})
    assert line == "merging\n" if not stamped else line[8:] == " generate  merging\n"
