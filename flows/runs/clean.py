"""``make clean``: remove work files, ``.runs/`` and the caches of tools, where nothing is at work.

Needs no package: it runs under any Python, also where ``.venv`` is not there. A run that starts
while files are being removed is not seen.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from tasks.core.lock import is_locked
from tasks.core.log_lines import ignore_closed_stdout

_REMOVED = (".work", ".runs", ".pytest_cache", ".mypy_cache", ".ruff_cache", "dvc_plots")


def main() -> int:
    """Clean the checkout that is the working folder; return 0, or 2 with the reason in one line:
    then nothing was removed.
    """
    ignore_closed_stdout()
    here = Path()
    if used := next(_find_users(here), ""):
        print(
            f"error: clean: {used}: stop it or wait for its end; nothing was removed",
            file=sys.stderr,
        )
        return 2
    for path in map(here.joinpath, _REMOVED):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
    return 0


def _find_users(here: Path) -> Iterator[str]:
    """Yield what is at work in the checkout or in one below ``.runs/``."""
    for lock in sorted(here.glob(".work/runs/*.lock")):
        if is_locked(lock):
            yield f"run {lock.stem!r} is in progress{_tell_holder(lock)}"
    for lock in sorted(here.glob(".work/runs/*.readers")):
        if is_locked(lock):
            yield f"a page, a matrix or another run reads run {lock.stem!r}"
    for lock in sorted(here.glob(".work/*.lock")):
        if is_locked(lock):
            yield f"make {lock.stem} or another command is at work{_tell_holder(lock)}"
    for work in (here / ".work", *sorted(here.glob(".runs/*/.work"))):
        for lock in sorted([*work.glob("*/lock"), *work.glob("*/*/lock")]):  # bonito's are deeper
            if is_locked(lock):
                yield f"a stage is at work in {lock.parent}"


def _tell_holder(lock: Path) -> str:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return f" (process {json.loads(lock.read_text(encoding='utf-8'))['pid']})"
    return ""


if __name__ == "__main__":
    sys.exit(main())
