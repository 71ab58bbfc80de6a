"""git and DVC as a checkout's commands; where one fails, what it said is the error."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

from tasks.core.errors import PipelineError

#: Seconds that git and DVC have to end.
_PATIENCE = 5.0


def run_git(
    folder: Path, *arguments: str, check: bool = True, env: dict[str, str] | None = None
) -> str:
    """Return what git prints; where it fails, raise :class:`PipelineError` if ``check``."""
    return _run(["git", "-C", str(folder), *arguments], folder, check, env)


def run_dvc(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> str:
    """Return what DVC prints; where it fails, raise :class:`PipelineError`."""
    return _run([sys.executable, "-m", "dvc", *arguments], folder, True, env)


def ask_dvc(folder: Path, *arguments: str) -> int:
    """Return DVC's exit status."""
    return _finish([sys.executable, "-m", "dvc", *arguments], folder, None).returncode


def committer(main: Path) -> dict[str, str]:
    """Return a committer for git where the user has set none: no branch gets these commits."""
    if run_git(main, "config", "user.email", check=False) and run_git(
        main, "config", "user.name", check=False
    ):
        return {}
    return {
        f"GIT_{role}_{what}": value
        for role in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "pipeline"), ("EMAIL", "pipeline@localhost"))
    }


def _run(command: list[str], folder: Path, check: bool, env: dict[str, str] | None = None) -> str:
    done = _finish(command, folder, env)
    if check and done.returncode:
        output = done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}"
        shown = " ".join(command[:3] if command[0] == "git" else command[2:6])
        lines = output.splitlines()
        # DVC adds an address after its error, git what to do.
        errors = [line for line in lines if line.startswith(("ERROR: ", "fatal: ", "error: "))]
        told = errors[0].partition(": ")[2] if errors else lines[-1]
        raise PipelineError(f"{shown}: {told}")
    return done.stdout.strip()


def _finish(
    command: list[str], folder: Path, env: dict[str, str] | None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Where this process is interrupted it is ended by TERM: killed, git
    would leave its locks, and refuse to work in the user's checkout.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=pipe,
        stderr=pipe,
        text=True,
        errors="backslashreplace",  # a name of a file may be no UTF-8
    ) as process:
        try:
            printed, said = process.communicate()
        except BaseException:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, printed, said)
