"""The form of a file of labelled items: the task type, and which columns hold what.

Recognised from the columns' names and values, as datasets are published. What may mean two things
is refused in one line.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.row_reader import Row, read_lines, read_rows
from tasks.start.item_labels import CLASSES, class_of, order_labels

#: Columns that may hold a part of an item, the likeliest first.
_IDS = ("id", "pubid", "qid", "uid", "unique_id", "question_id", "item_id", "idx")
_CONTEXTS = {
    "exqa": ("context", "passage", "evidence", "text", "premise"),
    "ynqa": ("context", "passage", "evidence", "text", "premise"),
    "nli": ("premise", "context", "passage", "evidence", "text"),
}
#: Parts of a context that is an object, such as PubMedQA's on the hub.
_CONTEXT_PARTS = ("contexts", "text")
_CLAIMS = ("hypothesis", "claim", "statement")
_LABELS = {
    "ynqa": ("answer", "label", "final_decision"),
    "nli": ("label", "choice", "gold_label", "answer"),
}
_ALL_LABELS = tuple(dict.fromkeys((*_LABELS["ynqa"], *_LABELS["nli"])))
_DOCUMENTS = ("document", "document_id", "doc_id")


@dataclass(frozen=True)
class ItemForm:
    """Task type and columns of labelled items, as the dataset file names them.

    ``id``, ``context``, ``answers``, ``label`` and ``document`` are columns, ``context`` and
    ``answers`` perhaps as dotted paths (``answers.text``). ``asked`` is the column of the question
    or the claim. Extraction has ``answers``; the other types have ``label`` and ``labels``, the
    values as they are in the data in the order of the templates' choices.
    """

    kind: str
    id: str = "id"
    context: str = "context"
    asked: str = "question"
    answers: str = ""
    label: str = ""
    labels: tuple[str, ...] = ()
    document: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """What each of ``labels`` means: yes, no, maybe; entailment, neutral, contradiction."""
        return tuple(class_of(self.kind, label) for label in self.labels)

    def describe(self) -> str:
        """Return the columns in a line; the question's only where it is not the usual one."""
        asked = f"{'claim' if self.kind == 'nli' else 'question'} {self.asked}"
        parts = [
            f"id {self.id}",
            f"context {self.context}",
            asked if self.asked != HOUSE[self.kind].asked else "",
            f"answers {self.answers}" if self.answers else "",
            f"label {self.label} ({', '.join(self.labels)})" if self.labels else "",
            f"document {self.document}" if self.document else "",
        ]
        return ", ".join(filter(None, parts))


#: Task type -> the form that docs/datasets.md shows. Only for these does ``make start`` write
#: dataset files.
HOUSE = {
    "exqa": ItemForm("exqa", answers="answers"),
    "nli": ItemForm(
        "nli", context="premise", asked="hypothesis", label="label", labels=CLASSES["nli"]
    ),
    "ynqa": ItemForm("ynqa", label="answer", labels=CLASSES["ynqa"][:2]),
}
_KNOWN = (
    "known forms have question and answers (exqa), question and a label yes or no (ynqa), "
    f"{' or '.join(_CLAIMS)} and a label (nli)"
)


@dataclass(frozen=True)
class _Table:
    """The rows of a file, and the name of the run whose dataset file is wanted."""

    path: Path
    rows: list[Row]
    name: str

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(column for row in self.rows for column in row))

    def first(self, names: tuple[str, ...]) -> str:
        """Return the first of these columns that has a value in some row; empty: none has."""
        return next((name for name in names if self.values(name)), "")

    def values(self, column: str) -> dict[int, Any]:
        """Return number of row, from 1 -> value; an empty cell of a CSV file has none."""
        found = ((number, row.get(column)) for number, row in enumerate(self.rows, start=1))
        return {number: value for number, value in found if value not in (None, "")}

    def distinct(self, column: str) -> dict[str, int]:
        """Return each value as evaluate reads it -> the first row that has it."""
        found: dict[str, int] = {}
        for number, value in self.values(column).items():
            found.setdefault(str(value), number)
        return found

    def refuse(self, what: str, remedy: str) -> PipelineError:
        """Return the error; its end says how to start all the same."""
        return PipelineError(
            f"{self.path}: {what}: {remedy}; or: {self.way_on('set the columns in')}"
        )

    def way_on(self, change: str) -> str:
        """Return how to start without these items, and to name them afterwards."""
        return (
            f"make start without EVALUATION, then {change} datasets/{self.name}.yaml and the file "
            f"in evaluate.items of profiles/{self.name}.yaml"
        )


def recognise(path: Path, name: str, task: str = "") -> ItemForm:
    """Return the form of the items of a file.

    ``task`` (short name; empty: not chosen) decides where the form allows several types. A form
    that is not known, allows another type alone, or means two things is an error.
    """
    _check_file(path)
    table = _Table(path, list(read_rows(path)), name)
    if not table.rows:
        raise PipelineError(f"{path} has no items: one a line, as in docs/datasets.md")
    kinds = _find_kinds(table)
    if not kinds:
        raise _unknown(table)
    if task and task not in kinds:
        raise PipelineError(
            f"TASK={task}, but the items of {path} have the form of {' or '.join(kinds)}: "
            "docs/datasets.md shows the forms"
        )
    return _form(table, task or kinds[0])


def _check_file(path: Path) -> None:
    """Raise an error for files that hold items, but not as the reader of rows takes them."""
    if path.suffix == ".json":
        raise PipelineError(
            f"{path}: items are read one a line, from a file .jsonl: {_tell_lines(path)}"
        )
    divider = {".csv": ",", ".tsv": "\t"}.get(Path(path.name.removesuffix(".gz")).suffix)
    if divider:
        header = next((line for _, line in read_lines(path)), "")
        mark = max(";\t", key=header.count)
        if mark != divider and header.count(mark) > header.count(divider):
            shown = "a tab" if mark == "\t" else mark
            raise PipelineError(
                f"{path} line 1: its cells are divided by {shown}: save it with commas, as .csv"
            )


def _tell_lines(path: Path) -> str:
    """Return how a .json file becomes one item a line."""
    lines = list(islice((line for _, line in read_lines(path) if line.strip()), 2))
    wanted = path.with_suffix(".jsonl")
    try:
        if len(lines) == 2 and isinstance(json.loads(lines[0]), dict):
            return f"each of its lines is an item, so name it {wanted.name}"
    except (ValueError, RecursionError):
        pass  # an item or a list over several lines
    return (
        'write it as one; of a list of items: .venv/bin/python -c "import json, sys; '
        '[print(json.dumps(item)) for item in json.load(open(sys.argv[1]))]" '
        f"{shlex.quote(str(path))} > {shlex.quote(str(wanted))}"
    )


def _find_kinds(table: _Table) -> list[str]:
    """Return the task types that the columns allow, the likeliest first."""
    kinds = []
    asks = bool(table.first(("question",)))
    if asks and table.first(("answers",)):
        kinds.append("exqa")
    if table.first(_CLAIMS) and table.first(_LABELS["nli"]):
        kinds.append("nli")
    if asks:
        label = table.first(_LABELS["ynqa"])
        decided = any(_mostly_known(table, "ynqa", column) for column in _LABELS["ynqa"])
        free = ["exqa"] if table.first(("answer",)) else []
        closed = ["ynqa"] if decided or (label and label != "answer") else []
        kinds += [*closed, *free] if decided else [*free, *closed]
    return list(dict.fromkeys(kinds))


def _form(table: _Table, kind: str) -> ItemForm:
    asked = table.first(_CLAIMS) if kind == "nli" else "question"
    context = _context(table, kind)
    answers = _answers(table) if kind == "exqa" else ""
    label = "" if answers else _label_column(table, kind)
    labels = order_labels(kind, label, table.distinct(label), table.refuse) if label else ()
    return ItemForm(kind, _id(table), context, asked, answers, label, labels, _document(table))


def _unknown(table: _Table) -> PipelineError:
    """Return the error for columns that are no form of these types."""
    asked = table.first(("question", *_CLAIMS))
    text, label = table.first(_CONTEXTS["exqa"]), table.first(_ALL_LABELS)
    if text and label and not asked:
        change = (
            "write task_type topic_class or sentiment, label, labels and templates (docs/"
            "datasets.md) in"
        )
        return PipelineError(
            f"{table.path}: {text} and {label} without a question or a claim are topics or "
            f"sentiment, whose dataset file start does not write: {table.way_on(change)}"
        )
    return table.refuse(
        f"an item has the columns {', '.join(table.columns)}; {_KNOWN}", "docs/datasets.md"
    )


def _context(table: _Table, kind: str) -> str:
    names = _CONTEXTS[kind]
    column = table.first(names)
    if not column:
        raise table.refuse(
            f"no column of the passage among {', '.join(table.columns)}",
            f"a question is asked of the passage that answers it; add that as {names[0]} "
            f"({', '.join(names[1:])} are known too)",
        )
    value = next(iter(table.values(column).values()))
    if not isinstance(value, dict):
        return column
    part = next((part for part in _CONTEXT_PARTS if part in value), "")
    if not part:
        raise table.refuse(
            f"{column} is an object of {', '.join(value)}", f"write the passage in {column} as text"
        )
    return f"{column}.{part}"


def _answers(table: _Table) -> str:
    column = table.first(("answers", "answer"))
    value = next(iter(table.values(column).values()))
    return f"{column}.text" if isinstance(value, dict) and "text" in value else column


def _id(table: _Table) -> str:
    """Return the column of the ids: each item has one, and no other item has it."""
    wrong = ""
    for column in _IDS:
        values = {n: str(v) for n, v in table.values(column).items() if str(v).strip()}
        if len(values) == len(table.rows) == len(set(values.values())):
            return column
        if values and not wrong:
            wrong = _tell_ids(table, column, values)
    raise table.refuse(
        wrong or f"no column of ids among {', '.join(table.columns)}",
        "add a column id with unique values",
    )


def _tell_ids(table: _Table, column: str, values: dict[int, str]) -> str:
    """Return which rows lack an id, or have the same."""
    missing = next((n for n in range(1, len(table.rows) + 1) if n not in values), 0)
    if missing:
        return f"row {missing} has no {column}"
    rows: dict[str, int] = {}
    twice = next(n for n, value in values.items() if rows.setdefault(value, n) != n)
    return f"rows {rows[values[twice]]} and {twice} have the same {column}, {values[twice]!r}"


def _document(table: _Table) -> str:
    named = (column for column in _DOCUMENTS if table.values(column))
    return next(
        (c for c in named if all(isinstance(v, (str, int)) for v in table.values(c).values())), ""
    )


def _label_column(table: _Table, kind: str) -> str:
    """Return the column whose values are the usual words, where one holds numbers beside it."""
    known = (column for column in _LABELS[kind] if _mostly_known(table, kind, column))
    return next(known, "") or table.first(_LABELS[kind])


def _mostly_known(table: _Table, kind: str, column: str) -> bool:
    """Tell whether more than half of the values are words of the type: the others are mistakes."""
    values = table.values(column).values()
    return 2 * sum(bool(class_of(kind, str(value))) for value in values) > len(values)
