"""The words that the rules know, read from ``patterns.yaml`` and compiled once per file."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.yaml_file import read_yaml

PATTERNS = Path(__file__).parent / "patterns.yaml"
#: The lists that a file of patterns must have.
_LISTS = frozenset(
    {
        "abbreviations",
        "actors",
        "auxiliaries",
        "beginnings",
        "bounds",
        "breaks",
        "carried_along",
        "conditions",
        "currencies",
        "determiners",
        "focus",
        "functional",
        "happenings",
        "introductions",
        "limits",
        "months",
        "narrowing",
        "negations",
        "number_words",
        "openers",
        "opposite_states",
        "opposites",
        "participles",
        "pointing",
        "preconditions",
        "quantifiers",
        "same",
        "scales",
        "stopwords",
        "titles",
        "units",
        "unsure",
        "weekdays",
        "whole_documents",
    }
)
_MAPPINGS = frozenset({"verbs"})
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


@dataclass(frozen=True)
class Patterns:
    """A file of patterns. Lists are read by name: ``patterns.words("openers")``."""

    values: dict[str, Any]

    def words(self, name: str) -> frozenset[str]:
        """Return a list of the file as a set, made once: rules ask for it at every word."""
        if name not in self._sets:
            self._sets[name] = frozenset(self.values[name])
        return self._sets[name]

    @cached_property
    def _sets(self) -> dict[str, frozenset[str]]:
        return {}

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """Return a list of word pairs, in the order of the file."""
        return [(one, other) for one, other in self.values[name]]

    @cached_property
    def months(self) -> list[str]:
        return list(self.values["months"])

    @cached_property
    def number_words(self) -> list[str]:
        return list(self.values["number_words"])

    @cached_property
    def negation(self) -> re.Pattern[str]:
        return _any(self.values["negations"])

    @cached_property
    def functional(self) -> re.Pattern[str]:
        """Matches the words right before a name that can be exchanged."""
        return re.compile(rf"\b(?:{_either(self.values['functional'])})\s+(?:the\s+)?$", re.I)

    @cached_property
    def verb_bases(self) -> dict[str, tuple[str, str]]:
        """Return finite form -> (base, ``did`` or ``does``) of the verbs in the file."""
        forms: dict[str, tuple[str, str]] = {}
        for base, past in self.values["verbs"].items():
            forms[past or _with_ed(base)] = (base, "did")
            forms[_with_s(base)] = (base, "does")
        return forms

    @cached_property
    def spans(self) -> list[tuple[str, re.Pattern[str]]]:
        """Return (kind, pattern) of what can be exchanged, the longest kinds first."""
        month, words = _either(self.months), _either(self.number_words[2:])
        money = "|".join(map(re.escape, sorted(self.values["currencies"], key=len, reverse=True)))
        scale = rf"(?:\s(?:{_either(self.values['scales'])}))?"
        return [
            ("date", re.compile(rf"\b(?:\d{{1,2}} (?:{month})|(?:{month}) \d{{1,2}}(?!\d))\b")),
            (
                "month",
                re.compile(rf"\b(?:{month})\b(?= \d{{4}})|(?<=\b[io]n )(?:{month})\b(?! \d)"),
            ),
            ("weekday", re.compile(rf"(?<=\bon )(?:{_either(self.values['weekdays'])})\b")),
            (
                "money",
                re.compile(rf"(?<!\w)(?:{money})\s?(?P<number>{_NUMBER}){scale}(?![\w%,]\w)"),
            ),
            ("percent", re.compile(rf"(?<![\w.,$£€-])(?P<number>{_NUMBER})\s?(?:%|per ?cent\b)")),
            ("year", re.compile(r"(?<![\w.,$£€/-])(?:1[5-9]\d\d|20[0-3]\d)(?![\w%/-]|[.,]\d)")),
            (
                "quantity",
                re.compile(
                    rf"(?<![\w.,$£€/(-])(?P<number>{_NUMBER}|{words}){scale}"
                    rf" (?P<unit>(?:{_either(self.values['units'])}|[a-z]{{3,}}s)\b"
                    rf"|(?:[a-z]{{4,}} [a-z]{{3,}}s)\b)"
                ),
            ),
        ]

    @cached_property
    def introduction(self) -> re.Pattern[str]:
        first = "|".join(word.capitalize() for word in self.values["introductions"])
        return re.compile(rf"^(?:{first}) (?P<rest>[^,;:]{{2,45}}), (?P<main>\S.*)$")

    @cached_property
    def condition(self) -> re.Pattern[str]:
        """What a duty may begin with, which stays a part of it: "Upon termination, "."""
        first = _either(word.capitalize() for word in self.values["preconditions"])
        return re.compile(rf"(?:{first}) [^,.;:]{{3,90}}, ")


@lru_cache(maxsize=4)
def load_patterns(path: Path = PATTERNS) -> Patterns:
    """Read a file of patterns; an unknown or missing list is an error that names it."""
    values = read_yaml(path)
    for name in values:
        if name not in _LISTS | _MAPPINGS:
            known = sorted(_LISTS | _MAPPINGS)
            raise PipelineError(f"{path}: unknown list {name!r}{did_you_mean(name, known)}")
    for name in sorted(_LISTS | _MAPPINGS):
        kind = dict if name in _MAPPINGS else list
        if not isinstance(values.get(name), kind):
            raise PipelineError(f"{path}: {name} must be a {kind.__name__}")
    return Patterns(values)


def _either(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=lambda word: (-len(word), word)))


def _any(words: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{_either(words)})\b|n['’]t\b", re.I)


def _with_ed(base: str) -> str:
    if base.endswith("e"):
        return base + "d"
    return base[:-1] + "ied" if base[-1] == "y" and base[-2] not in "aeiou" else base + "ed"


def _with_s(base: str) -> str:
    if base.endswith(("s", "sh", "ch", "x", "o")):
        return base + "es"
    return base[:-1] + "ies" if base[-1] == "y" and base[-2] not in "aeiou" else base + "s"
