"""What the page of ``make label`` shows and saves: drafts, the items made of them, rejections."""

from __future__ import annotations

import os
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

from flows.review.drafts import RUN
from flows.review.lines_file import LinesFile, find_line, put_line
from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.row_reader import read_rows
from tasks.core.spans import holds
from tasks.core.task_types import EXTRACTION, task_type
from tasks.scoring.datasets import (
    Dataset,
    Item,
    asked_columns,
    check_prompts,
    load_items,
    parse_item,
)
from tasks.scoring.intervals import SPREAD, items_needed, smallest_gain

#: A gain in 0-1 whose number of items is shown.
_WANTED = 0.05
#: The items that README advises; the gain that they show is shown too.
_ADVISED = 100
#: Drafts that the page gets at a time.
_SENT = 40


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
            "drafts": left[:_SENT],
            "left": sum(bool(draft["origin"]) for draft in left),
            "progress": self._progress(items),
        }

    def _progress(self, items: list[Item]) -> dict[str, Any]:
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
            "advised": _ADVISED,
            "advised_gain": smallest_gain(_ADVISED, spread),
        }

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        """Write an item (``accept``), or a rejection (``reject``), or take one back
        (``undo``, which names what ``accept`` or ``reject`` returned as ``saved``); or put a draft
        after the others (``skip``).
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
            if any(self._asked(item) == self._asked(other) for other in items):
                raise PipelineError("this question on this passage is among the items already")
            put_line(lines, None, row)
        return item.id

    def _asked(self, item: Item) -> list[Any]:
        """Return what tells one question on a passage from another, whatever its answer."""
        columns = asked_columns(self.dataset)
        return [item.context, *(item.columns.get(column) for column in columns)]

    def _make_row(
        self, draft: dict[str, Any], change: dict[str, Any], by_hand: bool
    ) -> dict[str, Any]:
        written, given = change.get("fields"), change.get("answers")
        written = written if isinstance(written, dict) else {}
        fields = {name: _line(written.get(name, "")) for name in asked_columns(self.dataset)}
        lines = map(_line, given) if isinstance(given, list) else ()
        answers = [answer for answer in lines if answer]
        label = str(change.get("label") or "")
        same = fields == draft["fields"] and (label, answers) == (draft["label"], draft["answers"])
        how = "by hand" if by_hand else "accepted" if same else "edited"
        place = {name: draft[name] for name in ("passage_id", "document", "page", "start", "end")}
        text, gold = draft["text"], label if self.dataset.classifies else answers
        name = f"{self.dataset.name}-{fingerprint('item', text, fields, gold)[:12]}"
        row: dict[str, Any] = {}
        _put(row, self.dataset.id, name)
        _put(row, self.dataset.context, text)
        if self.dataset.document:  # intervals draw whole documents
            _put(row, self.dataset.document, draft["document"])
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
            # Read the file first: one that an edit by hand broke is an error, and stays as it is.
            if wanted:
                read_items(self.dataset, self.file.path)
                place = find_line(lines, lambda row: _get(row, self.dataset.id) == wanted)
            else:
                self._rejections()
                place = find_line(lines, lambda row: row.get("key") == draft["key"])
            if place is None:
                raise PipelineError("that is undone already, in another page")
            put_line(lines, place, None)
        return ""

    def _need_open(self, draft: dict[str, Any], items: list[Item]) -> None:
        if draft["key"] in _taken(items):
            raise PipelineError("this draft was accepted meanwhile, in another page: skip it")
        if draft["key"] in self._rejections():
            raise PipelineError("this draft was rejected meanwhile, in another page: skip it")

    def _rejections(self) -> set[str]:
        path = self.rejected.path
        return {str(row.get("key")) for row in read_rows(path)} if path.exists() else set()


def _taken(items: list[Item]) -> set[str]:
    """Return the keys of the drafts that the items were made of."""
    held = (item.columns.get("held_out") for item in items)
    return {str(one.get("draft")) for one in held if isinstance(one, dict)}


def _line(value: Any) -> str:
    """Return what a person wrote as one line."""
    return " ".join(str(value).split())


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
