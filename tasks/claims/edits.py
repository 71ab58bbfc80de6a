"""Edits of a statement: negation, comparison, opposites, and words that say the same."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from tasks.claims import patterns
from tasks.claims.exchange import Span, as_number, find_spans, is_bound, like
from tasks.claims.sentences import AT_ALL, WORD, finite_verb, main_clause

_DENY = re.compile(
    r"\b(?P<aux>is|are|was|were|will|shall|must|has|have|had) not\b (?!only|necessarily|yet)"
)
#: Before a word that says what something is: "was found to be", "lies in the".
_STATES = re.compile(
    r"\b(?:is|are|was|were|be|lies|lie|lay) (?:(?!(?:by|and|or)\b)[\w-]+,? ){0,4}$"
)
_OR_LATER = re.compile(r"\bor (?:longer|shorter|later|earlier|more|less)\b|\bwhichever\b")
#: Plurals without an s.
_MANY = frozenset(("people", "men", "women", "children"))
_DID_NOT = re.compile(r"\b(?P<aux>did|does|do) not (?P<base>[a-z]+)\b")


def negated(text: str) -> str | None:
    """Return the denial of a statement, or None where a denial would have two readings."""
    start = main_clause(text)
    clause = text[start:]
    verb = finite_verb(clause)
    first = clause.split()[0].lower().lstrip("-")  # "-5 degrees"
    first = first.partition("-")[0]  # "Twenty-two of 32"
    counted = first[:1].isdigit() or first in patterns.listed("number_words")
    if (
        verb is None
        or patterns.negation().search(text)
        or counted
        or first in patterns.words("quantifiers")
    ):
        return None
    after = WORD.search(clause, verb.end())
    before = WORD.findall(clause[: verb.start()])[-1:]
    if before and before[0].lower() in patterns.words("focus"):
        return None
    if after is None or after[0].lower() in patterns.words("focus"):
        return None
    if re.search(r", |\b(?:and|or|but|while|until|since|so)\b", clause[verb.end() :]):
        return None
    denied = _denied(clause, verb, after[0])
    return text[:start] + denied if denied else None


def _denied(clause: str, verb: re.Match[str], after: str) -> str | None:
    word, rest = verb[0], clause[verb.end() :]
    if word.lower() in patterns.verb_bases():
        base, did = patterns.verb_bases()[word.lower()]
        return f"{clause[: verb.start()]}{did} not {base}{rest}"
    if word in ("has", "have", "had") and not is_participle(after):
        did = {"has": "does", "have": "do", "had": "did"}[word]
        return f"{clause[: verb.start()]}{did} not have{rest}"
    return f"{clause[: verb.end()]} not{rest}"


def is_participle(word: str) -> bool:
    """Tell whether a word after has, have or had makes an auxiliary of it."""
    return word.endswith("ed") or word in patterns.words("participles")


def affirmed(text: str) -> str | None:
    """Return a denial without its negation, or None where it is not the only one."""
    if len(patterns.negation().findall(text)) != 1 or re.search(
        rf"\b(?:any|ever|yet|but|only|until|since|either|anymore|longer|{AT_ALL})\b", text
    ):
        return None
    match = _DENY.search(text)
    if match:
        return f"{text[: match.start()]}{match['aux']} {text[match.end() :].lstrip()}"
    match = _DID_NOT.search(text)
    if not match:
        return None
    for form, (base, did) in patterns.verb_bases().items():
        if base == match["base"] and did == match["aux"]:
            return text[: match.start()] + form + text[match.end() :]
    return (
        f"{text[: match.start()]}{match['aux']} {match['base']}{text[match.end() :]}"
        if match["aux"] == "did"
        else None
    )


def opposites(text: str) -> Iterator[str]:
    """Yield the statement with one word in its opposite's place.

    Not in the subject, which would then name another thing (a superlative may stand there). Words
    such as male and female, which do not exclude each other, only after "is" and the like.
    """
    verb = finite_verb(text)
    if verb is None or patterns.negation().search(text):
        return
    for name in ("opposites", "opposite_states"):
        for pair in patterns.listed(name):
            yield from _exchanged(text, verb.start(), pair, name == "opposite_states")


def _exchanged(text: str, verb: int, pair: list[str], state: bool) -> Iterator[str]:
    """Yield the statement with one word of a pair in the other's place; ``verb`` is where its verb
    begins.
    """
    for old, new in (pair, pair[::-1]):
        found = list(re.finditer(rf"(?<![\w-]){re.escape(old)}(?![\w-])", text))
        if len(found) != 1 or re.search(rf"\b{re.escape(new)}\b", text):
            continue
        head = text[: found[0].start()]
        told = len(head) >= verb or old.endswith("est")
        if state and re.search(r"\balso\b", text):  # it can be both
            continue
        if told and (not state or _STATES.search(head)):
            yield _with_article(head, new) + new + text[found[0].end() :]


def _with_article(head: str, word: str) -> str:
    """Return the text before a word, with "a" or "an" as the word needs it."""
    article = re.search(r"\b(?P<a>[Aa])n? $", head)
    if article is None:
        return head
    return head[: article.start()] + article["a"] + ("n " if word[0] in "aeiou" else " ")


def compared(text: str, span: Span, passage: str, chance: random.Random) -> tuple[str, str] | None:
    """Return a true and a false comparison with the span's value, or None.

    "Took 35 minutes" gives "took more than 30 minutes" and "took more than 50 minutes"; the
    direction is drawn. A year gives before and after.
    """
    # A number that begins a statement may be no count: "1,000 of these cost as much as one".
    loose = span.start and not is_bound(text, span)
    limit = {word.lower() for word in WORD.findall(text)} & patterns.words("limits")
    if not loose or limit or _OR_LATER.search(text, span.end):
        return None
    if span.kind == "year":
        return _compared_year(text, span, chance)
    before = text[: span.start].split()[-1:] or [""]
    value = as_number(span.number) if span.number else None
    if (
        value is None
        or value < 3
        or before[0].lower()
        in ("a", "an", "the", "its", "his", "her", "their", "of", "all", "age", "top")
    ):
        return None
    low, high = _neighbours(value, span.number, chance)
    if high and span.kind == "percent" and value < 100 <= (as_number(high) or 0):
        return None
    if low is None or high is None or low in passage or high in passage:
        return None
    counted = span.kind == "quantity" and (span.unit.endswith("s") or span.unit in _MANY)
    more, fewer = "more than", "fewer than" if counted else "less than"
    words, right, wrong = (more, low, high) if chance.random() < 0.5 else (fewer, high, low)
    place = span.start + span.text.index(span.number)
    lead = f"{text[: span.start]}{words} {text[span.start : place]}"
    tail = text[place + len(span.number) :]
    return f"{lead}{right}{tail}", f"{lead}{wrong}{tail}"


def _neighbours(value: float, model: str, chance: random.Random) -> tuple[str | None, str | None]:
    """Return a number well below and one well above, round ones, written as the model is."""
    low, high = value * chance.uniform(0.55, 0.8), value * chance.uniform(1.25, 1.7)
    if value == int(value) and value <= 12:
        steps = chance.choice((1, 2))
        low, high = value - steps, value + steps
        if low < 2:
            return None, None
        return like(low, model), _plain(high, model)
    return like(_round(low), model), like(_round(high), model)


def _plain(value: float, model: str) -> str:
    return like(value, model if value < len(patterns.listed("number_words")) else "1")


def _round(value: float) -> float:
    return float(f"{value:.2g}")


def _compared_year(text: str, span: Span, chance: random.Random) -> tuple[str, str] | None:
    head = text[: span.start]
    if not re.search(r"\b[Ii]n $", head) or text[span.end : span.end + 1] not in (",", ".", " "):
        return None
    if " had " in text:  # "had closed in 1990": before or after what?
        return None
    # "In 2009, 77 died": after 2005 more did. "In 1600 patients" there is no year.
    if re.match(r" [a-z]{3,}s\b", text[span.end :]) or _counts(text):
        return None
    year, word = int(span.text), chance.choice(("before", "after"))
    early, late = year - chance.choice((2, 3, 5, 8)), year + chance.choice((2, 3, 5, 8))
    true, false = (late, early) if word == "before" else (early, late)
    word = word.capitalize() if head.endswith("In ") else word
    tail = text[span.end :]
    return f"{head[:-3]}{word} {true}{tail}", f"{head[:-3]}{word} {false}{tail}"


def _counts(text: str) -> bool:
    return any(span.kind in ("quantity", "money", "percent") for span in find_spans(text))


def reworded(texts: tuple[str, ...], seed: int) -> tuple[str, ...]:
    """Return twins in other words of the same meaning, alike, their small numbers respelt.

    A word that one of them lacks stays in the others, so that it does not tell the label.
    """
    chance = random.Random(seed)
    for old, new in patterns.listed("same"):
        word = re.compile(rf"\b{re.escape(old)}\b")
        if chance.random() < 0.6 and all(map(word.search, texts)):
            texts = tuple(word.sub(new, text, count=1) for text in texts)
    if chance.random() < 0.35:
        texts = tuple(_respell(text) for text in texts)
    return texts


def _respell(text: str) -> str:
    """Write whole numbers of 2 to 12 in words where they are digits, and the other way round."""
    words = patterns.listed("number_words")
    if re.search(r"(?<![\w.,])(?:[2-9]|1[0-2])(?= [a-z]{3,})", text):
        return re.sub(
            r"(?<![\w.,$£€-])(?:[2-9]|1[0-2])(?= [a-z]{3,})",
            lambda match: words[int(match[0])],
            text,
        )
    plain = "|".join(words[2:])
    return re.sub(
        rf"(?<!^)(?<!-)(?<![Tt]he )\b(?:{plain})\b(?= [a-z])(?!-)",
        lambda match: str(words.index(match[0])),
        text,
    )
