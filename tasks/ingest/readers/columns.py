"""The text in a column of a row, which may be nested in objects and lists."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from tasks.ingest.readers.decoding import decode
from tasks.ingest.readers.document import Unreadable

#: A row's number in its file, from 1, and its values by column, or why it has none.
TableRow = tuple[int, dict[str, Any] | Unreadable]

#: Most names, and characters of one, that an error lists.
_NAMES, _NAME_CHARS = 20, 60


def get_text(row: dict[str, Any], column: str) -> str:
    """Return the text in ``column`` of a row. A dotted name reaches into objects, and through the
    lists on its way; the texts of lists are paragraphs.

    Raises :class:`Unreadable` (``no_text_column``) with the names there are, where there is no such
    column or it holds an object.
    """
    found = _find(row, [column] if column in row else column.split("."))
    if found is None:
        none = "none, as the table has no header" if "" in row else "none"
        names = _list_names(_name_parts(row)) or none
        raise Unreadable("no_text_column", f"no column {column!r}, there are: {names}")
    objects = [value for value in found if isinstance(value, dict)]
    if objects and len(objects) == len(found):
        names = _list_names(f"{column}.{name}" for name in objects[0])
        raise Unreadable("no_text_column", f"column {column!r} holds an object, with: {names}")
    texts = (value for value in found if value is not None and not isinstance(value, dict))
    return "\n\n".join(map(_as_text, texts))


def _find(row: dict[str, Any], path: list[str]) -> list[Any] | None:
    """Return the values at ``path``, of lists each element; None where there is no such path."""
    found, is_there = [], False
    waiting: list[tuple[Any, int]] = [(row, 0)]  # a loop, since lists may be nested without end
    while waiting:
        value, depth = waiting.pop()
        is_there = is_there or depth == len(path)
        if isinstance(value, (list, tuple)):
            waiting.extend((part, depth) for part in reversed(value))
        elif depth == len(path):
            found.append(value)
        elif isinstance(value, dict) and path[depth] in value:
            waiting.append((value[path[depth]], depth + 1))
    return found if is_there else None


def _as_text(value: Any) -> str:
    return decode(value)[0] if isinstance(value, bytes) else str(value)


def _name_parts(row: dict[str, Any]) -> Iterator[str]:
    """Yield the names that a row has, dotted ones where a column holds objects."""
    for name, value in row.items():
        part = value[0] if isinstance(value, list) and value else value
        if isinstance(part, dict) and part:
            yield from (f"{name}.{inner}" for inner in part)
        elif name:
            yield str(name)


def _list_names(names: Iterator[str]) -> str:
    shown = [name[:_NAME_CHARS] for name in islice(names, _NAMES)]
    more = sum(1 for _ in names)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def find_column(names: list[str], column: str) -> str:
    """Return the top-level column that holds the text; empty where there is none."""
    return next((name for name in (column, column.split(".", maxsplit=1)[0]) if name in names), "")
