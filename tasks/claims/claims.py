"""Twins of claims from one passage: what it entails, and the same claim made false."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tasks.claims import patterns
from tasks.claims.duties import BAN, DUTY, PERMISSION, duty_twins
from tasks.claims.edits import (
    affirmed,
    compared,
    is_participle,
    negated,
    opposites,
    reworded,
)
from tasks.claims.exchange import Span, exchanged, find_spans, is_bound
from tasks.claims.questions import answer_statement, statement_of
from tasks.claims.sentences import (
    WORD,
    content_words,
    finite_verb,
    split_sentences,
    statements,
)
from tasks.core.files import row_seed

ENTAILED, CONTRADICTED, UNDECIDED = "entailed", "contradicted", "undecided"
#: Kinds whose entailed claim is a denial ("shall not"), and kinds whose contradicted one is. The
#: first are rarer.
TRUE_DENIALS = frozenset((BAN, "negation removed"))
FALSE_DENIALS = frozenset((DUTY, PERMISSION, "negation added"))
#: How a statement begins that is about one of several.
_INDEFINITE = re.compile(r"(?:a|an|one|some|another)\b", re.I)
#: Verbs of a state, where no participle follows.
_BEING = frozenset(("is", "are", "was", "were", "has", "have", "had"))
#: What places a state in time: "in May 2009", "during 2009".
_WITHIN = re.compile(r"\s*\b(?:in|during)(?: (?:early|mid|late|[A-Z][a-z]+))? $", re.I)
_THERE_IS = re.compile(r"\bthere (?:is|are|was|were)\b", re.I)


@dataclass(frozen=True)
class Premise:
    """A passage that claims are made from and judged by, and the questions it is known to answer.

    NLI calls it the premise of a claim. Ingest's passages, with their offsets, are another type.
    """

    passage_id: str
    document: str
    text: str
    answered: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Twins:
    """A claim that the passage entails and one it contradicts, the same apart from one edit."""

    passage_id: str
    kind: str
    entailed: str
    contradicted: str
    origin: str


def make_twins(passage: Premise, most: int, seed: int) -> list[Twins]:
    """Return at most ``most`` twins of a passage, from as many sentences and of as many kinds as
    there are.

    The result depends on the passage and the seed alone.
    """
    key = row_seed(seed, "claims", passage.passage_id)
    chance = random.Random(key)
    by_origin: dict[str, list[Twins]] = {}
    for twins in [
        *_from_answers(passage, chance),
        *_from_sentences(passage, chance),
    ]:
        if _differ(twins):
            by_origin.setdefault(twins.origin, []).append(_reworded(twins, key))
    origins = list(by_origin)
    chance.shuffle(origins)
    origins.sort(
        key=lambda origin: not any(twins.kind in TRUE_DENIALS for twins in by_origin[origin])
    )
    for choices in by_origin.values():
        chance.shuffle(choices)
    chosen: list[Twins] = []
    taken: set[str] = set()
    while len(chosen) < most and any(by_origin[origin] for origin in origins):
        for origin in origins:
            if by_origin[origin] and len(chosen) < most:
                found = _rarest(by_origin[origin], chosen)
                if not {found.entailed, found.contradicted} & taken:
                    chosen.append(found)
                    taken |= {found.entailed, found.contradicted}
    return chosen


def _rarest(choices: list[Twins], chosen: Sequence[Twins]) -> Twins:
    """Take the twins whose kind has been chosen least out of the list."""
    kinds = [twins.kind for twins in chosen]
    found = min(
        choices, key=lambda twins: (kinds.count(twins.kind), twins.kind not in TRUE_DENIALS)
    )
    choices.remove(found)
    return found


def _differ(twins: Twins) -> bool:
    return " ".join(twins.entailed.lower().split()) != " ".join(twins.contradicted.lower().split())


def _reworded(twins: Twins, key: int) -> Twins:
    seed = row_seed(key, twins.origin, twins.kind)
    entailed, contradicted = reworded((twins.entailed, twins.contradicted), seed)
    return Twins(twins.passage_id, twins.kind, entailed, contradicted, twins.origin)


def _from_sentences(passage: Premise, chance: random.Random) -> Iterator[Twins]:
    """Yield twins of the passage's statements, edited, and of its duties, reversed."""
    pool = find_spans(passage.text)
    edited = (
        (sentence, *edit)
        for sentence, statement in statements(passage.text)
        for edit in _edits(statement, passage.text, pool, chance)
    )
    found = chain(edited, duty_twins(passage.text, chance))
    stated = [sentence.lower() for sentence in split_sentences(passage.text)]
    for sentence, kind, true, false in found:
        # What should be false may be in the passage after all.
        if not any(false.rstrip(".").lower() in each for each in stated):
            yield Twins(passage.passage_id, kind, true, false, sentence)


def _edits(
    statement: str, text: str, pool: list[Span], chance: random.Random
) -> Iterator[tuple[str, str, str]]:
    """Yield (kind, true, false) of a statement that the passage holds."""
    for span in find_spans(statement):
        if is_bound(statement, span) or _follows_anyway(statement, span):
            continue
        other = exchanged(statement, span, text, pool, chance)
        if other:
            yield span.kind, statement, other
            true, false = negated(other), negated(statement)
            value = other[span.start : len(other) - len(statement) + span.end]
            deniable = value not in text and _can_be_denied(statement, span)
            if true and false and deniable:
                yield "denied " + span.kind, true, false
        comparison = compared(statement, span, text, chance)
        if comparison:
            yield "comparison", *comparison
    for opposite in opposites(statement):
        yield "opposite", statement, opposite
    denial = negated(statement)
    if denial:
        yield "negation added", statement, denial
    plain = affirmed(statement)
    if plain:
        yield "negation removed", statement, plain


def _follows_anyway(statement: str, span: Span) -> bool:
    """Tell whether the statement may hold with another value too: "none of 20" includes "none of
    10", and what there was or how it was in 2009 it may have been in 2006.
    """
    if span.kind in ("year", "month"):
        return _THERE_IS.search(statement) is not None or _tells_state(statement, span)
    numbered = span.kind in ("quantity", "percent", "money")
    return numbered and patterns.negation().search(statement[: span.start]) is not None


def _tells_state(statement: str, span: Span) -> bool:
    """Tell whether the statement says how something was in a year or month, and of no event.

    "was in 1987" tells when an event was, and a clause between has a verb of its own.
    """
    verb = finite_verb(statement)
    if verb is None or verb[0].lower() not in _BEING or not _WITHIN.search(statement[: span.start]):
        return False
    after = WORD.findall(statement[verb.end() :])[:3]
    between = statement[verb.end() : span.start]
    return not (
        any(is_participle(word) for word in after)
        or _WITHIN.fullmatch(between.rstrip() + " ")
        or _clause_between(between)
        or "to" in WORD.findall(between)
    )


def _can_be_denied(statement: str, span: Span) -> bool:
    """Tell whether the denial of a statement with another value follows from the statement.

    It does where the denied part holds the value: not for an introduction ("In 2011, ..."), nor for
    a duty ("must not be paid on 3 May"). A second number makes the denial hard to read. What is
    said of one of several ("an inspector visited") or of a weekday may have happened again.
    """
    verb = finite_verb(statement)
    plain = (
        verb is not None
        and verb.end() < span.start
        and verb[0].lower() not in ("must", "shall", "will")
        and not _clause_between(statement[verb.end() : span.start])
    )
    repeats = span.kind == "weekday" or _INDEFINITE.match(statement) is not None
    return plain and not repeats and span.kind != "quantity"


def _clause_between(text: str) -> bool:
    """Tell whether the value belongs to another verb: "was launched before a deadline on 3 May"."""
    words = {word.lower() for word in WORD.findall(text)}
    return bool(words & patterns.words("breaks") - {"to"})


def _from_answers(passage: Premise, chance: random.Random) -> Iterator[Twins]:
    """Yield twins of the questions with known answers; the other answer is of the same kind."""
    pool = [answer for _, answer in passage.answered]
    spans = find_spans(passage.text)
    for turn, (question, answer) in enumerate(passage.answered):
        other = _other_answer(question, answer, passage.text, pool, spans, chance)
        if other is None:
            continue
        true, false = (statement_of(question, each) for each in (answer, other))
        kind = "answer"
        if not (true and false):
            wording = row_seed(turn, question)
            true, false = (answer_statement(question, each, wording) for each in (answer, other))
            kind = "asked"
        yield Twins(passage.passage_id, kind, true, false, question)


def _other_answer(
    question: str,
    answer: str,
    text: str,
    pool: list[str],
    spans: list[Span],
    chance: random.Random,
) -> str | None:
    if not answer or len(answer.split()) > 8 or answer not in text or len(question.split()) > 22:
        return None
    found = [span for span in find_spans(answer) if span.kind != "name"]
    if found:
        return exchanged(answer, found[0], text, spans, chance)
    if any(letter.isdigit() for letter in answer):
        return None
    words = content_words(answer)
    others = [
        other
        for other in pool
        if not content_words(other) & words
        and other.lower() not in question.lower()
        and other[:1].isupper() == answer[:1].isupper()
        and not any(letter.isdigit() for letter in other)
        and len(other.split()) <= 8
    ]
    return chance.choice(others) if others else None
