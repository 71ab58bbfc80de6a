"""The moments of a process: before and after each of its own calls that change a file, and the
first that reads it, numbered.

A fault is put at the n-th of them, so that a seed names it for good. Reads and writes are those of
the system, behind the buffers of files that Python opened by name. What libraries write in C is
seen at its calls from Python: Parquet files, the rows of ingest's journal, MLflow, torch.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
#: Calls with two paths: the second is the new name.
_TWO = ("replace", "rename", "link", "symlink")
#: Calls of libraries: module, class (empty: none), names.
_CALLS = (
    ("tasks.core.files", "", ("_exchange",)),
    ("pyarrow.parquet", "ParquetWriter", ("__init__", "write_table", "close")),
    ("tasks.ingest.journal", "Journal", ("list", "plan", "add", "finish")),
    ("torch", "", ("save",)),
    (
        "mlflow",
        "MlflowClient",
        (
            "create_run",
            "create_registered_model",
            "create_model_version",
            "log_artifact",
            "log_batch",
            "log_metric",
            "log_model_artifact",
            "set_registered_model_alias",
            "set_tag",
            "set_terminated",
            "update_model_version",
            "update_run",
        ),
    ),
)


@dataclass(frozen=True)
class Moment:
    """One of them: its number, ``before`` or ``after``, the call, and the path that it changes; of a
    rename also what is renamed.
    """

    number: int
    when: str
    call: str
    path: str = ""
    source: str = ""


#: What is done at every moment.
Act = Callable[[Moment], None]


def watch(act: Act) -> Callable[[], None]:
    """Return what makes a process call ``act`` at each of its moments from then on.

    Only its working folder and what is below count; its children do not.
    """

    def install() -> None:
        watched = _Watched(act)
        for owner in {builtins, io}:
            owner.open = watched.opened(owner.open)  # type: ignore[attr-defined]
        os.open = watched.opened_by_number(os.open)
        for name in ("replace", "rename", "link", "symlink", "unlink", "remove", "rmdir", "mkdir"):
            setattr(os, name, watched.changed(name, getattr(os, name)))
        os.fsync = watched.synced(os.fsync)
        for module, kind, names in _CALLS:
            owner = sys.modules.get(module)
            owner = getattr(owner, kind, None) if kind else owner
            if owner is None:  # a library that this process does not use
                continue
            for name in names:
                setattr(owner, name, watched.called(name, getattr(owner, name)))

    return install


class _Watched:
    def __init__(self, act: Act) -> None:
        self.act, self.count, self.process, self.busy = act, 0, os.getpid(), False
        self.folder = os.getcwd() + os.sep

    def at(self, when: str, call: str, path: str, source: str) -> None:
        if self.busy or os.getpid() != self.process:
            return
        self.busy = True
        try:
            self.act(Moment(self.count, when, call, path, source))
        finally:
            self.busy = False
            self.count += 1

    def around(self, call: str, path: str | None, real: Callable[[], Any], source: str = "") -> Any:
        if path is None:
            return real()
        self.at("before", call, path, source)
        result = real()
        self.at("after", call, path, source)
        return result

    def place(self, path: Any, folder: int | None = None) -> str | None:
        """Return the whole path if it is below the watched folder."""
        if isinstance(path, int):
            text = os.readlink(f"/proc/self/fd/{path}")
        else:
            text = os.fsdecode(path)
            if folder is not None and not os.path.isabs(text):
                text = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), text)
            text = os.path.abspath(text)
        return text if f"{text}{os.sep}".startswith(self.folder) else None

    def opened(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *more: Any, **named: Any) -> Any:
            place = None if isinstance(file, int) else self.place(file)
            if place is None:
                return real(file, mode, *more, **named)
            writes = place if set(mode) & set("wax+") else None
            return self.around(
                "open", writes, lambda: _open(self, place, file, mode, *more, **named)
            )

        return call

    def opened_by_number(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, flags: int, *more: Any, dir_fd: int | None = None, **named: Any) -> Any:
            place = self.place(path, dir_fd) if flags & _WRITING else None
            return self.around(
                "open", place, lambda: real(path, flags, *more, dir_fd=dir_fd, **named)
            )

        return call

    def changed(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*paths: Any, **named: Any) -> Any:
            folder = named.get("dir_fd", named.get("dst_dir_fd"))
            place = self.place(paths[-1] if name in _TWO else paths[0], folder)
            source = os.path.abspath(os.fsdecode(paths[0])) if name in _TWO else ""
            return self.around(name, place, lambda: real(*paths, **named), source)

        return call

    def synced(self, real: Callable[[Any], None]) -> Callable[[Any], None]:
        def call(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            self.around("fsync", self.place(number), lambda: real(file))

        return call

    def called(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            if name != "_exchange":
                return self.around(name, "", lambda: real(*given, **named))
            source, path = (os.path.abspath(place) for place in given)
            return self.around(name, path, lambda: real(*given, **named), source)

        return call


class _Raw(io.FileIO):
    """An opened file whose writes, and whose first read, are moments."""

    def __init__(self, watched: _Watched, place: str, *given: Any) -> None:
        super().__init__(*given)
        self._watched, self._place, self._unread = watched, place, True

    def readall(self) -> bytes:
        return self._read(super().readall)

    def readinto(self, buffer: Any) -> Any:
        return self._read(lambda: super(_Raw, self).readinto(buffer))

    def _read(self, real: Callable[[], Any]) -> Any:
        place, self._unread = self._place if self._unread else None, False
        return self._watched.around("read", place, real)

    def write(self, data: Any) -> Any:
        return self._watched.around("write", self._place, lambda: super(_Raw, self).write(data))


def _open(
    watched: _Watched,
    place: str,
    file: Any,
    mode: str,
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: Any = None,
) -> Any:
    """Open as Python does, over a :class:`_Raw`."""
    raw = _Raw(watched, place, file, mode.replace("b", "").replace("t", ""), closefd, opener)
    try:
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedReader
        buffered = (io.BufferedWriter if set(mode) & set("wax") and "+" not in mode else kind)(
            raw, buffering if buffering > 1 else io.DEFAULT_BUFFER_SIZE
        )
        if "b" in mode:
            return buffered
        text = io.TextIOWrapper(buffered, encoding, errors, newline, buffering == 1)
        text.mode = mode
        return text
    except BaseException:
        raw.close()
        raise


def tally(path: Path) -> Callable[[], None]:
    """Count the moments: a byte each in ``path``."""
    return _logged(path, lambda moment: ".")


def record(path: Path) -> Callable[[], None]:
    """Write the moments down: number, when, call and path in a line of ``path`` each."""
    return _logged(path, lambda m: f"{m.number}\t{m.when}\t{m.call}\t{m.path}\n")


def _logged(path: Path, line: Callable[[Moment], str]) -> Callable[[], None]:
    def install() -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        watch(lambda moment: os.write(file, line(moment).encode()) and None)()

    return install


def at(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Do ``act`` at the moment of that number."""
    return watch(lambda moment: act() if moment.number == number else None)


def kill() -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_parent() -> None:
    """Kill the process above, as when DVC is killed: this one has to go with it."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # it may do nothing more


def kill_group() -> None:
    """Kill the whole group."""
    os.killpg(0, signal.SIGKILL)


def stop() -> None:
    """Stop this process until somebody lets it go on."""
    os.kill(os.getpid(), signal.SIGSTOP)


def fail(number: int, error: int, lasting: bool) -> Callable[[], None]:
    """Let the call at that moment fail with an error number of the system; ``lasting``: all later
    ones too.
    """

    def act(moment: Moment) -> None:
        late = moment.number >= number if lasting else moment.number in (number, number + 1)
        if late and moment.when == "before" and moment.path:
            raise OSError(error, os.strerror(error), moment.path)

    return watch(act)
