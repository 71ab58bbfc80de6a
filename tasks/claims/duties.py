"""Claims from contracts and rules: what somebody must, may or must not do, and the reverse.

Such sentences are too long and too conditional for the other edits. A duty is judged whole: with
all its conditions it is entailed as it stands, and contradicted with its modal verb reversed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.claims import patterns
from tasks.claims.sentences import AT_ALL, MARKS, WORD, split_sentences, without_notes

BAN, DUTY, PERMISSION = "ban", "duty", "permission"
DUTIES = frozenset((BAN, DUTY, PERMISSION))

_MODALS = r"shall|must|may|will"
_MODAL = re.compile(rf"\b(?P<verb>{_MODALS})(?P<denied> not)?\b")
_IS_NOT = re.compile(r"\b(?P<verb>is|are)(?P<denied> not)\b")
_ANY_MODAL = re.compile(rf"\b(?:{_MODALS}|can|cannot|should|could|would|might)(?:n['’]t)?\b")
#: A second denial, and what only a denial can hold: "is sturdy at all" is no English.
_DENIED_TOO = re.compile(rf"n['’]t\b|\b(?:{AT_ALL}|ever|yet|anymore)\b")
#: A subject may be one of these words, but does not end with one: "any right it" is no subject.
_PRONOUNS = frozenset(("i", "you", "he", "she", "it", "we", "they"))
#: The language of rules: what "may" be done here is allowed.
_RULES = re.compile(r"\bshall\b|\b[Tt]his (?:[Aa]greement|[Cc]ontract|[Ll]ease)\b")
_LONG_NOTE = re.compile(r"\((?:[^\s()]+\s+){4,}[^()]*\)")
_LOOSE = re.compile(r" (?:further|also|hereby|therefore)$")
#: Not cut where it ends (a full stop inside, or after a letter), or with a hole (two commas).
_INNER_END = re.compile(r"\. |, ?,|\b\w\.$|\.\w\.$")
_ADVERB = re.compile(r"^(?:However|Further|Furthermore|Moreover|Additionally|Accordingly), ")
#: "agrees not to use" says "must not use".
_AGREES = re.compile(
    r" (?:hereby )?(?:agrees?|undertakes?|promises?)"
    r"(?:(?P<denied> not)? to | (?:that )?(?:it|they|you) (?:shall|will)(?P<bound> not)? )"
)
#: A second clause with a modal verb of its own, up to the end.
_SECOND = re.compile(rf", (?:and|but) (?:[\w'’-]+ ){{0,9}}(?:{_MODALS})\b.*$")
#: Examples that end a sentence: the rest says the same of more.
_EXAMPLES = re.compile(
    r", including(?:,? (?:without limitation|but not limited to))?,? [^,.]+(?=\.$)"
)
_VERBS = re.compile(
    r" [a-z]+(?:, [a-z]+)*,? (?P<join>or|and)"
    r"(?P<last> [a-z]+ (?:the|any|all|an?|its|their|such|[A-Z])\b)"
)
_FEWEST, _MOST, _MOST_IN_SUBJECT = 6, 45, 10


@dataclass(frozen=True)
class Duty:
    """A sentence cut around its modal verb: "The tenant", "shall", "pay the rent."

    The entailed claim of a ban is the denial, of the other kinds the plain one. ``plain_head``
    begins the plain claim where the subject denies ("No party", "Neither party").
    """

    kind: str
    verb: str
    head: str
    tail: str
    plain_head: str = ""
    is_of_actor: bool = False

    def claims(self, chance: random.Random) -> tuple[str, str]:
        """Return (entailed, contradicted), alike but for the denial."""
        verb = self.verb
        if self.kind == BAN and self.is_of_actor and verb in _FORBIDDING:
            verb = "may" if _FREE.search(self.tail) else chance.choice(_FORBIDDING)
        if self.plain_head:
            return f"{self.head} {verb} {self.tail}", f"{self.plain_head} {verb} {self.tail}"
        plain, denied = (f"{self.head} {verb}{word} {self.tail}" for word in ("", " not"))
        return (denied, plain) if self.kind == BAN else (plain, denied)


#: Each of them is false of what is forbidden: it may not, must not and shall not be done.
_FORBIDDING = ("shall", "must", "may")
#: What an order can hardly hold: "must disclose any information to anyone". Elsewhere it stays, as
#: "some" in its place would tell the label.
_FREE = re.compile(r"\b(?:any|anyone|anybody|anything|either)\b")


def duty_twins(text: str, chance: random.Random) -> Iterator[tuple[str, str, str, str]]:
    """Yield (sentence, kind, entailed, contradicted) of what a passage orders, allows or forbids.

    A sentence gives one pair at most.
    """
    is_rule = _RULES.search(text) is not None
    for sentence in split_sentences(text):
        # The end of a sentence that a page break cut, or one that may lose a condition in brackets.
        if sentence[:1].islower() or _LONG_NOTE.search(sentence):
            continue
        duty = _duty(without_notes(sentence), is_rule)
        if duty:
            yield sentence, duty.kind, *duty.claims(chance)


def _duty(sentence: str, is_rule: bool) -> Duty | None:
    """Return the duty of a sentence, or None where its reverse would not be false for certain.

    ``is_rule``: the passage is of rules, so "may" allows. Elsewhere it may tell what can happen.
    """
    sentence = _one_clause(sentence)
    match = _only_modal(sentence)
    if match is None:
        return None
    head = _LOOSE.sub("", sentence[: match.start()].rstrip())
    tail = sentence[match.end() :].lstrip()
    denied, plain_head = bool(match["denied"]), _without_denial(head)
    twice = plain_head if denied else not plain_head and patterns.negation().search(head)
    if twice or not _is_subject(plain_head or head) or _is_unclear(tail):
        return None
    kind = BAN if denied or plain_head else PERMISSION if match["verb"] == "may" else DUTY
    is_of_actor = _does_something(head, tail)
    # "may" and "may not" alike: "This may not be as good."
    if match["verb"] == "may" and not (is_rule or is_of_actor):
        return None
    return Duty(kind, match["verb"], head, _last_verb(kind, tail), plain_head, is_of_actor)


def _one_clause(sentence: str) -> str:
    """Return a sentence without what it can lose: an adverb, examples, a second clause.

    What somebody agrees to do he "shall" do.
    """
    sentence = _ADVERB.sub("", sentence.strip())
    sentence = _EXAMPLES.sub("", _SECOND.sub(".", sentence[:1].upper() + sentence[1:]))
    agreed = _AGREES.search(sentence)
    if agreed is None or _ANY_MODAL.search(sentence[: agreed.start()]):
        return sentence
    denied = " not" if agreed["denied"] or agreed["bound"] else ""
    return f"{sentence[: agreed.start()]} shall{denied} {sentence[agreed.end() :]}"


def _only_modal(sentence: str) -> re.Match[str] | None:
    """Return the only modal verb of a plain sentence, or its "is not" where there is none."""
    modals = len(_ANY_MODAL.findall(sentence))
    plain = sentence.endswith(".") and not (MARKS.search(sentence) or _INNER_END.search(sentence))
    if modals > 1 or not plain or not _FEWEST <= len(WORD.findall(sentence)) <= _MOST:
        return None
    return (_MODAL if modals else _IS_NOT).search(sentence)


def _without_denial(head: str) -> str:
    """Return a subject without its denial: "Neither party" is "Each party"; else an empty text."""
    words = head.split()
    if len(words) < 2 or words[0] not in ("Neither", "No") or words[1].endswith("s"):
        return ""
    if "nor" in words or "or" in words:
        return ""
    article = "Each" if words[0] == "Neither" else "An" if words[1][0].lower() in "aeio" else "A"
    return " ".join([article, *words[1:]])


def _is_subject(head: str) -> bool:
    """Tell whether the words before a modal verb are its subject, maybe after an introduction.

    They hold no verb, but for one before an "and".
    """
    introduction = patterns.condition().match(head)
    words = head[introduction.end() if introduction else 0 :].split()
    if not words or len(words) > _MOST_IN_SUBJECT:
        return False
    first, last = words[0].lower(), words[-1].lower()
    determiners = patterns.words("determiners")
    if len(words) == 1 and first in determiners:  # "This will": of what stands before
        return False
    named = first in determiners or first not in patterns.words("openers") | {"i"}
    if (len(words) > 1 and last in _PRONOUNS) or _has_verb(words):
        return False
    plain = all(re.fullmatch(r"[A-Za-z][\w'’/-]*", word) for word in words)
    inside = {word.lower() for word in words[1:]} & patterns.words("breaks") - {"and", "or", "to"}
    # A capital inside the subject begins a sentence: what is before it is a heading.
    begins = {word.capitalize() for word in determiners | patterns.words("beginnings")}
    return named and plain and not inside and not begins & set(words[1:])


def _has_verb(words: list[str]) -> bool:
    """Tell whether a subject holds a verb: what it is part of is more than the duty."""
    joins = [place for place, word in enumerate(words) if word in ("and", "but")]
    own = words[joins[-1] + 1 :] if joins else words
    return any(word in ("is", "are", "was", "were", "has", "have", "had") for word in own)


def _is_unclear(tail: str) -> bool:
    """Tell whether a second denial, or a word such as "only", gives the reverse two readings."""
    words = [word.lower() for word in WORD.findall(tail)]
    denials = patterns.words("negations") - {"without"}
    return (
        len(words) < 3
        or not tail[0].isalnum()
        or words[0] in patterns.words("focus")
        or _DENIED_TOO.search(tail) is not None
        or bool(set(words) & (denials | patterns.words("narrowing")))
    )


def _does_something(head: str, tail: str) -> bool:
    """Tell whether a person or body does something here, so that "may" allows it.

    Of a thing, or with "may be" and "may feel", it can also tell what can happen.
    """
    subject, verb = head.rsplit(maxsplit=1)[-1].lower(), tail.split(maxsplit=1)[0].lower()
    return subject in patterns.words("actors") and verb not in patterns.words("happenings")


def _last_verb(kind: str, tail: str) -> str:
    """Return what follows a modal verb, of several verbs the last one alone.

    All stay where the last would say too much: who may not copy or disclose it may not disclose
    it, but who must return or destroy it need not destroy it.
    """
    verbs = _VERBS.match(" " + tail)
    follows = {BAN: ("or",), DUTY: ("and",), PERMISSION: ("or", "and")}[kind]
    return tail[verbs.start("last") :] if verbs and verbs["join"] in follows else tail
