"""Fail if a command left something outside the checkout.

``python3 .ci/leftovers.py FOLDER COMMAND``: FOLDER was empty before, and had the temporary folders,
HOME (as ``home``) and all caches: see ``.ci/bare``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

#: What may be left in FOLDER, and why.
ALLOWED = {
    "home/.cache/bonito-pipeline": "the cache folder that README names",
    "home/.cache/pip": "pip's own cache, of what set-up installed",
    "home/.rustup": "rustup's, on machines that have it: pip asks rustc for its version",
    "runner_storage": "Prefect's worker makes it in the temporary folder; no setting moves it",
    "torchelastic_*": "torch's launcher keeps the logs of several processes there",
    "pytest-of-*": "the folders of the last test runs, which pytest keeps to be looked at",
}


def find_leftovers(folder: Path, allowed: list[str]) -> Iterator[Path]:
    """Yield the topmost paths in the folder that no pattern allows."""
    for path in sorted(folder.iterdir()):
        if any(fnmatchcase(str(path), pattern) for pattern in allowed):
            continue
        if path.is_dir() and any(pattern.startswith(f"{path}/") for pattern in allowed):
            yield from find_leftovers(path, allowed)
        else:
            yield path


def main() -> int:
    """Name everything in one line."""
    folder, command = Path(sys.argv[1]), sys.argv[2]
    # The checkout may itself lie in a temporary folder.
    allowed = [str(Path.cwd()), *(str(folder / pattern) for pattern in ALLOWED)]
    leftovers = [str(path.relative_to(folder)) for path in find_leftovers(folder, allowed)]
    if leftovers:
        print(
            f"error: {command!r} left in {folder}, outside the checkout: {', '.join(leftovers)}"
            " (put it into tasks.core.privacy.cache_folder(), remove it, or allow it in "
            ".ci/leftovers.py)",
            file=sys.stderr,
        )
    return int(bool(leftovers))


if __name__ == "__main__":
    sys.exit(main())
