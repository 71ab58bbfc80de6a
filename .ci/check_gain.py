"""Fail unless the adapted model's F1 is above the unadapted model's.

``python .ci/check_gain.py METRICS_JSON``
"""

import json
import sys
from pathlib import Path


def main() -> int:
    """Compare the two scores; return 0 if the adapted one is higher, else 1."""
    metrics = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    base, adapted = metrics["zero_shot"], metrics["f1"]
    if not adapted > base:
        print(
            f"error: adaptation did not help: F1 {base:.1f} zero-shot, {adapted:.1f} adapted",
            file=sys.stderr,
        )
        return 1
    print(f"F1 {base:.1f} zero-shot, {adapted:.1f} adapted: +{adapted - base:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
