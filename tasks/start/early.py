"""A stage whose libraries are loaded before its turn: ``python -m tasks.start.early STAGE``.

It prints :data:`READY`, waits for a line with the stage's arguments, and is that stage from there
on. Without such a line it ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import runpy
import sys

#: The line that says so.
READY = "its libraries are loaded"
#: What a stage imports only when it gets to it, and takes seconds.
_LATER = {
    "generate": ("transformers",),
    "validate": ("tasks.validate.library",),
    "verify": ("transformers", "peft"),
    "finetune": ("transformers", "peft", "bitsandbytes", "mlflow"),
}


def main() -> None:
    """Load, wait, and run the stage."""
    stage = sys.argv[1]
    for name in (f"tasks.{stage}.stage", *_LATER.get(stage, ())):
        with contextlib.suppress(ImportError):  # the stage itself says what is missing
            importlib.import_module(name)
    print(READY, flush=True)
    if asked := sys.stdin.readline():
        sys.argv[1:] = json.loads(asked)
        runpy.run_module(f"tasks.{stage}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
