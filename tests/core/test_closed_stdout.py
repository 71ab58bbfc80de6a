"""`make why | head`: a command whose reader has gone does its work and ends without a trace."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

#: Commands that start before there are packages, or print a few lines.
_SHORT = {
    *("flows/runs/mlflow_urls.py", "scripts/schemas.py", "scripts/setup.py"),
}
#: The functions that keep a closed standard output from ending a command.
_KEPT = re.compile(r"\b(one_line_errors|run_stage|ignore_closed_stdout)\(")


def test_what_is_printed_without_a_reader_is_dropped_and_the_work_goes_on(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path\n"
        "from tasks.core.stage import one_line_errors\n"
        "with one_line_errors('x'):\n"
        "    for number in range(100_000): print(number, 'é')\n"
        "    subprocess.run(['echo', 'a child of it'], check=True)\n"
        "    Path(sys.argv[1]).touch()\n"
        "    print('the end')\n"
        "    sys.exit(3)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "done")]
    assert lines_of(command, 2) == (["0 é", "1 é"], 3, "")
    assert (tmp_path / "done").is_file()


def test_a_reader_that_stays_gets_every_line_in_order() -> None:
    code = (
        "import subprocess; from tasks.core.stage import one_line_errors\n"
        "print('before')\n"
        "with one_line_errors('x'): print('first', flush=True); subprocess.run(['echo', 'child'])\n"
        "with one_line_errors('x'): print('last')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["before", "first", "child", "last"] and not done.stderr


def lines_of(command: list[str], count: int) -> tuple[list[str], int, str]:
    """Read the first ``count`` lines that a command prints, then close the pipe. Return the lines,
    the exit status and the text of standard error.
    """
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout and running.stderr
        lines = [running.stdout.readline().rstrip("\n") for _ in range(count)]
        running.stdout.close()
        said = running.stderr.read()
        return lines, running.wait(60), said


def commands() -> list[Path]:
    """Return the modules that are run as a command."""
    tops = ("flows", "tasks", "bonito", "scripts", "benchmarks")
    found = [
        path.relative_to(ROOT)
        for top in tops
        for path in sorted((ROOT / top).rglob("*.py"))
        if "contenders" not in path.parts  # a bench starts them and reads their output
        and re.search(r"^ +sys\.exit\(main\(\)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(found) > 30
    return found


@pytest.mark.parametrize("path", commands(), ids=str)
def test_every_command_outlives_its_reader(path: Path) -> None:
    if path.as_posix() in _SHORT:
        return
    text = (ROOT / path).read_text(encoding="utf-8")
    elsewhere = re.search(r"^from (\S+) import main$", text, re.MULTILINE)
    if elsewhere:
        text = (ROOT / elsewhere[1].replace(".", "/")).with_suffix(".py").read_text("utf-8")
    assert _KEPT.search(text), f"{path}: no call of one_line_errors or ignore_closed_stdout"
