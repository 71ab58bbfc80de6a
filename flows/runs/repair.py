"""``make repair``: compare every object of DVC's cache with its hash; name and remove damaged ones,
so that their stages run again.
"""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path

from flows.runs import CODE
from flows.runs.git import run_dvc
from tasks.core.stage import one_line_errors


def find_damaged(cache: Path) -> list[Path]:
    """Return the objects of a DVC cache whose content differs from the hash in their name."""
    objects = [
        path
        for path in sorted((cache / "files" / "md5").glob("[0-9a-f][0-9a-f]/*"))
        if path.is_file()
    ]
    return [
        path
        for path in objects
        if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", path.name)
        and _md5(path) != path.parent.name + path.name.removesuffix(".dir")
    ]


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def main() -> int:
    """Return 0; 2 where there is no cache."""
    with one_line_errors("repair"):
        cache = run_dvc(CODE, "cache", "dir")
        damaged = find_damaged(CODE / cache)
        for path in damaged:
            print(f"damaged, removed: {path}")
            path.chmod(0o644)
            path.unlink()
        hint = "; run your command again to make what they held" if damaged else ""
        print(f"{len(damaged)} damaged objects in {cache}{hint}")
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
