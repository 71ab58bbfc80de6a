"""The plots of a registered model, drawn without a display: same numbers, same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.core.rows import MODEL_NAMES

_COLOURS = {"zero_shot": "#9aa5b1", "start": "#c2a25a", "adapted": "#2f6f9f"}


def plot_loss(path: Path, points: list[tuple[int, float]]) -> None:
    """Draw the training loss over optimiser steps."""
    figure, axes = _figure(6.4, 3.6)
    axes.plot(
        [step for step, _ in points],
        [loss for _, loss in points],
        color=_COLOURS["adapted"],
        linewidth=1.6,
    )
    axes.set(
        xlabel="optimiser step",
        ylabel="loss (mean over response tokens)",
        title="Training loss",
        ylim=(0, None),
    )
    _save(figure, path)


def plot_f1(path: Path, metrics: dict[str, Any]) -> None:
    """Draw the F1 of each model by template and overall, with 95 % intervals: zero-shot, the start
    alone where there is one, adapted.

    A line shows the F1 of the majority class where there is one.
    """
    models = [model for model in _COLOURS if model in metrics]
    scores = {model: metrics[model]["by_dataset"][metrics["dataset"]] for model in models}
    step = 0.76 / len(models)
    names = ["all templates", *scores["adapted"]["by_template"]]
    figure, axes = _figure(7.6, 0.62 * len(names) + 1.4)
    for place, (model, values) in enumerate(scores.items()):
        shift = ((len(models) - 1) / 2 - place) * step
        rows = [values, *values["by_template"].values()]
        heights = [len(names) - 1 - index + shift for index in range(len(names))]
        # A macro F1 of many labels with few items each can be outside its interval.
        errors = [
            [max(0.0, row["f1"] - row["f1_low"]) for row in rows],
            [max(0.0, row["f1_high"] - row["f1"]) for row in rows],
        ]
        axes.barh(
            heights,
            [row["f1"] for row in rows],
            step - 0.02,
            xerr=errors,
            color=_COLOURS[model],
            label=MODEL_NAMES[model],
            error_kw={"lw": 1, "capsize": 2},
        )
    if "majority" in scores["adapted"]:
        axes.axvline(
            scores["adapted"]["majority"],
            color="#b04a3a",
            linewidth=1,
            linestyle="--",
            label="majority class",
        )
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set(
        xlabel=f"{metrics['metric']} (points, 95 % interval)",
        title=f"{metrics['dataset']}: {metrics['items']} items",
        xlim=(0, 100),
    )
    axes.legend(loc="lower right", frameon=False)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(width, height))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    figure.savefig(path, dpi=130, metadata={"Software": None})
    pyplot.close(figure)
