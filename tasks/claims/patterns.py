"""The words that the rules know, read from ``patterns.yaml`` and compiled once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from tasks.core.yaml_file import read_yaml

PATTERNS = Path(__file__).parent / "patterns.yaml"
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


@cache
def _values() -> dict[str, Any]:
    return read_yaml(PATTERNS)


def listed(name: str) -> list[Any]:
    """Return a list of the file, in its order."""
    entries: list[Any] = _values()[name]
    return entries


@cache
def words(name: str) -> frozenset[str]:
    """Return a list of the file as a set, made once: rules ask for it at every word."""
    return frozenset(listed(name))


@cache
def negation() -> re.Pattern[str]:
    """Match a word that denies."""
    return re.compile(rf"\b(?:{_either(listed('negations'))})\b|n['’]t\b", re.I)


@cache
def functional() -> re.Pattern[str]:
    """Match the words right before a name that can be exchanged."""
    return re.compile(rf"\b(?:{_either(listed('functional'))})\s+(?:the\s+)?$", re.I)


@cache
def verb_bases() -> dict[str, tuple[str, str]]:
    """Return finite form -> (base, ``did`` or ``does``) of the verbs in the file."""
    forms: dict[str, tuple[str, str]] = {}
    for base, past in _values()["verbs"].items():
        forms[past or _with_ed(base)] = (base, "did")
        forms[_with_s(base)] = (base, "does")
    return forms


@cache
def spans() -> list[tuple[str, re.Pattern[str]]]:
    """Return (kind, pattern) of what can be exchanged, the longest kinds first."""
    month, spelt = _either(listed("months")), _either(listed("number_words")[2:])
    money = "|".join(map(re.escape, sorted(listed("currencies"), key=len, reverse=True)))
    scale = rf"(?:\s(?:{_either(listed('scales'))}))?"
    return [
        ("date", re.compile(rf"\b(?:\d{{1,2}} (?:{month})|(?:{month}) \d{{1,2}}(?!\d))\b")),
        (
            "month",
            re.compile(rf"\b(?:{month})\b(?= \d{{4}})|(?<=\b[io]n )(?:{month})\b(?! \d)"),
        ),
        ("weekday", re.compile(rf"(?<=\bon )(?:{_either(listed('weekdays'))})\b")),
        (
            "money",
            re.compile(rf"(?<!\w)(?:{money})\s?(?P<number>{_NUMBER}){scale}(?![\w%,]\w)"),
        ),
        ("percent", re.compile(rf"(?<![\w.,$£€-])(?P<number>{_NUMBER})\s?(?:%|per ?cent\b)")),
        ("year", re.compile(r"(?<![\w.,$£€/-])(?:1[5-9]\d\d|20[0-3]\d)(?![\w%/-]|[.,]\d)")),
        (
            "quantity",
            re.compile(
                rf"(?<![\w.,$£€/(-])(?P<number>{_NUMBER}|{spelt}){scale}"
                rf" (?P<unit>(?:{_either(listed('units'))}|[a-z]{{3,}}s)\b"
                rf"|(?:[a-z]{{4,}} [a-z]{{3,}}s)\b)"
            ),
        ),
    ]


@cache
def introduction() -> re.Pattern[str]:
    """Match a sentence that has an introduction ("In 2011, "), and its ``main`` clause."""
    first = "|".join(word.capitalize() for word in listed("introductions"))
    return re.compile(rf"^(?:{first}) (?P<rest>[^,;:]{{2,45}}), (?P<main>\S.*)$")


@cache
def condition() -> re.Pattern[str]:
    """Match what a duty may begin with, which stays a part of it: "Upon termination, "."""
    first = _either(word.capitalize() for word in listed("preconditions"))
    return re.compile(rf"(?:{first}) [^,.;:]{{3,90}}, ")


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))


def _with_ed(base: str) -> str:
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if base[-1] == "y" and base[-2] not in "aeiou" else base + "ed"


def _with_s(base: str) -> str:
    if base.endswith(("s", "sh", "ch", "x", "o")):
        return base + "es"
    return base[:-1] + "ies" if base[-1] == "y" and base[-2] not in "aeiou" else base + "s"
