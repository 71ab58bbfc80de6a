"""Processes that do not outlive who started them.

A SIGKILL of ``dvc repro`` leaves its stage running; the orphan would overwrite the output of the rerun seconds later. So a stage watches
the processes above it and dies at once when one of them does.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_REAPERS = {"systemd", "init", "tini", "dumb-init", "catatonit", "docker-init"}
_SHELLS = {"sh", "bash", "dash", "zsh", "ash"}


def set_death_signal() -> None:
    """Ask the kernel to SIGKILL this process when its parent dies. Linux only; elsewhere a no-op.

    Usable as ``preexec_fn``: it survives ``exec``.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_early() -> None:
    """In a stage that DVC started: ask for the death signal before the long imports. Called when ``tasks`` is imported."""
    if _started_by_dvc() and sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith(("tasks.", "bonito.")):
        set_death_signal()
        _die_if_orphaned(os.getppid())


def _started_by_dvc() -> bool:
    # DVC names itself in its commands' environment. A stage typed by hand in a terminal may outlive it (nohup, tmux).
    return sys.platform == "linux" and "DVC_ROOT" in os.environ


def _die_if_orphaned(parent: int) -> None:
    """Die if ``parent`` is what takes in orphans: then DVC was killed before the death signal could be asked for."""
    if parent == 1 or _name(parent) in _REAPERS:
        try:
            adopted = b"dvc" not in Path(f"/proc/{parent}/cmdline").read_bytes()  # in a container DVC itself may be process 1
        except OSError:
            adopted = True
        if adopted:
            os.kill(os.getpid(), signal.SIGKILL)


def die_with_parent() -> None:
    """Die with the parent, and with the grandparent where only a shell stands between (DVC runs commands through one)."""
    if not _started_by_dvc():
        return
    parent = os.getppid()
    set_death_signal()
    _die_if_orphaned(parent)
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
        threading.Thread(target=_watch, args=(handles,), daemon=True, name="die-with-parent").start()


def process_mark(pid: int | None = None) -> str:
    """Return ``PID:START``, which names one process for ever: the number alone is given to another one some day."""
    pid = os.getpid() if pid is None else pid
    return f"{pid}:{_stat(pid)[19] if _stat(pid) else ''}"


def is_alive(mark: str) -> bool:
    """Tell whether the process of a :func:`process_mark` (or of a bare number) still runs on this machine."""
    pid, _, start = mark.partition(":")
    if not pid.isdigit():
        return False
    if sys.platform == "linux":
        fields = _stat(int(pid))
        return bool(fields) and fields[0] != "Z" and start in ("", fields[19])
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
    """Return the fields of /proc/PID/stat from the state on; empty where there is no such process or no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
