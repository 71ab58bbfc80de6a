"""``make audit``: what is known against the pins. Fails also where nobody could be asked: pip-audit
itself calls that "no known vulnerabilities".

pip-audit runs in an environment of its own, which uv makes: nothing of it comes among the pins.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PIP_AUDIT = "pip-audit==2.10.1"
#: Vulnerability -> why it does not concern this pipeline. SECURITY.md repeats them.
ACCEPTED: dict[str, str] = {}


def main() -> int:
    """Return 0 if every pin was looked up and nothing is known against it, 1 if something is, 2 if
    pins could not be looked up.
    """
    pins = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "requirements" / "cpu.txt"
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "pins.txt"
        # The index knows torch 2.13.0, not PyTorch's own build 2.13.0+cpu: the same source.
        plain.write_text(
            re.sub(r"(==[\w.]+)\+cpu\b", r"\1", pins.read_text(encoding="utf-8")), encoding="utf-8"
        )
        command = [
            sys.executable,
            "-m",
            "uv",
            "tool",
            "run",
            "--from",
            PIP_AUDIT,
            "pip-audit",
            "--disable-pip",
            "--no-deps",
            "-f",
            "json",
            "-r",
            str(plain),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        print(
            f"error: audit: pip-audit gave no answer ({last}): it needs the network",
            file=sys.stderr,
        )
        return 2
    return report_flaws(packages)


def report_flaws(packages: list[dict[str, Any]]) -> int:
    """Print what was found among pip-audit's ``dependencies``; return the exit status."""
    found = [
        (package["name"], flaw["id"]) for package in packages for flaw in package.get("vulns", [])
    ]
    for name, flaw in found:
        print(f"{name}: {flaw}" + (f" (accepted: {ACCEPTED[flaw]})" if flaw in ACCEPTED else ""))
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    print(
        f"{len(packages) - len(skipped)} of {len(packages)} pins looked up, {len(found)} "
        "vulnerabilities known"
    )
    if any(flaw not in ACCEPTED for _, flaw in found):
        return 1
    if skipped or not packages:
        shown = ", ".join(skipped[:5]) + (" ..." if len(skipped) > 5 else "")
        print(
            (
                f"error: audit: {len(skipped)} pins could not be looked up ({shown}): is the "
                "vulnerability service within reach?"
            ),
            file=sys.stderr,
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
