"""Questions whose answer is a span, by construction: a statement with one of its parts asked for.

"Inspector Farrow cut up ten guides." gives "Who cut up ten guides?" and "How many guides did
Inspector Farrow cut up?". The answer is right because the statement is in the passage; the question
keeps the statement's words, which people's questions do not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from tasks.claims import patterns
from tasks.claims.claims import Premise
from tasks.claims.exchange import Span, find_spans, is_bound
from tasks.claims.questions import small_words, yes_no_question
from tasks.claims.sentences import WORD, finite_verb, main_clause, statements
from tasks.claims.wordings import load_wordings, span_instruction
from tasks.core.files import fingerprint, row_seed
from tasks.core.rows import INSTRUCTIONS

#: The task type of these rows.
SPANS = "exqa"
#: Takes the place of the part that is asked for while a statement is turned into a question.
_HOLE = "Xholex"
_TOTAL = re.compile(r"^(?:A total of|In all,?|Altogether,?) ", re.I)
_PREPOSITIONS = "for|by|within|after|in|at|to|from"
_DATES = ("date", "month", "weekday", "year")
#: A clause with a subject of its own: a question about the first one must not include it.
_SECOND_CLAUSE = re.compile(
    r"(?:, |\b(?:and|but|so|since|because|while|though|although|until|when) )"
    r"[^,]*?\b(?:the|an?|it|its|he|she|they|his|her|their|[A-Z]\w+)\b[^,]*?"
    r"\b(?:is|are|was|were|had|has|have|will|would|could|can|did)\b"
)
#: A part after one of these belongs to a clause or an aside: it cannot be moved to the front.
_INSIDE = re.compile(r"\b(?:that|which|who|whose|where|when|if|as|than|and|or|but)\b|,")
_NOT_BEFORE = frozenset(
    (
        *("of", "a", "an", "the", "and", "or", "about", "than", "some", "nearly", "almost"),
        *("over", "under", "only", "no", "with", "between", "per"),
    )
)
_MOST_SUBJECT, _MOST_REST = 9, 18


@dataclass(frozen=True)
class SpanQuestion:
    """A question about a passage, its answer (a span of it), and which part was asked for."""

    question: str
    answer: str
    kind: str


def ask_spans(premise: Premise, most: int, seed: int) -> list[SpanQuestion]:
    """Return at most ``most`` questions about a passage, of different sentences and kinds where
    there are any, drawn by the seed and the passage.
    """
    found: list[tuple[str, SpanQuestion]] = []
    for sentence, statement in statements(premise.text, hedged=True):
        found += [
            (sentence, asked)
            for asked in questions_of(statement, premise.text)
            if asked.answer in premise.text and asked.answer.lower() not in asked.question.lower()
        ]
    chance = random.Random(row_seed(seed, "spans", premise.passage_id))
    chance.shuffle(found)
    chosen: list[tuple[str, SpanQuestion]] = []
    while found and len(chosen) < most:
        used = [sentence for sentence, _ in chosen], [asked.kind for _, asked in chosen]
        best = min(found, key=lambda each: (used[0].count(each[0]), used[1].count(each[1].kind)))
        chosen.append(best)
        found = [each for each in found if each[1].answer != best[1].answer]
    return [asked for _, asked in chosen]


def construct_spans(premises: Sequence[Premise], seed: int, per_passage: int) -> pa.Table:
    """Return extractive rows (rows.INSTRUCTIONS), at most ``per_passage`` a passage, by row id."""
    wordings = load_wordings().exqa
    rows = []
    for premise in premises:
        for asked in ask_spans(premise, per_passage, seed):
            row_id = fingerprint("span", premise.passage_id, asked.question, asked.answer)[:20]
            wording = wordings[row_seed(seed, "wording", row_id) % len(wordings)]
            rows.append(
                {
                    "row_id": row_id,
                    "passage_id": premise.passage_id,
                    "document": premise.document,
                    "task_type": SPANS,
                    "context": premise.text,
                    "instruction": span_instruction(wording, asked.question, premise.text),
                    "response": asked.answer,
                }
            )
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["row_id"]), schema=INSTRUCTIONS)


def questions_of(statement: str, passage: str) -> list[SpanQuestion]:
    """Return the questions that one statement (of :func:`statements`) answers."""
    verb = finite_verb(statement)
    if verb is None or main_clause(statement) or patterns.negation().search(statement):
        return []
    subject, rest = statement[: verb.start()].strip(), statement[verb.start() :].rstrip(". ")
    if len(WORD.findall(rest)) > _MOST_REST or re.search(r"[,;:]", subject):
        return []
    if _SECOND_CLAUSE.search(rest):
        return []
    spans = find_spans(statement)
    found = [*_of_subject(subject, rest, spans)]
    for span in spans:
        behind = span.start >= verb.end() and not _INSIDE.search(statement[verb.end() : span.start])
        if behind and (span.kind == "name" or not is_bound(statement, span)):
            found += _of_rest(statement, span, passage)
    return found


def _of_subject(subject: str, rest: str, spans: Sequence[Span]) -> list[SpanQuestion]:
    """Ask for the subject, or for the number that it begins with."""
    words = subject.split()
    if not words or len(words) > _MOST_SUBJECT:
        return []
    counted = _TOTAL.sub("", subject)
    number = re.match(r"(?P<number>[\d.,]+|[A-Za-z-]+) (?P<noun>[a-z].*)", counted)
    values = {span.number for span in spans if span.kind == "quantity"}
    values |= patterns.words("number_words")
    if number and number["number"].lower() in values:
        return [SpanQuestion(f"How many {number['noun']} {rest}?", number["number"], "count")]
    if re.search(r"\d", subject) or rest.split(maxsplit=1)[0] in ("are", "were", "have"):
        return []
    if words[0].lower() in ("the", "a", "an"):
        plain = any(word[0].islower() for word in words[1:])
        return [SpanQuestion(f"What {rest}?", subject, "subject")] if plain else []
    capitals = sum(word[0].isupper() for word in words)
    if capitals == len(words) and capitals >= 2:
        return [SpanQuestion(f"Who {rest}?", subject, "name")]
    return []


def _of_rest(statement: str, span: Span, passage: str) -> list[SpanQuestion]:
    """Ask for a value, a number, a date or a name after the verb."""
    before, after = statement[: span.start], statement[span.end :]
    equal = re.fullmatch(r"(?P<subject>The .+|An? .+) (?P<be>is|was) ", before)
    if equal and span.kind in ("quantity", "money", "percent"):
        subject = equal["subject"][0].lower() + equal["subject"][1:]
        return [
            SpanQuestion(f"What {equal['be']} {subject}{after.rstrip('. ')}?", span.text, "value")
        ]
    holed = f"{before}{_HOLE}{after}"
    inverted = yes_no_question(holed, small_words([passage]))
    if inverted is None:
        return []
    inner = inverted[0].lower() + inverted[1:]
    if span.kind in _DATES:
        return _when(inner, span, statement)
    if span.kind == "name" and f"by {_HOLE}" in inner:
        asked = inner.replace(f" {_HOLE}", "", 1)
        return [SpanQuestion(f"Who {asked}", span.text, "name")]
    if span.kind != "quantity" or not span.number:
        return []
    return _how_many(inner, span)


def _when(inner: str, span: Span, statement: str) -> list[SpanQuestion]:
    match = re.search(rf" (?:on|in) {_HOLE}(?P<year> \d{{4}})?(?=[ ?])", inner)
    if not match or (span.kind == "month" and match["year"]):
        return []
    asked = inner[: match.start()] + inner[match.end() :]
    return [SpanQuestion(f"When {asked}", span.text + (match["year"] or ""), "date")]


def _how_many(inner: str, span: Span) -> list[SpanQuestion]:
    measure = span.unit in patterns.words("units")
    answer = span.text if measure else span.number
    things = f"how many {span.unit}"
    match = re.search(rf" (?P<before>[\w'’-]+) {_HOLE}(?=(?P<after>[ ?]))", inner)
    if not match:
        return []
    before = match["before"].lower()
    whole = inner[: match.start("before")].rstrip(), inner[match.end() :]
    if before in _PREPOSITIONS.split("|"):
        if match["after"] == " " and whole[1].startswith(" of"):
            return []
        return [
            SpanQuestion(f"{before.capitalize()} {things} {''.join(whole)}", answer, "quantity")
        ]
    if before not in _NOT_BEFORE and before.isalpha():
        kept = inner[: match.end("before")], inner[match.end() :]
        return [SpanQuestion(f"How many {span.unit} {''.join(kept)}", answer, "quantity")]
    return []
