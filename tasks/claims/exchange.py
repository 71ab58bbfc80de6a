"""Spans of a statement, and what they can be exchanged for so that the statement is false."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from tasks.claims import patterns

_NAME = re.compile(
    r"(?:[A-Z][\w'’-]*[a-z][\w'’-]*)"
    r"(?: (?:[A-Z][\w'’-]*|of|the|de|van|von)(?= [A-Z]))*(?: [A-Z][\w'’-]*)?"
)
#: What makes a range, or a bound, of the value before it; the first half of "3 in 100".
_RANGE = re.compile(r"(?:to|or|and|per|or more|or less|and over)\b|[-–/]")
_RATIO = re.compile(r"\d (?:in|out of)$")
_BEFORE_DATE = frozenset(
    ("between", "from", "and", "to", "by", "until", "since", "about", "before", "after", "dated")
)
#: "by the end of 2017" is as much a bound as "by 2017".
_PART_OF_TIME = re.compile(
    r"\s*\b(?:(?:the )?(?:end|start|beginning|middle) of|early|mid|late)(?: in)?$", re.I
)
#: "4 hours 57 minutes" is one value.
_MEASURE = re.compile(r"\d [a-z]+$")
#: Days of the months that lack some: a claim of 31 February is false whatever the passage says.
_DAYS = {"February": 28, "April": 30, "June": 30, "September": 30, "November": 30}
_TRAIL = re.compile(r"(?:'s|’s)$")
#: Multiples of larger numbers are infinite.
_LARGEST = 1e300


@dataclass(frozen=True)
class Span:
    """A span's place in its text, its kind, and the words of its number and unit."""

    kind: str
    start: int
    end: int
    text: str
    number: str = ""
    unit: str = ""


def find_spans(text: str) -> list[Span]:
    """Return what can be exchanged in a text, in order; the first kind wins where spans overlap."""
    found: list[Span] = []
    for kind, pattern in patterns.spans():
        for match in pattern.finditer(text):
            groups = match.groupdict()
            number, unit = groups.get("number") or "", groups.get("unit") or ""
            found.append(Span(kind, match.start(), match.end(), match[0], number, unit))
    spans: list[Span] = []
    for span in chain(found, _names(text)):
        if not any(span.start < other.end and other.start < span.end for other in spans):
            spans.append(span)
    return sorted(spans, key=lambda span: span.start)


def _names(text: str) -> Iterator[Span]:
    """Yield names by their capitals, after ``functional`` words."""
    for match in _NAME.finditer(text):
        name = _TRAIL.sub("", match[0])
        if (
            match.start()
            and patterns.functional().search(text[: match.start()])
            and name not in patterns.listed("months")
        ):
            yield Span("name", match.start(), match.start() + len(name), name)


def all_names(text: str) -> list[str]:
    """Return every name of a text that does not begin a sentence, in order."""
    found = []
    for match in _NAME.finditer(text):
        before = text[: match.start()].rstrip()
        name = _TRAIL.sub("", match[0])
        plain = name not in patterns.listed("months") and name not in patterns.listed("weekdays")
        named = plain and len(name) > 2 and not _goes_with_noun(text[match.end() :])
        if before and before[-1] not in '.!?:"“' and named:
            found.append(name)
    return list(dict.fromkeys(found))


def _goes_with_noun(rest: str) -> bool:
    """Tell whether a capitalised word is an adjective by what follows: "American frontier"."""
    after = re.match(r" ([a-z][\w-]*)", rest)
    return after is not None and not (
        after[1] in patterns.words("stopwords") or after[1] in patterns.verb_bases()
    )


def is_bound(text: str, span: Span) -> bool:
    """Tell whether a span is a bound, a label or part of a range, which no value contradicts."""
    head, tail = text[: span.start].rstrip(), text[span.end :].lstrip()
    word = (head.split() or [""])[-1]
    # "Panel 5", "Euro 2019"; the first word of a statement is a name unless it is a small one.
    labels = word[:1].isupper() and (" " in head or _is_name(word))
    if _RANGE.match(tail):
        return True
    if span.kind not in ("quantity", "money", "percent"):
        named = labels and word not in patterns.listed("months")
        if span.kind == "year" and (named or word.lower() == "the"):
            return True
        return (_PART_OF_TIME.sub("", head).split() or [""])[-1].lower() in _BEFORE_DATE
    if (
        word.lower().strip(",.()") in patterns.words("bounds")
        or head.endswith("-")
        or _RATIO.search(head)
    ):
        return True
    return span.kind == "quantity" and (labels or _MEASURE.search(head) is not None)


def _is_name(word: str) -> bool:
    """Tell whether the first word of a statement is none of those that begin one."""
    lists = ("stopwords", "openers", "bounds", "introductions", "quantifiers")
    return not any(word.lower() in patterns.words(name) for name in lists)


def exchanged(
    text: str, span: Span, passage: str, pool: list[Span], chance: random.Random
) -> str | None:
    """Return the statement with another value of the kind in the span's place, or None.

    ``pool``: the passage's spans. Their values of the same kind and unit are preferred.
    """
    value = _from_passage(text, span, passage, pool, chance) or _made(span, passage, chance)
    if not value or value in text:
        return None
    return text[: span.start] + value + text[span.end :]


def _from_passage(
    text: str, span: Span, passage: str, pool: list[Span], chance: random.Random
) -> str | None:
    if span.kind == "name":
        names = [name for name in all_names(passage) if _is_other(name, span.text, text)]
        alike = [name for name in names if len(name.split()) == len(span.text.split())]
        return chance.choice(alike) if alike else None
    values = [_value_of(other, span, text, passage) for other in pool if _alike(other, span)]
    values = [value for value in dict.fromkeys(values) if value and _differs(span, value)]
    return chance.choice(values) if values else None


def _alike(other: Span, span: Span) -> bool:
    return other.kind == span.kind and other.unit.split()[-1:] == span.unit.split()[-1:]


def _value_of(other: Span, span: Span, text: str, passage: str) -> str:
    """Return another span's value, written as this one is; empty where the passage may hold it."""
    if not span.number:
        return other.text if other.text not in text else ""
    value = _with_number(span, other.number)
    return value if other.number != span.number and value not in passage else ""


def _is_other(name: str, old: str, text: str) -> bool:
    return (
        name not in text
        and old not in name
        and not set(name.split()) & set(text.replace(".", "").split())
    )


def _with_number(span: Span, number: str) -> str:
    return span.text.replace(span.number, number, 1)


def _differs(span: Span, value: str) -> bool:
    if not span.number:
        return value != span.text
    old, new = as_number(span.number), as_number(_leading(value))
    return old is not None and new is not None and abs(new - old) > 0.1 * abs(old)


def _leading(value: str) -> str:
    words = "|".join(patterns.listed("number_words"))
    match = re.search(rf"\d[\d,.]*|\b(?:{words})\b", value)
    return match[0] if match else ""


def as_number(text: str) -> float | None:
    """Return the value of a number in digits or words; None where it is none, or too large."""
    words = patterns.listed("number_words")
    if text.lower() in words:
        return float(words.index(text.lower()))
    try:
        value = float(text.replace(",", "").rstrip("."))
    except ValueError:
        return None
    return value if value < _LARGEST else None


def like(value: float, model: str) -> str:
    """Return a number written as the model is: in words, with as many decimals, with commas."""
    words = patterns.listed("number_words")
    if model.lower() in words and 0 <= value < len(words):
        return str(words[round(value)])
    decimals = len(model.partition(".")[2])
    return f"{value:,.{decimals}f}" if "," in model else f"{value:.{decimals}f}"


def _made(span: Span, passage: str, chance: random.Random) -> str | None:
    """Return a value that the passage does not hold, near the true one."""
    makers = {"year": _year, "date": _date, "month": _month, "weekday": _weekday}
    if span.kind in makers:
        options = [value for value in makers[span.kind](span) if value not in passage]
        return chance.choice(options) if options else None
    if not span.number:
        return None
    numbers = other_numbers(span.number, chance)
    if span.kind == "percent":
        numbers = [number for number in numbers if (as_number(number) or 0) <= 100]
    values = [_with_number(span, number) for number in numbers]
    return next((value for value in values if value not in passage), None)


def other_numbers(number: str, chance: random.Random) -> list[str]:
    """Return numbers of the same size and writing in a seeded order, none near the given one."""
    value = as_number(number)
    if value is None:
        return []
    if value == int(value) and value <= 12:
        options = [float(n) for n in range(2, 13) if n != value and abs(n - value) <= 4]
    else:
        options = [
            _round_like(value * factor, value)
            for factor in (0.4, 0.5, 0.6, 0.75, 1.3, 1.5, 1.8, 2.5)
        ]
    chance.shuffle(options)
    return [like(option, number) for option in options if option and option != value]


def _round_like(value: float, model: float) -> float:
    """Return ``value`` rounded to as many significant digits as the model has, at least one."""
    digits = len(f"{model:.6f}".rstrip("0").rstrip(".").replace(".", "").strip("0")) or 1
    return float(f"{value:.{digits}g}")


def _year(span: Span) -> list[str]:
    return [
        str(int(span.text) + step)
        for step in (-12, -8, -5, -3, -2, 2, 3, 5, 8, 12)
        if int(span.text) + step <= 2026
    ]


def _date(span: Span) -> list[str]:
    months = patterns.listed("months")
    (day,) = re.findall(r"\d+", span.text)
    month = next(name for name in months if name in span.text)
    others = [name for name in months if name != month and int(day) <= _DAYS.get(name, 31)]
    days = [str(other) for other in (3, 7, 9, 12, 16, 19, 21, 24, 27) if abs(other - int(day)) > 1]
    return [span.text.replace(month, name) for name in others] + [
        span.text.replace(day, other, 1) for other in days
    ]


def _month(span: Span) -> list[str]:
    return [name for name in patterns.listed("months") if name != span.text]


def _weekday(span: Span) -> list[str]:
    return [name for name in patterns.listed("weekdays") if name != span.text]
