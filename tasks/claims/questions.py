"""Statements from questions with answers, and yes-no questions from statements."""

from __future__ import annotations

import re

from tasks.claims.edits import is_participle
from tasks.claims.patterns import Patterns
from tasks.claims.sentences import WORD, finite_verb

_WHO = re.compile(
    r"^(?:Who|What|Which [a-z]+) (?P<verb>[a-z]+) (?P<rest>(?!did|does|do|is|was|are|were)\S.*)\?$"
)
_WHAT_IS = re.compile(r"^(?:What|Who) (?P<be>is|was|are|were) (?P<rest>(?:the|[A-Z]).*)\?$")
_WHEN = re.compile(
    r"^(?:When|In what year|In which year|What year|On what date) (?P<be>was|were) (?P<rest>.*)\?$"
)
_QUESTION = re.compile(r"[^.?!\n\"“:]*\?")


def find_question(instruction: str) -> str | None:
    """Return the only question of an instruction, without its passage, or None."""
    found = [match[0].strip() for match in _QUESTION.finditer(instruction)]
    asked = [
        question
        for question in found
        if re.match(r"(?:who|what|which|when|where|how|in what|in which)\b", question, re.I)
    ]
    return asked[0][0].upper() + asked[0][1:] if len(asked) == 1 and len(found) == 1 else None


def statement_of(question: str, answer: str, patterns: Patterns) -> str | None:
    """Return a question and its answer as a statement, or None where that is not simple."""
    answer = answer.strip().rstrip(".")
    match = _WHO.match(question)
    if (
        match
        and match["verb"] in patterns.verb_bases
        and question.startswith("Who")
        and answer[:1].isupper()
    ):
        return f"{answer} {match['verb']} {match['rest']}."
    match = _WHAT_IS.match(question)
    if match and not re.search(r"\b(?:called|named|known|by|for|to|of|in|ed)$|ed$", match["rest"]):
        subject = match["rest"][0].upper() + match["rest"][1:]
        return f"{subject} {match['be']} {answer}."
    match = _WHEN.match(question)
    if match and re.fullmatch(r"\d{4}", answer):
        words = match["rest"].split()
        if is_participle(words[-1], patterns) and 2 <= len(words) <= 6:
            subject = " ".join(words[:-1])
            return f"{subject[0].upper()}{subject[1:]} {match['be']} {words[-1]} in {answer}."
    return None


def answer_statement(question: str, answer: str, turn: int) -> str:
    """Return a statement about the answer of a question, in one of three wordings."""
    answer = answer.strip().rstrip(".")
    return (
        f'The answer to "{question}" is {answer}.',
        f'The right answer to "{question}" is {answer}.',
        f'The question "{question}" is answered by {answer}.',
    )[turn % 3]


def yes_no_question(statement: str, known: str, patterns: Patterns) -> str | None:
    """Return a statement as a question, by inversion, or None where that is not simple.

    ``known``: a text that shows which words are written small (the passage).
    """
    verb = finite_verb(statement, patterns)
    if verb is None or patterns.negation.search(statement) or re.match(r"[A-Z][^,]*, ", statement):
        return None
    after = WORD.search(statement, verb.end())
    if after is None or '"' in statement:
        return None
    subject = uncapitalised(statement[: verb.start()].strip(), known, patterns)
    rest = statement[verb.end() :].strip().rstrip(".")
    if verb[0].lower() in patterns.verb_bases:
        if re.search(r",|\b(?:and|or|but)\b", rest):  # a second verb would keep its ending
            return None
        base, did = patterns.verb_bases[verb[0].lower()]
        return f"{did.capitalize()} {subject} {base} {rest}?"
    if verb[0] in ("has", "have", "had") and not is_participle(after[0], patterns):
        did = {"has": "Does", "have": "Do", "had": "Did"}[verb[0]]
        return f"{did} {subject} have {rest}?"
    return f"{verb[0].capitalize()} {subject} {rest}?"


def uncapitalised(text: str, known: str, patterns: Patterns) -> str:
    """Return a text in the form it has inside a sentence: first word small, unless it is a name."""
    first = text.split(maxsplit=1)[0] if text.split() else ""
    small = first.lower() in patterns.stopwords or re.search(
        rf"(?<![\w-]){re.escape(first.lower())}(?![\w-])", known
    )
    return text[:1].lower() + text[1:] if first and small else text
