"""``make label``: a person makes labelled items of passages, which ingest then holds out for good.

    python -m flows.review.items [--profile NAME] [--port 4301]

An item says in ``held_out`` which passage it is about. From the next run on ingest drops passages
that share its words (reason ``held_out``), so that no model is trained on what it is asked.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from flows.review.drafts import RULES, RUN, draw_passages, find_passages, make_drafts
from flows.review.lines_file import LinesFile, find_line, put_line
from flows.review.place import Place, make_parser, say
from flows.review.server import serve
from flows.runs.die_with_parent import CODE
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.page import Page
from tasks.core.ports import read_port
from tasks.core.row_reader import read_rows
from tasks.core.setting_paths import is_nothing
from tasks.core.spans import holds
from tasks.core.stage import one_line_errors
from tasks.core.task_types import EXTRACTION, task_type
from tasks.scoring.datasets import (
    Dataset,
    Item,
    asked_columns,
    check_prompts,
    load_dataset,
    load_items,
    parse_item,
)
from tasks.scoring.intervals import SPREAD, items_needed, measured_spread, smallest_gain

PORT, VARIABLE = 4301, "LABEL_PORT"
SCRIPT = "/scripts/label.js"
#: A gain in 0-1 whose number of items is shown.
_WANTED = 0.05
#: Drafts that the page gets at a time.
_SENT = 40


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C; return 2 after an error that the user can fix."""
    parser = make_parser("flows.review.items", "Make labelled items of held-out passages.", PORT)
    arguments = parser.parse_args(argv)
    with one_line_errors("label"):
        port = read_port(arguments.port, VARIABLE)
        desk = open_desk(Place(CODE, arguments.profile, arguments.settings))
        lead = "Questions to measure the model with. Their passages are never trained on."
        serve(desk, Page("Label", lead, script=SCRIPT), port, VARIABLE)
        return 0
    return 2


def open_desk(place: Place) -> LabelDesk:
    """Return the desk of a profile, and print what it is about."""
    for key, example in (("items", "local/mine/items.jsonl"), ("dataset", "datasets/mine.yaml")):
        place.need_own("evaluate", key, example)
    path = place.user_file("evaluate", "items")
    if is_nothing(path):
        name = place.profile.rpartition(",")[2]
        raise PipelineError(
            f"profile {place.profile} names no file for labelled items: in its section evaluate "
            f"write items: local/{name}/items.jsonl in place of {place.shown(path)}"
        )
    if path.suffix != ".jsonl":
        raise PipelineError(
            f"evaluate.items is {place.shown(path)}: items are written as JSON Lines only, name a "
            ".jsonl file"
        )
    dataset = load_dataset(place.user_file("evaluate", "dataset"))
    file = LinesFile(path, place.main)
    known = read_items(dataset, path)
    passages = find_passages(place)
    written = place.run.path / "artifacts/validate/instructions.parquet"
    seed = place.params.evaluate.seed
    drafts = make_drafts(dataset, draw_passages(passages, seed), written, seed)
    desk = LabelDesk(
        dataset,
        drafts,
        file,
        LinesFile(rejected_path(path), place.main),
        measured_spread(place.run.path),
    )
    origins = Counter(draft["origin"] for draft in drafts)
    say(
        items=f"{len(known)} in {place.shown(path)}",
        drafts=f"{origins[RUN]:,} of the last run, {origins[RULES]:,} by rules, and "
        f"{origins['']:,} empty forms, for the passages of {place.shown(passages)}",
    )
    if path.is_relative_to(place.main / "data"):
        say(note="data/ is the shipped example's: `dvc add data` records your items for a run")
    return desk


def rejected_path(items: Path) -> Path:
    """Return the file of rejected drafts: beside the items, so that they do not come again."""
    return items.with_suffix(".rejected.jsonl")


def read_items(dataset: Dataset, path: Path) -> list[Item]:
    """Return the items so far, none where the file is missing or empty; a broken one is an error
    that names its row.
    """
    empty = not path.exists() or not path.stat().st_size
    return [] if empty else load_items(dataset, path)


class LabelDesk:
    """The drafts, the items made of them and the rejected ones."""

    def __init__(
        self,
        dataset: Dataset,
        drafts: list[dict[str, Any]],
        file: LinesFile,
        rejected: LinesFile,
        spread: float | None = None,
    ) -> None:
        """``spread`` is that of :func:`measured_spread`."""
        self.dataset, self.drafts, self.file, self.rejected = dataset, drafts, file, rejected
        self._drafts = {draft["key"]: draft for draft in drafts}
        self._spread, self._reviewer = spread, os.environ.get("REVIEWER", "")
        #: Draft -> when it was skipped; another start of the page offers it as any other.
        self._skipped: dict[str, int] = {}
        self._skips = count(1)

    def state(self) -> dict[str, Any]:
        """Return the form, the progress, and the drafts that are open: first those whose label
        there is least of, then drafts by rules and empty forms, then what was skipped.
        """
        items = read_items(self.dataset, self.file.path)
        labels = Counter({label: 0 for label in self.dataset.labels})
        if self.dataset.classifies:
            labels.update(item.golds[0] for item in items)
        taken = {*_taken(items), *self._rejections()}
        left = [draft for draft in self.drafts if draft["key"] not in taken]
        left.sort(
            key=lambda draft: (
                self._skipped.get(draft["key"], 0),
                draft["origin"] != RUN,
                labels.get(draft["label"], 0) if draft["origin"] == RUN else 0,
            )
        )
        return {
            "columns": asked_columns(self.dataset),
            "labels": dict(labels),
            "scarcest": min(labels, key=lambda name: labels[name]) if labels else "",
            "task_type": task_type(self.dataset.task_type),
            "drafts": left[:_SENT],
            "left": sum(bool(draft["origin"]) for draft in left),
            "progress": self.progress(items),
        }

    def progress(self, items: list[Item]) -> dict[str, Any]:
        """Return the items, the passages they are about, and the smallest gain (0-1) that a run on
        them can show.
        """
        spread = self._spread or SPREAD
        return {
            "items": len(items),
            "held_out": len({item.context for item in items if item.held_out}),
            "passages": len({item.context for item in items}),
            "smallest_gain": smallest_gain(len(items), spread),
            "spread": spread,
            "measured": self._spread is not None,
            "needed": items_needed(_WANTED, spread),
            "wanted": _WANTED,
        }

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        """Write an item (``accept``), or a rejection (``reject``), or take one back
        (``undo``, which names what ``accept`` or ``reject`` returned as ``saved``); or put a draft
        behind the others (``skip``).
        """
        draft = self._drafts.get(str(change.get("key")))
        action = {
            "accept": self._accept,
            "reject": self._reject,
            "undo": self._undo,
            "skip": self._skip,
        }.get(str(change.get("action")))
        if draft is None or action is None:
            raise PipelineError("this draft is not there any more: load the page again")
        saved = action(draft, change)
        return {"saved": saved, **self.state()}

    def _accept(self, draft: dict[str, Any], change: dict[str, Any]) -> str:
        by_hand = bool(change.get("by_hand")) or not draft["origin"]
        row = self._make_row(draft, change, by_hand)
        item = self._check(row)
        with self.file.edit() as lines:
            items = read_items(self.dataset, self.file.path)
            if not by_hand:
                self._need_open(draft, items)
            if any(item.id == other.id for other in items):
                raise PipelineError("this question on this passage is among the items already")
            put_line(lines, None, row)
        return item.id

    def _make_row(
        self, draft: dict[str, Any], change: dict[str, Any], by_hand: bool
    ) -> dict[str, Any]:
        fields = {name: _line(change, "fields", name) for name in asked_columns(self.dataset)}
        given = change.get("answers")
        answers = [" ".join(str(one).split()) for one in given] if isinstance(given, list) else []
        answers = [answer for answer in answers if answer]
        label = str(change.get("label") or "")
        same = fields == draft["fields"] and (label, answers) == (draft["label"], draft["answers"])
        how = "by hand" if by_hand else "accepted" if same else "edited"
        place = {name: draft[name] for name in ("passage_id", "document", "page", "start", "end")}
        text, gold = draft["text"], label if self.dataset.classifies else answers
        name = f"{self.dataset.name}-{fingerprint('item', text, fields, gold)[:12]}"
        row: dict[str, Any] = {}
        _put(row, self.dataset.id, name)
        _put(row, self.dataset.context, text)
        for column, value in fields.items():
            _put(row, column, value)
        _put(row, self.dataset.label if self.dataset.classifies else self.dataset.answers, gold)
        key, drafted = ("", "") if by_hand and draft["origin"] else (draft["key"], draft["origin"])
        told = {"draft": key, "drafted_by": drafted, "how": how, "reviewer": self._reviewer}
        row["held_out"] = place | told
        return row

    def _check(self, row: dict[str, Any]) -> Item:
        """Return the item of a row, as evaluate reads it; what is missing is an error."""
        for name in asked_columns(self.dataset):
            if not row[name]:
                raise PipelineError(f"the {name} is empty")
        if self.dataset.classifies and not _get(row, self.dataset.label):
            raise PipelineError(f"choose a label: {', '.join(self.dataset.labels)}")
        if not self.dataset.classifies and not _get(row, self.dataset.answers):
            raise PipelineError("there is no answer")
        item = parse_item(self.dataset, row, "this item")
        check_prompts(self.dataset, item)
        if task_type(self.dataset.task_type) in EXTRACTION:
            for answer in item.golds:
                if not holds(item.context, answer):
                    raise PipelineError(f"{answer!r} is not in the passage: copy the answer")
        return item

    def _reject(self, draft: dict[str, Any], change: dict[str, Any]) -> str:
        row = {"key": draft["key"], "row_id": draft["row_id"], "passage_id": draft["passage_id"]}
        with self.file.edit(), self.rejected.edit() as lines:
            self._need_open(draft, read_items(self.dataset, self.file.path))
            put_line(lines, None, row | {"verdict": "rejected", "reviewer": self._reviewer})
        return ""

    def _skip(self, draft: dict[str, Any], change: dict[str, Any]) -> str:
        self._skipped[draft["key"]] = next(self._skips)
        return ""

    def _undo(self, draft: dict[str, Any], change: dict[str, Any]) -> str:
        wanted = str(change.get("saved") or "")
        file = self.file if wanted else self.rejected
        with file.edit() as lines:
            if wanted:
                read_items(self.dataset, self.file.path)  # a file broken by hand is not touched
                place = find_line(lines, lambda row: _get(row, self.dataset.id) == wanted)
            else:
                place = find_line(lines, lambda row: row.get("key") == draft["key"])
            if place is None:
                raise PipelineError("that is undone already, in another page")
            put_line(lines, place, None)
        return ""

    def _need_open(self, draft: dict[str, Any], items: list[Item]) -> None:
        if draft["key"] in _taken(items):
            raise PipelineError("this draft was accepted meanwhile, in another page")
        if draft["key"] in self._rejections():
            raise PipelineError("this draft was rejected meanwhile, in another page")

    def _rejections(self) -> set[str]:
        path = self.rejected.path
        return {str(row.get("key")) for row in read_rows(path)} if path.exists() else set()


def _taken(items: list[Item]) -> set[str]:
    """Return the keys of the drafts that the items were made of."""
    held = (item.columns.get("held_out") for item in items)
    return {str(one.get("draft")) for one in held if isinstance(one, dict)}


def _line(change: dict[str, Any], part: str, name: str) -> str:
    values = change.get(part)
    return " ".join(str(values.get(name, "")).split()) if isinstance(values, dict) else ""


def _put(row: dict[str, Any], column: str, value: Any) -> None:
    """Set a column, which may be a path into nested values."""
    *outer, last = column.split(".")
    for part in outer:
        row = row.setdefault(part, {})
    row[last] = value


def _get(row: dict[str, Any], column: str) -> Any:
    value: Any = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


if __name__ == "__main__":
    sys.exit(main())
