"""The page of evaluation: every item, its passage and what each model answers, wrong ones first.

The template is templates/report.html. It filters with CSS alone: a written page runs no script.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.page import Page, Tile, number, stage_links, write_page
from tasks.core.rows import MODEL_NAMES
from tasks.evaluate.measures import MODELS
from tasks.scoring.datasets import Item, asked_columns
from tasks.scoring.item_page import page_name
from tasks.scoring.questions import HELD_OUT, Questions

_TEMPLATE = Path(__file__).parent / "templates" / "report.html"
#: Items on the page, general tasks included; documents in its filter; characters of a passage.
MOST, _DOCUMENTS, _CHARACTERS = 2000, 100, 20_000
#: Mean F1 (0-1) over the templates from which an item counts as right.
_RIGHT = 0.5
_OTHERS, _GENERAL = "other documents", "general tasks"
_COLUMNS = ("model", "template", "item_id", "prediction", "golds", "f1")
_LABELLED = "What each model answers to every labelled item."
_HELD_OUT = (
    "There are no labelled items. What each model answers to rows that were kept out of the "
    "training: what is expected is the generator's answer, so right means like the generator."
)


@dataclass(frozen=True)
class Shown:
    """An item of the page, or a general task: ``group`` is its document, ``scores`` are model ->
    mean F1 in 0-1.
    """

    id: str
    task_type: str
    group: str
    text: str
    asked: tuple[tuple[str, str], ...]
    golds: tuple[str, ...]
    scores: dict[str, float]
    general: bool = False

    @property
    def outcome(self) -> str:
        """``right`` or ``wrong`` of the adapted model, and with a change ``mended``, ``broken``."""
        before, after = (self.scores[name] >= _RIGHT for name in (self.before, "adapted"))
        if before == after:
            return "right" if after else "wrong"
        return "right mended" if after else "wrong broken"

    @property
    def before(self) -> str:
        """The model that the adaptation is compared with."""
        return "start" if "start" in self.scores else "zero_shot"


def write_report(
    path: Path,
    questions: Questions,
    predictions: dict[str, pa.Table],
    general: dict[str, pa.Table],
    run: str,
    most: int = MOST,
) -> None:
    """Write the page. ``predictions`` and ``general`` are model -> answers (rows.EVALUATIONS),
    ``run`` is the name of the answers (:func:`tasks.scoring.item_page.name_answers`).
    """
    models = [model for model in MODELS if model in predictions]
    items = _items(questions, predictions, models)
    tasks = _tasks(general, models)
    everything = sorted([*items, *tasks], key=lambda item: (item.scores["adapted"], item.id))
    shown = everything[:most]
    groups = _groups(shown)
    write_page(
        path,
        _TEMPLATE,
        _head(questions, items, len(everything), len(shown)),
        models=[(model, MODEL_NAMES[model]) for model in models],
        classifies=questions.dataset.classifies,
        groups=list(groups.items()),
        kinds=sorted({item.task_type for item in shown}),
        items=_entries(shown, groups, models, predictions, general, run),
        total=len(everything),
        count=len(shown),
    )


def why_command(run: str, item_id: str) -> str:
    """Return the command that explains an item's answers. It names the answers, not the profile of
    the run: DVC may restore this page in a run with another one.

    The id may hold any characters: it is quoted for the shell. Make passes it on as it is
    (Makefile, VALUES).
    """
    return f"make why RUN={run} ITEM={shlex.quote(item_id)}"


def _items(
    questions: Questions, predictions: dict[str, pa.Table], models: Sequence[str]
) -> list[Shown]:
    means = {model: _means(predictions[model]) for model in models}
    return [
        Shown(
            item.id,
            questions.dataset.task_type,
            _document(item),
            item.context,
            _asked(item, questions),
            item.golds,
            {model: means[model][item.id] for model in models},
        )
        for item in questions.items
    ]


def _tasks(general: dict[str, pa.Table], models: Sequence[str]) -> list[Shown]:
    """Return the general tasks; their template is their task type, their text the prompt."""
    means = {model: _means(general[model]) for model in models}
    columns = ["item_id", "template", "prompt", "golds"]
    return [
        Shown(
            row["item_id"],
            row["template"],
            _GENERAL,
            row["prompt"],
            (),
            tuple(row["golds"]),
            {model: means[model][row["item_id"]] for model in models},
            general=True,
        )
        for row in general["adapted"].select(columns).to_pylist()
    ]


def _means(answers: pa.Table) -> dict[str, float]:
    """Return item -> mean F1 over the templates."""
    grouped = answers.group_by("item_id").aggregate([("f1", "mean")])
    return dict(zip(grouped["item_id"].to_pylist(), grouped["f1_mean"].to_pylist(), strict=True))


def _document(item: Item) -> str:
    """Return the document that an item names, else the first words of its passage."""
    held = item.columns.get("held_out")
    known = held if isinstance(held, dict) else item.columns
    document = item.document or str(known.get("document") or "")
    return document or " ".join(item.context.split()[:7]) + " ..."


def _asked(item: Item, questions: Questions) -> tuple[tuple[str, str], ...]:
    found = ((name, item.columns.get(name)) for name in asked_columns(questions.dataset))
    # The instruction of a held-out row holds its passage.
    return tuple(
        (name, str(value).replace(item.context, "[passage]")) for name, value in found if value
    )


def _groups(shown: Sequence[Shown]) -> dict[str, str]:
    """Return document -> its class in the page, the most frequent ones; the rest have one class."""
    counts = Counter(item.group for item in shown)
    names = sorted(sorted(counts), key=lambda name: -counts[name])
    groups = {name: f"d{place}" for place, name in enumerate(sorted(names[:_DOCUMENTS]))}
    return groups | ({_OTHERS: "others"} if len(names) > _DOCUMENTS else {})


def _entries(
    shown: Sequence[Shown],
    groups: dict[str, str],
    models: Sequence[str],
    predictions: dict[str, pa.Table],
    general: dict[str, pa.Table],
    run: str,
) -> Iterator[dict[str, Any]]:
    found = {
        is_general: _answers(
            [tables[model] for model in models],
            {item.id for item in shown if item.general == is_general},
        )
        for is_general, tables in ((False, predictions), (True, general))
    }
    for item in shown:
        yield {
            "item": item,
            "group": groups.get(item.group, "others"),
            "text": item.text[:_CHARACTERS] + (" ..." if len(item.text) > _CHARACTERS else ""),
            "answers": found[item.general][item.id],
            "command": why_command(run, item.id),
            "page": page_name(item.id),
        }


def _answers(tables: list[pa.Table], wanted: set[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return item -> template -> model -> its row, for the items on the page alone."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    ids = pa.array(sorted(wanted), pa.string())
    for table in tables:
        kept = table.filter(pc.is_in(table["item_id"], value_set=ids)).select(list(_COLUMNS))
        for row in kept.to_pylist():
            by_template = found.setdefault(row["item_id"], {})
            by_template.setdefault(row["template"], {})[row["model"]] = row
    return found


def _head(questions: Questions, items: Sequence[Shown], total: int, count: int) -> Page:
    counts = Counter(word for item in items for word in item.outcome.split())
    over = MODEL_NAMES[items[0].before]
    tiles = (
        Tile("Items", number(len(items)), f"under {len(questions.templates)} templates"),
        Tile("Wrong", number(counts["wrong"]), "mean F1 under 0.5"),
        Tile("Mended", number(counts["mended"]), f"{over}: wrong", "good"),
        Tile("Broken", number(counts["broken"]), f"{over}: right", "bad"),
    )
    left = total - count
    facts = (
        ("dataset", questions.dataset.name),
        ("shown", f"{number(count)} of {number(total)}, the adapted model's wrong ones first"),
        *((("not shown", f"{number(left)}: all are in predictions.parquet"),) if left else ()),
    )
    lead = _HELD_OUT if questions.dataset.name == HELD_OUT else _LABELLED
    return Page("Evaluation", lead, tiles, facts, stage_links("evaluate"))
