"""Jinja's sandbox with promptsource's filters: strict about names, closed to Python's internals,
deterministic.

The sandbox limits what a template can access; :mod:`bonito.templating.workers` limits its time and
memory.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import StrictUndefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Splits the instruction from the response, and the answer choices from each other.
SEPARATOR = "|||"
#: Replaces a ``|||`` inside a row's values while a template is rendered. promptsource's value: its
#: multi_news templates name it.
PIPE_PROTECTOR = "3ed2dface8203c4c9dfb1a5dc58e41e0"
#: Longest sequence from ``*``, and most bits from ``**``. Each is one interpreter instruction,
#: which no timer interrupts.
LARGEST_PRODUCT = 1_000_000


class BadLabel(Exception):
    """A label is outside the answer choices."""


class Choices(list[str]):
    """Answer choices that refuse a label outside them: -1, the label of unlabelled rows, would be
    the last choice in Python.
    """

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int) and not 0 <= index < len(self):
            raise BadLabel(
                f"label {index} is out of range: the template has {len(self)} answer choices"
            )
        return super().__getitem__(index)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment every template is compiled and rendered in."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self) -> None:
        # Not optimised: constant expressions of an untrusted template are evaluated when it is
        # rendered, under the limits.
        super().__init__(
            undefined=StrictUndefined, autoescape=False, optimized=False, finalize=_print
        )
        self._lots = random.Random(0)
        for name in ("capitalize", "lower", "string", "title", "trim", "upper"):
            self.filters[name] = _of_text(self.filters[name])
        self.filters.update(choice=self._choice, most_frequent=_most_frequent, highlight=str)
        self.globals.update(zip=zip)
        self.globals.pop("lipsum", None)

    def seed(self, seed: int) -> None:
        """Seed the ``choice`` filter, so that a row's example does not depend on earlier rows."""
        self._lots = random.Random(seed)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse a product or power that would take too much memory or time."""
        if _size_of_product(operator, left, right) > LARGEST_PRODUCT:
            raise SecurityError(
                f"the operator {operator} would build a value of more than {LARGEST_PRODUCT} parts"
            )
        return super().call_binop(context, operator, left, right)

    def _choice(self, values: Sequence[Any]) -> Any:
        return self._lots.choice(values)


def _print(value: Any) -> Any:
    """Return what is printed for a value: nothing for null. Jinja prints the word "None", which
    would be the passage or the response of a row that has none.
    """
    return "" if value is None else value


def _of_text(keep: Callable[..., str]) -> Callable[..., str]:
    """Return a filter of a text that takes null for an empty text."""
    return lambda value, *more, **named: keep(_print(value), *more, **named)


def _size_of_product(operator: str, left: Any, right: Any) -> int:
    if operator == "**":
        return left.bit_length() * right if isinstance(left, int) and isinstance(right, int) else 0
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
            return len(sequence) * times
    return 0


def _most_frequent(values: Sequence[Any]) -> list[Any]:
    """Return the most frequent values, the first seen first."""
    counts = [list(values).count(value) for value in values]
    best = max(counts, default=0)
    return [
        value
        for index, value in enumerate(values)
        if counts[index] == best and value not in values[:index]
    ]


def protect(value: Any) -> Any:
    """Return a row's value with every ``|||`` in its strings hidden, so that it splits nothing."""
    if isinstance(value, str):
        return value.replace(SEPARATOR, PIPE_PROTECTOR)
    if isinstance(value, dict):
        return {name: protect(inner) for name, inner in value.items()}
    return [protect(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def unprotect(text: str) -> str:
    """Return a rendered text with the ``|||`` of its values restored."""
    return text.replace(PIPE_PROTECTOR, SEPARATOR)


def split(rendered: str) -> list[str]:
    """Return the parts of a rendered template, stripped, as promptsource does."""
    return [unprotect(part).strip() for part in rendered.split(SEPARATOR)]
