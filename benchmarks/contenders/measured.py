"""Run a command and print how long it took and the most memory that any one of its processes held:
``python -m benchmarks.contenders.measured COMMAND``.

A process of its own and small: the kernel counts what a parent held when it started the child as
the child's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time


def main(command: list[str]) -> int:
    """Print one line of JSON, the last one of stdout; what the command prints goes to stderr."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    kilobytes = usage.ru_maxrss if sys.platform == "linux" else usage.ru_maxrss // 1024
    print(
        json.dumps(
            {
                "status": process.returncode,
                "seconds": time.perf_counter() - start,
                "peak_bytes": kilobytes * 1024,
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
