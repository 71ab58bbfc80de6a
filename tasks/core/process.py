"""Processes that die with their parent, and processes that train together.

A SIGKILL of ``dvc repro`` leaves its stage running; the orphan would overwrite the output of a
rerun seconds later. So a stage watches the processes above it and dies at once when one of them
does.

``accelerate launch`` starts processes that train together: each reads its rank and their number
from the environment. Only rank 0 writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

from tasks.core.errors import PipelineError

_PR_SET_PDEATHSIG = 1
_REAPERS = {"systemd", "init", "tini", "dumb-init", "catatonit", "docker-init"}
_SHELLS = {"sh", "bash", "dash", "zsh", "ash"}
#: Set for the processes that :func:`launch` starts: the number of the process that called it.
_LAUNCHER = "STAGE_LAUNCHER"
#: Reads process numbers until the end of its input, then kills those processes and its own process
#: group. A handle stays with its process when the number goes to another one.
_GUARD = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
handles = []
for line in sys.stdin:
    try:
        handles.append(os.pidfd_open(int(line)))
    except ProcessLookupError:
        pass
for handle in handles:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass
os.killpg(0, signal.SIGKILL)
"""


def set_death_signal() -> None:
    """Ask the kernel to SIGKILL this process when its parent dies.

    Usable as ``preexec_fn``: it survives ``exec``.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_early() -> None:
    """In a stage that DVC started: ask for the death signal before the long imports.

    Called when ``tasks`` is imported.
    """
    if (
        _started_by_dvc()
        and sys.orig_argv[1:2] == ["-m"]
        and sys.orig_argv[2].startswith(("tasks.", "bonito."))
    ):
        set_death_signal()
        _die_if_orphaned(os.getppid())


def _started_by_dvc() -> bool:
    # DVC names itself in its commands' environment. A stage typed by hand in a terminal may outlive
    # it (nohup, tmux).
    return "DVC_ROOT" in os.environ


def _die_if_orphaned(parent: int) -> None:
    """Die if ``parent`` adopts orphans: DVC was killed before the death signal could be set."""
    if parent == 1 or _name(parent) in _REAPERS:
        try:
            # In a container DVC itself may be process 1.
            adopted = b"dvc" not in Path(f"/proc/{parent}/cmdline").read_bytes()
        except OSError:
            adopted = True
        if adopted:
            os.kill(os.getpid(), signal.SIGKILL)


def die_with_parent() -> None:
    """Die with the parent, and with the grandparent if the parent is a shell, as under DVC."""
    launcher = os.environ.get(_LAUNCHER)
    if not _started_by_dvc() and not launcher:
        return
    parent = os.getppid()
    set_death_signal()
    _die_if_orphaned(parent)
    if launcher and parent != int(launcher):  # it died before the death signal was set
        os.kill(os.getpid(), signal.SIGKILL)
    watched = [parent]
    if _name(parent) in _SHELLS:
        watched.append(_parent(parent))
        _die_if_orphaned(watched[-1])
    handles = []
    for pid in watched:
        if pid > 1:
            try:
                handles.append(os.pidfd_open(pid))
            except ProcessLookupError:
                os.kill(os.getpid(), signal.SIGKILL)
    if handles:
        threading.Thread(
            target=_watch, args=(handles,), daemon=True, name="die-with-parent"
        ).start()


def start_guard(pids: Iterable[int] = ()) -> subprocess.Popen[str]:
    """Start the leader of a process group that kills ``pids`` and its group when its input ends:
    when this process ends, however it does, or closes the pipe.
    """
    command = [sys.executable, "-S", "-c", _GUARD]
    guard = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, process_group=0)
    assert guard.stdin is not None  # noqa: S101 - for the type checker
    guard.stdin.writelines(f"{pid}\n" for pid in pids)
    guard.stdin.flush()
    return guard


def process_mark(pid: int | None = None) -> str:
    """Return ``PID:START``, which identifies a process; the number alone is used again."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}:{_stat(pid)[19] if _stat(pid) else ''}"


def is_alive(mark: str) -> bool:
    """Tell whether the process of a :func:`process_mark`, or of a number, runs on this machine."""
    pid, _, start = mark.partition(":")
    if not pid.isdigit():
        return False
    fields = _stat(int(pid))
    return bool(fields) and fields[0] != "Z" and start in ("", fields[19])


def _watch(handles: list[int]) -> None:
    poll = select.poll()
    for handle in handles:
        poll.register(handle, select.POLLIN)
    poll.poll()
    os.kill(os.getpid(), signal.SIGKILL)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty without the process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def peak_memory(pid: int | None = None) -> float:
    """Return the most memory (MB) that a process has held, this one or ``pid``; 0 where that of
    ``pid`` is not known.

    ``ru_maxrss`` also has what the process that started it held at that time.
    """
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    # A sandbox may leave that line out.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10 if pid is None else 0.0


def rank() -> int:
    """Return this process's rank among those that train together; 0 if it is alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return the number of processes that train together; 1 if this one is alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_launched() -> bool:
    """Tell whether ``accelerate launch`` (or torchrun) started this process."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(module: str, arguments: Sequence[str], processes: int) -> int:
    """Run ``python -m module arguments`` in several processes through accelerate's launcher.

    Return the status of the first that failed, or 0. When one fails the others are ended; when this
    process dies they die too. accelerate's configuration file is not read. A process that was
    killed is a :class:`PipelineError`.
    """
    from accelerate.commands.launch import launch_command_parser, multi_gpu_launcher
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    threads = os.environ.get("OMP_NUM_THREADS", "")
    options = {
        "num_processes": processes,
        "num_machines": 1,
        "main_process_port": 0,  # a free one
        "mixed_precision": "no",
        "dynamo_backend": "no",
        "num_cpu_threads_per_process": int(threads)
        if threads.isdigit()
        else max(1, (os.cpu_count() or 1) // processes),
    }
    # The command `accelerate launch` would read missing options from the user's configuration file,
    # so its launcher is called. --multi_gpu also starts several CPU processes: under --cpu
    # accelerate starts only one, except with MPI. Each process finds its device itself.
    launch_arguments = launch_command_parser().parse_args(
        [
            "--multi_gpu",
            *(f"--{name}={value}" for name, value in options.items()),
            "--module",
            module,
            *arguments,
        ]
    )
    os.environ[_LAUNCHER] = str(os.getpid())
    # Without SIGHUP, which torch would catch even where nohup had it ignored.
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    logging.disable(logging.ERROR)  # torch's report of a failure: the process has logged more
    try:
        multi_gpu_launcher(launch_arguments)
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        number, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            raise PipelineError(
                f"process {number} of {processes} was killed by signal "
                f"{-failure.exitcode} (9: often too little memory); "
                "the same command continues from the last checkpoint"
            ) from failed
        return int(failure.exitcode)
    finally:
        logging.disable(logging.NOTSET)
    return 0
