"""Fail unless the adapted model's F1 is above the unadapted model's, and, where training begins
from a start, not clearly below the start's.

``python .ci/check_gain.py METRICS_JSON``
"""

import json
import sys
from pathlib import Path


def main() -> int:
    """Compare the scores; return 0 if they are as they must be, else 1."""
    metrics = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    base, adapted, start = metrics["zero_shot"], metrics["f1"], metrics.get("start")
    if not adapted > base:
        print(
            f"error: adaptation did not help: F1 {base:.1f} zero-shot, {adapted:.1f} adapted",
            file=sys.stderr,
        )
        return 1
    # The gain over a start is small, and its interval mostly holds 0: only clear harm counts.
    if start is not None and metrics["gain_over_start_high"] < 0:
        print(
            f"error: adaptation did harm: F1 {start:.1f} of the start alone, {adapted:.1f} adapted "
            f"(at best {metrics['gain_over_start_high']:+.1f})",
            file=sys.stderr,
        )
        return 1
    print(f"F1 {base:.1f} zero-shot, {adapted:.1f} adapted: {adapted - base:+.1f}")
    if start is not None:
        print(f"F1 {start:.1f} the start alone: {adapted - start:+.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
