"""The closing table: what each stage did, the rows it kept, and the scores.

``python -m flows.runs.summary [CHECKOUT]`` prints it again.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from flows.runs.board import show_status
from flows.runs.figures import SCORES, tabulate_f1
from flows.runs.forecast import compare
from flows.runs.last_run import UNDONE, read_last
from tasks.core.errors import PipelineError
from tasks.core.files import read_if_there
from tasks.core.overlay import DEFAULT
from tasks.core.quality import RowQuality
from tasks.core.stage import format_reasons, one_line_errors
from tasks.scoring.datasets import ITEM_FORMS

WIDTH = 100
_ROW = "{:<10}{:>12}{:>10}{:>10}  {}"
#: Figures of a run without labelled items.
_AGREEMENT = ("agreement", "agreement_low", "agreement_high")


def render(checkout: Path, main: Path) -> str:
    """Return the closing table of the last run in ``checkout``, at most 100 columns wide.

    ``main`` is the checkout where the UIs are started.
    """
    last = read_last(checkout)
    if last is None:
        return ""
    done = {outcome["stage"] for outcome in last["stages"] if outcome["status"] not in UNDONE}
    command = str(last.get("command", ""))
    asked = command.removeprefix("make run")  # PROFILE and SET
    parts = [
        _heading(f"Run {last['name']}"),
        *_stages(checkout, last["stages"]),
        *_quality(checkout, done),
        *_forecast(checkout, main, last),
        *_scores(checkout, done, asked),
        *_where(checkout, done),
        *_next(checkout, done if command or last["name"] == DEFAULT else set(), asked),
    ]
    return "\n".join(["", *parts, ""])


def _stages(checkout: Path, outcomes: list[dict[str, Any]]) -> list[str]:
    lines = [_ROW.format("stage", "time", "rows in", "kept", "dropped").rstrip()]
    for outcome in outcomes:
        lines += _stage(checkout, outcome)
    return lines


def _stage(checkout: Path, outcome: dict[str, Any]) -> list[str]:
    ran = outcome["status"] == "ran"
    shown = _duration(outcome["seconds"]) if ran else show_status(outcome["status"])
    found = (
        read_if_there(checkout / "artifacts" / outcome["stage"] / "summary.json")
        if outcome["status"] not in UNDONE
        else None
    )
    cells = (
        [f"{found['rows_in']:,}", f"{found['rows_kept']:,}", format_reasons(found["dropped"])]
        if found
        else ["", "", outcome["error"]]
    )
    indent = len(_ROW.format("", "", "", "", ""))
    first, *rest = textwrap.wrap(cells[2], _width() - indent) or [""]
    return [
        _ROW.format(outcome["stage"], shown, *cells[:2], first).rstrip(),
        *(" " * indent + line for line in rest),
    ]


def _quality(checkout: Path, done: set[str]) -> list[str]:
    """Return what is known of the rows: their form, a reader's verdict, people's verdicts."""
    validated, verified, supervised = (
        checkout / "artifacts" / name for name in ("validate", "verify", "supervise")
    )
    if "verify" not in done or not (verified / "summary.json").exists():
        return []
    quality = RowQuality.read(validated, verified, supervised if "supervise" in done else None)
    if quality.well_formed is None and not quality.made:
        return []
    return _wrapped("rows", quality.describe())


def _forecast(checkout: Path, main: Path, last: dict[str, Any]) -> list[str]:
    """Return what ``make plan`` forecast for this run beside what came; nothing without a plan."""
    told = [one.describe() for one in compare(checkout, main, last)]
    return _wrapped("forecast", "; ".join(told))


def _scores(checkout: Path, done: set[str], asked: str) -> list[str]:
    if "evaluate" not in done:
        return []
    rows = tabulate_f1(checkout)
    if not rows:
        return _no_f1(checkout, asked)
    lines = ["", _heading("F1 (points, 0-100)")]
    for row in rows:
        line = _score(row["model"], row["F1"], row["95 % low"], row["95 % high"])
        majority = row["majority"]
        lines.append(line if majority == "" else f"{line}   majority class {majority:.1f}")
    scores = read_if_there(checkout / "artifacts" / "evaluate" / "scores.json") or {}
    if corrected := scores.get("prior_corrected"):
        shown = [_in_words(key, corrected[key]) for key in SCORES if key in corrected]
        lines += _wrapped("apart", f"prior corrected: {', '.join(shown)}")
    if calibrated := scores.get("calibrated"):
        shown = [_in_words(key, calibrated[key]) for key in SCORES if key in calibrated]
        told = f"calibrated on claims of the corpus: {', '.join(shown)}"
        if "zero_shot" not in calibrated:
            told += "; not compared: the models before were not (evaluate.calibrated_models: all)"
        lines += _wrapped("", told)
    return lines


def _no_f1(checkout: Path, asked: str) -> list[str]:
    """Return what a run without labelled items can say, and how it gets an F1."""
    scores = read_if_there(checkout / "artifacts" / "evaluate" / "scores.json") or {}
    if "agreement" not in scores:
        return []
    lines = ["", _heading("No F1: there are no labelled items")]
    told = f"agreement with {scores['heldout_rows']} generated rows kept out of the training"
    lines.append(f"{told} (points, 0-100):")
    found = scores["agreement"]
    for key in SCORES:
        if key in found:
            lines.append(_score(SCORES[key], *(found[key][name] for name in _AGREEMENT)))
    advice = (
        "It says how well the model learned to answer as the generator does, not whether it is "
        "right. For an F1 name a file in evaluate.items of the profile, such as "
        f"local/mine/items.jsonl, and fill it with make label{asked}, or by hand, one item a line "
        "(docs/datasets.md):"
    )
    lines += _wrapped("advice", advice)
    form = ITEM_FORMS.get(scores["task_type"], "")
    return [*lines, *([_fact("", form)] if form else [])]


def _score(name: str, value: float, low: float, high: float) -> str:
    """Return the line of a score in points with its interval; gains have a sign."""
    sign = "+" if name.startswith("gain") else ""
    return f"{name:<15}{value:>{sign}7.1f}   95 % interval {low:{sign}.1f} to {high:{sign}.1f}"


def _in_words(key: str, score: dict[str, float]) -> str:
    """Return ``adapted 49.0``, or ``gain +5.0 (-1.0 to +11.0)``."""
    if not key.startswith("gain"):
        return f"{SCORES[key]} {score['f1']:.1f}"
    low, high = score["f1_low"], score["f1_high"]
    return f"{SCORES[key]} {score['f1']:+.1f} ({low:+.1f} to {high:+.1f})"


def _where(checkout: Path, done: set[str]) -> list[str]:
    lines = []
    if "finetune" in done:
        lines.append(_fact("adapter", _relative(checkout / "artifacts" / "finetune")))
    found = read_if_there(checkout / "artifacts" / "register" / "registration.json")
    if found and "register" in done:
        if "version" in found:
            lines.append(
                _fact(
                    "model",
                    f"{found['model_name']}, version {found['version']}, alias {found['alias']}",
                )
            )
            lines += _wrapped(found["alias"], found.get("verdict", ""))
        lines.append(_fact("MLflow", f"run {found['run_id']}, experiment {found['experiment']}"))
        gains = (("start", "over_start"), ("TAPT", "over_tapt"))
        lines += [_fact(name, found[key]) for name, key in gains if key in found]
        lines += _wrapped("leaked", found.get("in_evaluation", ""))
        lines += _wrapped("served", found.get("served", ""))
    return ["", *lines] if lines else []


def _next(checkout: Path, done: set[str], asked: str) -> list[str]:
    """Return what to type next, for the run of these variables (PROFILE, SET)."""
    found = read_if_there(checkout / "artifacts" / "register" / "registration.json") or {}
    registered = "register" in done and "version" in found
    lines = []
    if registered:
        lines.append((f"make ask{asked}", "its answers to your questions"))
    if "verify" in done:
        lines.append((f"make review{asked}", "judge the rows that it learned from"))
    every = "every run; make ui: in the browser"
    if registered:
        model = shlex.quote(f"models:/{found['model_name']}/{found['version']}")
        lines.append((f"make serve MODEL={model}", f"make runs: {every}"))
    else:
        lines.append(("make runs", every))
    return ["", *(_command("" if place else "next", *line) for place, line in enumerate(lines))]


def _command(name: str, command: str, told: str) -> str:
    """Return a command and what it is for, where both fit: a command is not broken."""
    line = _fact(name, f"{command}    # {told}")
    return line if len(line) <= _width() else _fact(name, command)


def _heading(text: str) -> str:
    return f"{text} ".ljust(_width(), "-")


def _width() -> int:
    """Return how wide the table may be: :data:`WIDTH`, less in a narrower terminal."""
    return max(60, min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns))


def _wrapped(name: str, text: str) -> list[str]:
    """Return a fact on as many lines as it takes; none for an empty text."""
    return textwrap.wrap(
        text, _width(), initial_indent=_fact(name, ""), subsequent_indent=_fact("", "")
    )


def _fact(name: str, value: str) -> str:
    return f"{name:<9} {value}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _relative(path: Path) -> str:
    """Return ``path`` as a person would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def main() -> int:
    """Print the table of the last run in the named checkout, or in this one."""
    with one_line_errors("summary"):
        checkout = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
        text = render(checkout, Path.cwd())
        if not text:
            raise PipelineError(f"{checkout} has no run to show: make run")
        print(text)
        return 0
    return 2


if __name__ == "__main__":
    sys.exit(main())
