"""A process that many trials ask, each with one line, and that answers each with one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_ANSWER = "answer: "


class Answering:
    """A command whose Python calls :func:`answer_lines`."""

    def __init__(
        self, command: list[str], folder: Path, environment: dict[str, str], log: Path
    ) -> None:
        """Start it in ``folder``; what it complains of goes to ``log``."""
        self.log, pipe = log, subprocess.PIPE
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=pipe,
                stdout=pipe,
                stderr=errors,
                text=True,
            )

    def ask(self, question: str) -> str:
        """Return what it answers: an empty string where nothing is wrong."""
        assert self.process.stdin and self.process.stdout
        if self.process.poll() is None:
            self.process.stdin.write(f"{question}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(_ANSWER):  # libraries may print, too
                return line.removeprefix(_ANSWER).strip()
        return f"{self.process.args} has ended: {self.log.read_text()[-300:]}"

    def close(self) -> None:
        """Let it end."""
        self.process.communicate()


def answer_lines(work: Callable[[str], str]) -> None:
    """Answer each line of the input by what ``work`` says of it."""
    for line in sys.stdin:
        said = " | ".join(work(line.rstrip("\n")).splitlines())
        print(f"{_ANSWER}{said}", flush=True)
