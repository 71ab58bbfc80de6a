"""Statements from questions with answers, and yes-no questions from statements."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable

from tasks.claims import patterns
from tasks.claims.edits import is_participle
from tasks.claims.sentences import WORD, finite_verb

_WHO = re.compile(
    r"^(?:Who|What|Which [a-z]+) (?P<verb>[a-z]+) (?P<rest>(?!did|does|do|is|was|are|were)\S.*)\?$"
)
_WHAT_IS = re.compile(r"^(?:What|Who) (?P<be>is|was|are|were) (?P<rest>(?:the|[A-Z]).*)\?$")
_WHEN = re.compile(
    r"^(?:When|In what year|In which year|What year|On what date) "
    r"(?P<be>was|were) (?P<rest>\S.*)\?$"
)
_JOINING = ("and", "or", "but")
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


def statement_of(question: str, answer: str) -> str | None:
    """Return a question and its answer as a statement, or None where that is not simple."""
    answer = answer.strip().rstrip(".")
    match = _WHO.match(question)
    if (
        match
        and match["verb"] in patterns.verb_bases()
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
        if is_participle(words[-1]) and 2 <= len(words) <= 6:
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


def yes_no_question(statement: str, small: Container[str]) -> str | None:
    """Return a statement as a question, by inversion, or None where that is not simple.

    ``small``: words that the texts write in lower case (:func:`small_words`).
    """
    verb = finite_verb(statement)
    after = WORD.search(statement, verb.end()) if verb else None
    if verb is None or after is None or not _is_simple(statement, verb):
        return None
    subject = uncapitalised(statement[: verb.start()].strip(), small)
    rest = statement[verb.end() :].strip().rstrip(".")
    if verb[0].lower() in patterns.verb_bases():
        base, did = patterns.verb_bases()[verb[0].lower()]
        # "Machines built since 2021 carry a modem": the second form is the verb.
        twice = did == "did" and set(rest.split()) & patterns.words("verbs")
        return None if twice else f"{did.capitalize()} {subject} {base} {rest}?"
    if verb[0] in ("has", "have", "had") and not is_participle(after[0]):
        did = {"has": "Does", "have": "Do", "had": "Did"}[verb[0]]
        return f"{did} {subject} have {rest}?"
    return f"{verb[0].capitalize()} {subject} {rest}?"


def _is_simple(statement: str, verb: re.Match[str]) -> bool:
    """Tell whether a statement has one verb, and nothing before its subject."""
    if patterns.negation().search(statement) or re.match(r"[A-Z][^,]*, |.*\"", statement):
        return False
    subject = statement[: verb.start()].lower().split()
    introduced = subject[0] in patterns.words("introductions") | patterns.words("preconditions")
    second = subject[-1] in _JOINING or re.search(
        rf",|\b(?:{'|'.join(_JOINING)})\b", statement[verb.end() :]
    )
    return not introduced and not second


def small_words(texts: Iterable[str]) -> frozenset[str]:
    """Return the words that one of the texts writes in lower case."""
    return frozenset(word for text in texts for word in WORD.findall(text) if word[0].islower())


def uncapitalised(text: str, small: Container[str]) -> str:
    """Return a text as it stands inside a sentence: in lower case, unless it begins with a name.

    Before another capitalised word the capital stays ("New York"), and in an abbreviation ("WHO").
    """
    first, *others = text.split(maxsplit=2)[:2] or [""]
    in_name = bool(others) and others[0][0].isupper()
    if first == "I" or any(map(str.isupper, first[1:])):
        return text
    plain = first.lower() in patterns.words("stopwords") or (first.lower() in small and not in_name)
    return text[:1].lower() + text[1:] if plain else text
