"""The closing table: what each stage did, the rows it kept, and the scores.

``python -m flows.runs.summary [CHECKOUT]`` prints it again.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.runs.dvc_repro import StageOutcome
from flows.runs.mlflow_urls import run_page
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.quality import RowQuality
from tasks.core.rows import MODEL_NAMES
from tasks.core.yaml_file import read_yaml
from tasks.scoring.datasets import ITEM_FORMS

WIDTH = 100
_LAST = Path(".work") / "last_run.json"
_ROW = "{:<10}{:>12}{:>10}{:>10}  {}"
#: Keys of scores.json, in the order of the table.
_SCORES = {**MODEL_NAMES, "gain": "gain", "gain_over_start": "gain over start"}
#: Figures of a run without labelled items.
_AGREEMENT = ("agreement", "agreement_low", "agreement_high")
_STATUS = {
    "unchanged": "unchanged",
    "restored": "from cache",
    "failed": "FAILED",
    "stopped": "stopped",
    "not run": "not run",
}

_UNDONE = ("failed", "stopped", "not run")


def write_outcomes(
    checkout: Path, name: str, outcomes: Iterable[StageOutcome], flow_run: str = ""
) -> None:
    """Write the outcomes of the last run, for :func:`render` and :func:`read_ending`."""
    write_json(
        checkout / _LAST,
        {"name": name, "flow_run": flow_run, "stages": [vars(outcome) for outcome in outcomes]},
    )


def read_last_flow_run(checkout: Path) -> str:
    """Return the id of the last flow run that ended here."""
    return str((_optional(checkout / _LAST) or {}).get("flow_run", ""))


def read_stages(checkout: Path) -> list[dict[str, Any]]:
    """Return the outcomes of the last run's stages, as :func:`write_outcomes` wrote them."""
    return list((_optional(checkout / _LAST) or {}).get("stages", []))


def read_ending(checkout: Path, flow_run: str) -> str | None:
    """Return how a flow run ended: "" if every stage was done, else the error; None if it did not
    end.
    """
    last = _optional(checkout / _LAST)
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


def render(checkout: Path, main: Path) -> str:
    """Return the closing table of the last run in ``checkout``, at most 100 columns wide.

    ``main`` is the checkout where the UIs are started.
    """
    last = _optional(checkout / _LAST)
    if last is None:
        return ""
    done = {outcome["stage"] for outcome in last["stages"] if outcome["status"] not in _UNDONE}
    parts = [
        _heading(f"Run {last['name']}"),
        *_stages(checkout, last["stages"]),
        *_quality(checkout, done),
        *_forecast(checkout, main, last),
        *_scores(checkout, done),
        *_where(checkout, done),
        *_next(checkout, main),
    ]
    return "\n".join(["", *parts, ""])


def tabulate_rows(checkout: Path) -> list[dict[str, Any]]:
    """Return one row a stage: rows in, kept, dropped by reason."""
    rows = []
    for path in sorted(
        (checkout / "artifacts").glob("*/summary.json"), key=lambda path: path.stat().st_mtime
    ):
        found = read_json(path)
        rows.append(
            {
                "stage": found["stage"],
                "rows in": found["rows_in"],
                "kept": found["rows_kept"],
                "dropped": _reasons(found["dropped"]),
            }
        )
    return rows


def tabulate_f1(checkout: Path) -> list[dict[str, Any]]:
    """Return one row a model, the gains last: F1 in points, its interval, the majority baseline.

    A run that started from an adapter has two rows more: the start alone, and the gain over it.
    """
    scores = _optional(checkout / "artifacts" / "evaluate" / "scores.json") or {}
    rows = []
    for key, label in _SCORES.items():
        if key in scores:
            score = scores[key]
            row = {
                "model": label,
                "F1": round(score["f1"], 1),
                "95 % low": round(score["f1_low"], 1),
                "95 % high": round(score["f1_high"], 1),
            }
            majority = score.get("majority")
            rows.append({**row, "majority": "" if majority is None else round(majority, 1)})
    return rows


def list_links(checkout: Path) -> str:
    """Return Markdown links from a run to its MLflow run, its reports and its data version."""
    lines = []
    found = _optional(checkout / "artifacts" / "register" / "registration.json")
    if found:
        page = os.environ.get("PIPELINE_MLFLOW_PAGE", "")
        shown = (
            f"[{found['run_id']}]({run_page(page, found['experiment_id'], found['run_id'])})"
            if page and "experiment_id" in found
            else found["run_id"]
        )
        lines.append(f"- MLflow run {shown}, experiment {found['experiment']}")
        if "version" in found:
            lines.append(
                f"- model {found['model_name']}, version {found['version']}, alias {found['alias']}"
            )
        lines += [f"- {found[key]}" for key in ("verdict", "in_evaluation") if key in found]
    lines += [
        f"- report `{path}`" for path in sorted((checkout / "artifacts").glob("*/report.html"))
    ]
    data = checkout / "data.dvc"
    if data.is_file():
        lines.append(f"- data version `{read_yaml(data)['outs'][0]['md5']}` (data.dvc)")
    return "\n".join([*lines, f"- checkout `{checkout}`"])


def _stages(checkout: Path, outcomes: list[dict[str, Any]]) -> list[str]:
    lines = [_ROW.format("stage", "time", "rows in", "kept", "dropped").rstrip()]
    for outcome in outcomes:
        lines += _stage(checkout, outcome)
    return lines


def _stage(checkout: Path, outcome: dict[str, Any]) -> list[str]:
    shown = _STATUS.get(outcome["status"]) or _duration(outcome["seconds"])
    found = (
        _optional(checkout / "artifacts" / outcome["stage"] / "summary.json")
        if outcome["status"] not in _UNDONE
        else None
    )
    cells = (
        [f"{found['rows_in']:,}", f"{found['rows_kept']:,}", _reasons(found["dropped"])]
        if found
        else ["", "", outcome["error"]]
    )
    indent = len(_ROW.format("", "", "", "", ""))
    first, *rest = textwrap.wrap(cells[2], _width() - indent) or [""]
    return [
        _ROW.format(outcome["stage"], shown, *cells[:2], first).rstrip(),
        *(" " * indent + line for line in rest),
    ]


def _reasons(dropped: dict[str, int]) -> str:
    """Return ``12: 9 duplicate, 3 too_short``, the commonest reason first; ``0`` for none."""
    ordered = sorted(dropped.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{count:,} {reason}" for reason, count in ordered)
    return f"{sum(dropped.values()):,}: {shown}" if len(ordered) > 1 else shown or "0"


def _quality(checkout: Path, done: set[str]) -> list[str]:
    """Return what is known of the generated rows: their form, a reader's word, people's."""
    validated, verified = (checkout / "artifacts" / name for name in ("validate", "verify"))
    if "verify" not in done or not (verified / "summary.json").exists():
        return []
    quality = RowQuality.read(validated, verified)
    if quality.well_formed is None:
        return []
    return _wrapped("rows", quality.describe())


def _forecast(checkout: Path, main: Path, last: dict[str, Any]) -> list[str]:
    """Return what ``make plan`` forecast for this run beside what came; nothing without a plan."""
    found = _optional(main / "artifacts" / "plan" / "plan.json")
    if not found or found["run"] != last["name"]:
        return []
    told = []
    kept = _optional(checkout / "artifacts" / "verify" / "summary.json")
    stages = {stage["stage"]: stage["status"] for stage in last["stages"]}
    if kept and stages.get("verify") not in (*_UNDONE, None):
        told.append(_beside("kept rows", found["kept_rows"], f"{kept['rows_kept']:,}", "{:,.0f}"))
    if set(stages.values()) == {"ran"}:  # else a part of the work was there already
        minutes = sum(stage["seconds"] for stage in last["stages"]) / 60
        told.append(_beside("minutes", found["minutes"], f"{minutes:.1f}", "{:.1f}"))
    return [_fact("forecast", "; ".join(told))] if told else []


def _beside(name: str, ends: dict[str, float], came: str, form: str) -> str:
    return f"{name} {form.format(ends['low'])} to {form.format(ends['high'])}, came {came}"


def _scores(checkout: Path, done: set[str]) -> list[str]:
    rows = tabulate_f1(checkout) if "evaluate" in done else []
    if not rows:
        return _no_f1(checkout) if "evaluate" in done else []
    lines = ["", _heading("F1 (points, 0-100)")]
    for row in rows:
        sign = "+" if row["model"].startswith("gain") else ""
        line = (
            f"{row['model']:<15}{row['F1']:>{sign}7.1f}   95 % interval "
            f"{row['95 % low']:{sign}.1f} to {row['95 % high']:{sign}.1f}"
        )
        lines.append(
            line + (f"   majority class {row['majority']:.1f}" if row["majority"] != "" else "")
        )
    scores = _optional(checkout / "artifacts" / "evaluate" / "scores.json") or {}
    if corrected := scores.get("prior_corrected"):
        shown = [_in_words(key, corrected[key]) for key in _SCORES if key in corrected]
        lines += _wrapped("apart", f"prior corrected: {', '.join(shown)}")
    if calibrated := scores.get("calibrated"):
        told = _in_words("adapted", calibrated["adapted"])
        lines += _wrapped("", f"calibrated on claims of the corpus: {told}")
    return lines


def _no_f1(checkout: Path) -> list[str]:
    """Return what a run without labelled items can say, and how it gets an F1."""
    scores = _optional(checkout / "artifacts" / "evaluate" / "scores.json") or {}
    if "agreement" not in scores:
        return []
    lines = ["", _heading("No F1: there are no labelled items")]
    told = f"agreement with {scores['heldout_rows']} generated rows kept out of the training"
    lines.append(f"{told} (points, 0-100):")
    found = scores["agreement"]
    for key, score in ((key, found[key]) for key in _SCORES if key in found):
        sign = "+" if key.startswith("gain") else ""
        value, low, high = (score[name] for name in _AGREEMENT)
        lines.append(
            f"{_SCORES[key]:<15}{value:>{sign}7.1f}   95 % interval {low:{sign}.1f} to "
            f"{high:{sign}.1f}"
        )
    advice = (
        "It says how well the model learned to answer as the generator does, not whether it is "
        "right. For an F1 name a file in evaluate.items of the profile, such as "
        "local/mine/items.jsonl, and fill it with make label PROFILE=..., or by hand, one item a "
        "line (docs/datasets.md):"
    )
    lines += textwrap.wrap(
        advice,
        _width(),
        initial_indent=_fact("next", ""),
        subsequent_indent=_fact("", ""),
    )
    form = ITEM_FORMS.get(scores["task_type"], "")
    return [*lines, *([_fact("", form)] if form else [])]


def _in_words(key: str, score: dict[str, float]) -> str:
    """Return ``adapted 49.0``, or ``gain +5.0 (-1.0 to +11.0)``."""
    if not key.startswith("gain"):
        return f"{_SCORES[key]} {score['f1']:.1f}"
    low, high = score["f1_low"], score["f1_high"]
    return f"{_SCORES[key]} {score['f1']:+.1f} ({low:+.1f} to {high:+.1f})"


def _where(checkout: Path, done: set[str]) -> list[str]:
    lines = []
    if "finetune" in done:
        lines.append(_fact("adapter", _relative(checkout / "artifacts" / "finetune")))
    found = _optional(checkout / "artifacts" / "register" / "registration.json")
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
    return ["", *lines] if lines else []


def _next(checkout: Path, main: Path) -> list[str]:
    lines = [_fact("look", "make ui        runs (Prefect) and models (MLflow) in the browser")]
    runs = "make runs      every run with its F1 and the settings that differ"
    return ["", *lines, _fact("", runs if checkout != main else ".venv/bin/dvc metrics show")]


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


def _optional(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def main() -> int:
    """Print the table of the last run in the named checkout, or in this one."""
    checkout = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    text = render(checkout, Path.cwd())
    if not text:
        raise PipelineError(f"{checkout} has no run to show: make run")
    print(text)
    return 0


if __name__ == "__main__":
    from tasks.core.stage import one_line_errors

    with one_line_errors("summary"):
        sys.exit(main())
    sys.exit(2)
