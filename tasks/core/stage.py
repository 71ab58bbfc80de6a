"""The frame of every stage: arguments, lock, death with its parent, staged output, errors."""

from __future__ import annotations

import argparse
import contextlib
import errno
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.core.card import take_cards
from tasks.core.errors import PipelineError, one_line
from tasks.core.files import staged_folder, sweep, write_json
from tasks.core.lock import hold_lock
from tasks.core.log_lines import ignore_closed_stdout, set_up_logging, tell_interrupts
from tasks.core.params import Params, load_params
from tasks.core.process import die_with_parent, is_launched, launch, peak_memory, rank
from tasks.core.progress import REUSED, Progress
from tasks.core.secrets import hide
from tasks.core.sections.base import Section
from tasks.core.store import seal_folder, verify

#: Journals, checkpoints, locks and progress live here, outside DVC's outputs (DVC deletes those
#: before it runs a stage).
WORK = Path(".work")
#: The file in a stage's work folder that says how much memory its last run took.
MEMORY = "memory.json"
#: SQLite's message for a disk that fails, or is full.
_IO_ERROR = "disk I/O error"
#: Messages of the kernel, SQLite and PyTorch for a full disk.
_FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "database or disk is full",
    "PytorchStreamWriter failed writing",
    ". unexpected pos ",  # PyTorch again, where the file was closed before it noticed
)


@dataclass(frozen=True)
class Stage:
    """The argument of a stage's function: parameters, input paths, and folders to write into."""

    name: str
    params: Params
    inputs: dict[str, Path]
    #: Staged output folder: it becomes ``artifacts/<stage>`` in one rename when the function
    #: returns.
    out: Path
    #: Folder for files that must outlive a kill (journal, checkpoints); not part of the output.
    work: Path
    #: Inputs that may be on another machine (``s3://...``), unresolved.
    addresses: dict[str, str] = field(default_factory=dict)
    #: Its callbacks run when the output is in its place, or the stage has failed.
    afterwards: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    #: Where the output will be, as the command line names it.
    place: Path = Path()

    def path(self, name: str) -> Path:
        """Return the input called ``name``."""
        return self.inputs[name]

    def progress(self, total: int, unit: str, beside: str = "", beside_total: int = 0) -> Progress:
        """Return a progress meter that logs and writes ``.work/<stage>/progress.json``."""
        path = self.work / "progress.json"
        return Progress(path, self.name, total, unit, beside, beside_total)

    def summary(
        self, rows_in: int, rows_kept: int, dropped: dict[str, int] | None = None, **more: Any
    ) -> None:
        """Write ``summary.json``: rows in, kept, and dropped by reason. They must add up."""
        dropped = {reason: count for reason, count in sorted((dropped or {}).items()) if count}
        if rows_in != rows_kept + sum(dropped.values()):
            raise AssertionError(
                f"{self.name}: {rows_in} rows in, {rows_kept} kept, {dropped} dropped: "
                "rows were lost"
            )
        write_json(
            self.out / "summary.json",
            {
                "stage": self.name,
                "rows_in": rows_in,
                "rows_kept": rows_kept,
                "dropped": dropped,
                **more,
            },
        )


def run_stage(
    name: str,
    work: Callable[[Stage], None],
    inputs: Sequence[str],
    argv: Sequence[str] | None = None,
    model: type[Section] = Params,
    package: str = "tasks",
    optional: Sequence[str] = (),
    settings: Mapping[str, str] = {},
    addresses: Mapping[str, str] = {},
    check: Callable[[str, Any], None] | None = None,
) -> int:
    """Parse a stage's command line and run it; return 0, or 2 after an error the user can fix.

    Every stage takes ``--params params.yaml --out artifacts/<stage>`` and one ``--<input> PATH``
    for each of its inputs. The parameter file is parsed into ``model``; ``bonito/`` has its own.
    ``optional`` names inputs that may be missing. ``settings`` (input -> setting) are inputs whose
    path is in the parameter file unless the command line names another; an empty path means no
    input. ``addresses`` are like ``settings``, but need not be paths: the stage resolves them.
    ``check`` gets name and parameters before anything is done.

    A stage whose section asks for several ``processes`` starts itself again through accelerate's
    launcher. Then rank 0 does the above; each other rank locks and writes a folder of its own that
    is removed.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {package}.{name}", allow_abbrev=False)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--out", type=Path, required=True)
    for option in (*inputs, *optional):
        parser.add_argument(f"--{option}", type=Path, required=option in inputs)
    for option in (*settings, *addresses):
        parser.add_argument(f"--{option}")
    arguments = parser.parse_args(argv)
    set_up_logging(name)
    die_with_parent()
    folder = shared = WORK / name if package == "tasks" else WORK / package / name
    with one_line_errors(name):
        params = load_params(arguments.params, model)
        if not is_launched():
            if check:
                check(name, params)
            if (processes := _processes(name, params)) > 1:
                # All before the first starts: no two runs wait for each other.
                take_cards(processes)
                given = sys.argv[1:] if argv is None else argv
                return launch(f"{package}.{name}", given, processes)
        if rank() > 0:
            folder = folder.with_name(f"{name}.{rank()}")
            arguments.out = folder / "thrown-away"
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / "lock", f"stage {name}"):
            with (
                contextlib.ExitStack() as afterwards,
                staged_folder(arguments.out, folder / "output") as out,
            ):
                sweep(folder)
                (folder / REUSED).unlink(missing_ok=True)
                asked = vars(arguments)
                paths = _find_inputs(asked, params, (*inputs, *optional), settings)
                places = {
                    name: _chosen(asked[name], params, key) for name, key in addresses.items()
                }
                work(Stage(name, params, paths, out, shared, places, afterwards, arguments.out))
                seal_folder(out)
            with contextlib.suppress(OSError):  # a note: the output is whole without it
                # Beside the output, whose bytes do not depend on it.
                write_json(folder / MEMORY, {"peak_mb": round(_peak_memory())})
            (folder / "progress.json").unlink(missing_ok=True)
        if rank() > 0:
            shutil.rmtree(folder)
        return 0
    return 2


def _find_inputs(
    given: Mapping[str, Any], params: Section, options: Sequence[str], settings: Mapping[str, str]
) -> dict[str, Path]:
    """Return option -> path, from the command line or from the setting that names it.

    Raises :class:`PipelineError` where one is not there or is damaged.
    """
    paths = {option: given[option] for option in options if given[option] is not None}
    for option, key in settings.items():
        if path := _chosen(given[option], params, key):
            paths[option] = Path(path)
    for option, path in paths.items():
        if not path.exists():
            raise PipelineError(f"--{option} {path} does not exist")
        verify(path)
    return paths


def format_reasons(dropped: Mapping[str, int]) -> str:
    """Return ``12: 9 duplicate, 3 too_short``, the commonest reason first; ``0`` for none."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count:,} {reason}" for reason, count in ordered)
    return f"{sum(dropped.values()):,}: {shown}" if len(ordered) > 1 else shown or "0"


def _chosen(argument: str | None, params: Section, key: str) -> str:
    """Return what the command line names, or else the value of a setting (``evaluate.items``)."""
    if argument is not None:
        return argument
    section, _, name = key.partition(".")
    return str(getattr(getattr(params, section), name))


def _processes(name: str, params: Section) -> int:
    """Return the processes of the stage's section, 1 for stages without that setting."""
    return getattr(getattr(params, name, None), "processes", 1)


@contextlib.contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Print an error that the user can fix as one line on standard error, and end the block.

    So is Ctrl-C, here or after the block. Other errors are bugs and keep their traceback. What a
    command prints when its reader has gone is dropped
    (:func:`tasks.core.log_lines.ignore_closed_stdout`).
    """
    ignore_closed_stdout()
    tell_interrupts(name)
    try:
        yield
    except PipelineError as error:
        if rank() > 0:
            # Rank 0 nearly always finds the same fault, reports it, and then ends this process.
            time.sleep(5)
        print(f"error: {name}: {hide(one_line(str(error)))}", file=sys.stderr)
    except Exception as error:
        if not (fault := _tell_disk(error)):
            raise
        where = getattr(error, "filename", None) or Path.cwd()
        print(
            f"error: {name}: {fault} ({where}): free some and run the same command again, what is "
            "done is kept",
            file=sys.stderr,
        )


def _peak_memory() -> float:
    """Return the most memory (MB) that this process, or one that it waited for, has held."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(peak_memory(), children.ru_maxrss / 2**10)


def _tell_disk(error: BaseException) -> str:
    """Return what is wrong with the disk, if it caused an error; else an empty string."""
    if is_disk_full(error):
        return "no space left on the device"
    # A full disk may lack room for the file beside a database that SQLite maps into memory.
    return "no space left on the device, or it fails" if _IO_ERROR in str(error) else ""


def is_disk_full(error: BaseException | None) -> bool:
    """Tell whether a full disk caused an error, also one that libraries wrap or only quote."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if any(words in str(error) for words in _FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
