"""The values of an item's row: text, answers, labels, whatever a table or JSON made of them.

``column`` may be a dotted path into nested values; ``where`` names the row or the column in errors,
each a :class:`PipelineError`.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import math
import tokenize
from typing import Any

from tasks.core.errors import PipelineError, did_you_mean


def holds_bytes(value: Any) -> bool:
    """Tell whether a column's value is an image or the like, which no template can show."""
    if isinstance(value, (dict, list)):
        return any(map(holds_bytes, value.values() if isinstance(value, dict) else value))
    return isinstance(value, bytes)


def read_document(row: dict[str, Any], column: str, where: str) -> str:
    """Return the name of the passage's document; empty where there is no such column, or the row
    has nothing in it.
    """
    value: Any = row
    for part in filter(None, _names(row, column)):
        value = value.get(part) if isinstance(value, dict) else None
    return read_plain(value, f"{where}: {column}") if column and value is not None else ""


def read_answers(value: Any, where: str) -> tuple[str, ...]:
    """Return a column's answers, each once and none of them blank."""
    values = value if isinstance(value, list) else [value]
    if isinstance(value, str):  # a CSV file holds a list as text
        found = _parse_list(value.strip(), where)
        values = values if found is None else found
    answers = [read_plain(value, where) for value in values if value is not None]
    return tuple(dict.fromkeys(answer for answer in answers if answer.strip()))


def _parse_list(text: str, where: str) -> list[Any] | None:
    """Return the list that ``text`` is in JSON, or in Python if all in it are texts; else None.

    Raises :class:`PipelineError` where it is an object, or an array as NumPy prints it: that has no
    commas, and Python would join its texts.
    """
    if text.startswith("{'"):
        raise PipelineError(
            f"{where} is an object, printed by Python: write the items as JSONL, and name a part "
            "of it in the dataset file, as in answers.text"
        )
    if not text.startswith("["):
        return None
    with contextlib.suppress(ValueError, RecursionError):
        values = json.loads(text)
        return values if isinstance(values, list) else None
    if not text.startswith(("['", '["')):
        return None
    try:
        found = ast.literal_eval(text)
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        count = sum(token.type == tokenize.STRING for token in tokens)
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        return None
    if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
        return None
    if count != len(found):
        raise PipelineError(
            f"{where} is a list without commas, as NumPy prints it: write a list in JSON"
        )
    return found


def _names(row: dict[str, Any], column: str) -> list[str]:
    """Return the names to go through; a column that has the dotted name itself comes first."""
    return [column] if column in row else column.split(".")


def read_value(row: dict[str, Any], column: str, where: str) -> Any:
    """Return what a row has in a column, which it must have."""
    value: Any = row
    for part in _names(row, column):
        if not isinstance(value, dict) or part not in value:
            columns = value if isinstance(value, dict) else []
            raise PipelineError(f"{where}: no column {column!r}{did_you_mean(part, columns)}")
        value = value[part]
    return value


def read_text(value: Any, where: str) -> str:
    """Return a column's value as text, a line for each part of a list."""
    parts = value if isinstance(value, list) else [value]
    return "\n".join(read_plain(part, where) for part in parts)


def read_plain(value: Any, where: str) -> str:
    """Return a text or number as text; anything else would be scored as Python prints it."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))  # a column of whole numbers that lacks one comes as decimals
    if isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    kind = "an object" if isinstance(value, dict) else repr(value)[:40]
    raise PipelineError(f"{where} is {kind}: write text (name a part of an object as a.b)")
