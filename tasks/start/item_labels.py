"""The labels of items: what each word means, and the order of the templates' choices."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice

from tasks.core.errors import PipelineError

#: What to raise, from what was found and what to do about it.
Refuse = Callable[[str, str], PipelineError]

#: Task type -> class -> the usual words for it, as :func:`_fold` writes them.
_WORDS = {
    "ynqa": {"yes": {"yes", "true"}, "no": {"no", "false"}, "maybe": {"maybe"}},
    "nli": {
        "entailment": {
            *("entailment", "entailed", "entails", "supports", "supported", "true", "yes")
        },
        "neutral": {
            *("neutral", "notmentioned", "notenoughinfo", "notenoughinformation", "nei"),
            *("unknown", "inconclusive", "undetermined", "maybe"),
        },
        # Sets of two classes, such as RTE, say "not entailment" for all that does not follow.
        "contradiction": {
            *("contradiction", "contradicted", "contradicts", "refutes", "refuted", "false", "no"),
            "notentailment",
        },
    },
}
#: Task type -> its classes in the order of the templates' choices. These words are the labels that
#: docs/datasets.md shows.
CLASSES = {kind: tuple(words) for kind, words in _WORDS.items()}
#: Labels that an error shows.
_SHOWN = 5


def class_of(kind: str, label: str) -> str:
    """Return what a label means; empty where its word is not known."""
    folded = _fold(label)
    return next((name for name, words in _WORDS[kind].items() if folded in words), "")


def order_labels(
    kind: str, column: str, found: Mapping[str, int], refuse: Refuse
) -> tuple[str, ...]:
    """Return the labels that a column has in the order of the classes.

    ``found`` holds each value and the first row that has it. Where all of them are the words of
    docs/datasets.md, those that no item has yet are there too. Labels that are unknown, or written
    in two ways, raise what ``refuse`` returns.
    """
    _check_words(kind, column, found, refuse)
    usual = CLASSES[kind][: 2 if kind == "ynqa" and "maybe" not in found else 3]
    if set(found) <= set(usual):
        return usual
    by_class: dict[str, str] = {}
    for label, row in found.items():
        other = by_class.setdefault(class_of(kind, label), label)
        if other != label:
            raise refuse(
                f"{column} has {other!r} (row {found[other]}) and {label!r} (row {row}), which "
                "mean the same",
                "write one of them everywhere",
            )
    if len(by_class) < 2 or (kind == "ynqa" and not {"yes", "no"} <= set(by_class)):
        raise refuse(
            f"{column} has {' and '.join(map(repr, found))} alone, and macro F1 needs the other "
            "answers too",
            f"add items with them, or write {', '.join(usual)}",
        )
    return tuple(by_class[name] for name in CLASSES[kind] if name in by_class)


def _check_words(kind: str, column: str, found: Mapping[str, int], refuse: Refuse) -> None:
    """Raise an error for values that are not a few words of the type, each written in one way."""
    classes = ", ".join(CLASSES[kind])
    if all(re.fullmatch(r"-?\d+(\.\d+)?", label.strip()) for label in found):
        raise refuse(
            f"{column} holds numbers ({_show(found)}), and nothing says which number is which "
            "class",
            f"write words ({classes})",
        )
    written: dict[str, str] = {}
    for label, row in found.items():
        other = written.setdefault(label.casefold(), label)
        if other != label:
            raise refuse(
                f"{column} has {other!r} (row {found[other]}) and {label!r} (row {row}), which "
                "differ only in case",
                "write one of them everywhere",
            )
    if len(found) > len(CLASSES[kind]):
        raise refuse(
            f"{column} has {len(found)} different values ({_show(found)}), more than the classes "
            f"of {kind}",
            f"write at most {len(CLASSES[kind])} ({classes})",
        )
    for label, row in found.items():
        if not class_of(kind, label):
            raise refuse(
                f"row {row} has the unknown label {label!r} in {column}", f"write words ({classes})"
            )


def _show(labels: Mapping[str, int]) -> str:
    return ", ".join(islice(labels, _SHOWN)) + (", ..." if len(labels) > _SHOWN else "")


def _fold(label: str) -> str:
    """Return a label without case, spaces and marks: ``NOT ENOUGH INFO``, ``not_entailment``."""
    return re.sub(r"[\W_]+", "", label).casefold()
