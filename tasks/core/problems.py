"""What is wrong with a value, in plain words: those of pydantic are for programmers."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from tasks.core.errors import did_you_mean, near_miss
from tasks.core.sections.base import FORM

#: pydantic's type of a problem -> what to write instead. In braces are the limits that pydantic
#: tells, and a key that the value's section has.
_WORDS = {
    "bool_type": "must be true or false",
    "dict_type": "must be keys with values, such as {{a: b}}",
    "finite_number": "must be a finite number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_type": "must be a whole number",
    "json_invalid": "is not valid JSON ({error})",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "model_type": "must be keys with values, such as {key}: ...",
    "string_type": "must be text",
    "too_short": "must have {min_length} or more entries",
    "tuple_type": "must be a list, such as [a, b]",
    "value_error": "{error}",
}
_QUOTES = "put it in quotes"
#: Most characters of a value in a message.
_MOST = 160


def explain(error: ValidationError, model: type[BaseModel], settings: Sequence[str] = ()) -> str:
    """Return everything that is wrong with the values of ``model``: what, at which key, and what to
    write there. ``settings`` are the ``section.key=value`` among them.
    """
    problems = error.errors()
    broken = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
    # pydantic counts the entries of a list without the wrong ones, and then finds it too short.
    told = [
        _add_set(_explain(problem, model), _place(problem["loc"]), settings)
        for problem in problems
        if problem["type"] != "too_short" or problem["loc"] not in broken
    ]
    return "; ".join(told)


def _explain(problem: Any, model: type[BaseModel]) -> str:
    *outer, name = problem["loc"] or ("",)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {_key(outer, name)}{did_you_mean(str(name), _keys(model, outer))}"
    if problem["type"] == "invalid_key":
        return f"{_key(outer, str(name))} is no key: keys are text, so {_QUOTES}"
    field = _field(model, outer, name)
    if problem["type"] == "missing":
        about = f" ({field.description})" if field and field.description else ""
        return f"missing key {_key(outer, name)}: add it{about}"
    words = _words(problem, model, field)
    if not problem["loc"]:
        return words
    value = problem["input"]
    shown = "is empty" if value is None else f"= {_shown(value)[:_MOST]}"
    return f"{_place(problem['loc'])} {shown}: {words}"


def _add_set(told: str, place: str, settings: Sequence[str]) -> str:
    """Add how quotes are written in make's SET, which is split like the words of a shell: plain
    ones are gone before YAML sees the value.
    """
    keys = [setting.strip().partition("=")[0] for setting in settings]
    given = any(place == key or place.startswith((f"{key}.", f"{key},")) for key in keys)
    return rf"{told}, in SET as \"...\"" if given and _QUOTES in told else told


def _words(problem: Any, model: type[BaseModel], field: FieldInfo | None) -> str:
    kind, value = problem["type"], problem["input"]
    extra = field.json_schema_extra if field else None
    if kind == "string_pattern_mismatch" and isinstance(extra, dict) and FORM in extra:
        return str(extra[FORM])
    limits = {name: _shown_limit(limit) for name, limit in problem.get("ctx", {}).items()}
    if kind == "model_type":
        limits["key"] = next(iter(_keys(model, list(problem["loc"]))), "key")
    # What is not in the table keeps the library's words.
    words = _WORDS.get(kind, "{msg}").format(msg=problem["msg"], **limits)
    return words + _hint(kind, value, limits)


def _hint(kind: str, value: Any, limits: dict[str, Any]) -> str:
    """Return what YAML made of the text in the file, or what may have been meant."""
    if kind == "literal_error":
        return near_miss(str(value), re.findall("'([^']*)'", limits["expected"]))
    if kind == "string_type" and value is None:
        return ' ("" where there is none)'
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        boolean = " (YAML reads yes, no, on and off as true and false)"
        return f": {_QUOTES}" + (boolean if isinstance(value, bool) else "")
    if kind in ("int_type", "float_type") and isinstance(value, str):
        with contextlib.suppress(ValueError):
            float(value)
            return ", and this is text: write it without quotes, and 1e-4 as 1.0e-4"
    return ""


def _place(loc: Any) -> str:
    """Return ``generate.samples``, or ``templates, entry 1, name``: a list counts from one."""
    text = ""
    for part, before in zip(loc, ("", *loc), strict=False):
        entry = isinstance(part, int)
        between = "" if not text else ", " if entry or isinstance(before, int) else "."
        text += between + (f"entry {part + 1}" if entry else str(part))
    return text


def _key(outer: list[Any], name: Any) -> str:
    """Return a key in quotes, and the entry of a list that it belongs to."""
    last = max((place for place, part in enumerate(outer, 1) if isinstance(part, int)), default=0)
    entry = f" of {_place(outer[:last])}" if last else ""
    return f"{_place([*outer[last:], name])!r}{entry}"


def _shown(value: Any) -> str:
    """Return a value as YAML has it, nearly."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_shown(inner)}' for key, inner in value.items())}}}"
    try:
        return repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        return "a number of thousands of digits"


def _shown_limit(limit: Any) -> str:
    """Return a limit, which is a text or a number, without the point of a whole number."""
    return str(int(limit)) if isinstance(limit, float) and limit.is_integer() else str(limit)


def _field(model: type[BaseModel], outer: list[Any], name: Any) -> FieldInfo | None:
    """Return the field of a key; None for an entry of a list, or a key of the user's own."""
    section = _section(model, outer)
    return section.model_fields.get(name) if section else None


def _keys(model: type[BaseModel], place: list[Any]) -> list[str]:
    section = _section(model, place)
    return list(section.model_fields) if section else []


def _section(model: type[BaseModel], place: list[Any]) -> type[BaseModel] | None:
    """Return the model of the section at a place; None where there are keys of the user's own."""
    for part in place:
        if isinstance(part, int):
            continue  # an entry of a list of sections: the list's field gave their model
        field = model.model_fields.get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        sections = [
            kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not sections:
            return None
        model = sections[0]
    return model
