"""The parts of a version's card that say what was measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.core.markdown import escape, table
from tasks.core.rows import MODEL_NAMES


def describe_scores(scores: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    """Yield the paragraphs on F1; ``told`` is what ``registration.json`` says of the version."""
    yield "## F1"
    if "adapted" not in scores:
        yield "There is no F1: the run had no labelled items."
        yield f"Agreement with {scores['heldout_rows']:,} held-out generated rows (not accuracy):"
        lines = _models(scores["agreement"], "agreement")
        yield table(("model", "token F1 with the generator (95 %)"), lines)
        return
    yield (
        f"{escape(scores['metric'])} in points, mean over {scores['templates']} templates on "
        f"{scores['items']:,} items of {escape(scores['dataset'])}; 95 % intervals."
    )
    yield table(("figure", "F1 (95 %)"), _figures(scores))
    if "over_tapt" in told:
        yield f"Over next-word training (TAPT): {escape(told['over_tapt'])}."
    if "in_evaluation" in told:
        yield f"**Note.** {escape(told['in_evaluation'])}."
    if "served" in told:
        yield f"**Note.** {escape(told['served'])}."


def _figures(scores: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _models(scores)
    yield "gain over zero-shot", span(scores["gain"], signed=True)
    if "gain_over_start" in scores:
        yield "gain over start", span(scores["gain_over_start"], signed=True)
    if "majority" in scores["adapted"]:
        yield "majority class", f"{scores['adapted']['majority']:.1f}"
    for key, words in (("prior_corrected", "prior corrected"), ("calibrated", "calibrated")):
        for title, figure in _models(scores.get(key, {})):
            yield f"{title}, {words}", figure


def _models(found: dict[str, Any], name: str = "f1") -> list[tuple[str, str]]:
    """Return title and figure of each model that was measured."""
    return [
        (title, span(found[model], name)) for model, title in MODEL_NAMES.items() if model in found
    ]


def describe_forgetting(scores: dict[str, Any]) -> Iterator[str]:
    """Yield the paragraphs on general tasks."""
    yield "## Forgetting"
    found = scores.get("general")
    if not found:
        yield "Not measured: no general tasks were asked (`baseline.general`)."
        return
    lines = [*_models(found), ("change over zero-shot", span(found["change"], signed=True))]
    yield f"Token F1 on {found['tasks']:,} general tasks, in points:"
    yield table(("model", "F1 (95 %)"), lines)


def span(values: dict[str, float], name: str = "f1", signed: bool = False) -> str:
    """Return a figure with its interval: ``32.1 (27.3 to 37.0)``."""
    sign = "+" if signed else ""
    middle, low, high = (f"{values[name + end]:{sign}.1f}" for end in ("", "_low", "_high"))
    return f"{middle} ({low} to {high})"
