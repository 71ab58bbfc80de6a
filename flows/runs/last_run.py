"""How the last run of a checkout went: the outcome of each stage, kept in its ``.work``."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.runs.dvc_repro import StageOutcome
from tasks.core.files import read_if_there, write_json

#: Statuses of a stage whose artifacts are not this run's.
UNDONE = ("failed", "stopped", "not run")
_LAST = Path(".work") / "last_run.json"


def write_outcomes(
    checkout: Path,
    name: str,
    outcomes: Iterable[StageOutcome],
    flow_run: str = "",
    command: str = "",
    settings: str = "",
    began: float = 0.0,
) -> None:
    """Write the outcomes of the last run; ``command`` is the make command that asks for it,
    ``settings`` a digest of its parameters (:func:`flows.runs.worktree.fingerprint_results`),
    ``began`` when its first stage did (seconds since 1970).
    """
    stages = [vars(outcome) for outcome in outcomes]
    asked = {"name": name, "command": command, "settings": settings, "began": began}
    write_json(checkout / _LAST, {**asked, "flow_run": flow_run, "stages": stages})


def remove_explanations(checkout: Path, outcomes: Iterable[StageOutcome]) -> None:
    """Remove the pages of ``make why`` where evaluate gave new answers: they explain the old ones,
    and the new page of evaluation leads to them.
    """
    if any(one.stage == "evaluate" and one.status in ("ran", "restored") for one in outcomes):
        shutil.rmtree(checkout / "artifacts" / "why", ignore_errors=True)


def read_last(checkout: Path) -> dict[str, Any] | None:
    """Return what :func:`write_outcomes` wrote; None where no run has ended here."""
    found: dict[str, Any] | None = read_if_there(checkout / _LAST)
    return found


def read_last_flow_run(checkout: Path) -> str:
    """Return the id of the last flow run that ended here."""
    return str((read_last(checkout) or {}).get("flow_run", ""))


def read_stages(checkout: Path) -> list[dict[str, Any]]:
    """Return the outcomes of the last run's stages, as :func:`write_outcomes` wrote them."""
    return list((read_last(checkout) or {}).get("stages", []))


def read_ending(checkout: Path, flow_run: str) -> str | None:
    """Return how a flow run ended: "" if every stage was done, else the error; None if it did not
    end.
    """
    last = read_last(checkout)
    if last is None or not flow_run or last.get("flow_run") != flow_run:
        return None
    return next(
        (
            f"{stage['stage']}: {stage['error']}"
            for stage in last["stages"]
            if stage["status"] in ("failed", "stopped")
        ),
        "",
    )
