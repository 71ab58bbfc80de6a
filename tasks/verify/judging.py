"""What the reader's answers say about a row: pure rules, no model.

Answers agree where their token F1 is at least a half and their numbers are equal. A label is judged
by its probability, after the reader's own preference for a label was taken out (batch calibration,
arXiv 2309.17249).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from tasks.claims.questions import find_question
from tasks.claims.sentences import split_sentences, tidy
from tasks.core.sections.verify import Verify
from tasks.core.spans import holds, is_sound
from tasks.core.task_types import EXTRACTION
from tasks.scoring.f1 import normalise_answer, squad_f1

#: Reasons of rows that are not kept.
DISAGREES, UNGROUNDED, UNSURE, NOT_REPAIRED = (
    "reader_disagrees",
    "question_not_about_answer",
    "generator_unsure",
    "not_repaired",
)
WRITTEN, ADOPTED, REPAIRED = "written", "adopted", "repaired"
_SAME = 0.5
#: Least token F1 of a response and the span that it nearly is ("Iwan Roberts", "Iwan Wyn Roberts").
_NEARLY = 0.75
#: Words that such a span may have more or fewer than the response.
_STRETCH = 3
#: Fewest rows with the same choices that a prior is estimated from.
_LEAST_PRIOR = 20
#: Marks that a span does not begin or end with.
_MARKS = " \t\n.,;:!?\"'()[]"
#: Words of questions that say nothing about what is asked for.
_ASKING = frozenset(
    re.findall(
        r"\w+",
        "a an the of in on at to for from by with and or as that this these those its it their his "
        "her what which who whom whose when where why how many much long often far old name called "
        "is are was were be been did does do has have had can could will would should there",
    )
)


@dataclass(frozen=True)
class Word:
    """What the reader says of one row.

    ``agreement`` is how much of it supports the response (0-1), ``answer`` is the reader's own
    answer, and ``certainty`` (0-1) is how much supports that answer. For sampled answers these
    are shares, for labels probabilities, and ``likeliest`` tells whether the response is the first.
    """

    agreement: float
    answer: str
    certainty: float
    likeliest: bool | None = None

    def agrees(self, least: float) -> bool:
        """Tell whether the response stands: as the likeliest label, or where at least the share
        ``least`` (0-1) of the sampled answers agrees.
        """
        return self.agreement >= least if self.likeliest is None else self.likeliest


@dataclass
class Decision:
    """What becomes of a row: its response, and the reasons why it is not kept, if any.

    ``agreement`` is None where the row's type is not judged. ``confidence`` is the generator's own
    (rows.PREDICTIONS). ``excluded``: a person found the row wrong, and it shall not be trained on.
    """

    response: str
    agreement: float | None = None
    answer: str = ""
    origin: str = WRITTEN
    grounded: float = 1.0
    confidence: float | None = None
    excluded: bool = False
    reasons: list[str] = field(default_factory=list)


def agree(one: str, other: str) -> bool:
    """Tell whether an answer supports another: half of their words are the same."""
    return squad_f1(one, [other]) >= _SAME


def are_same(one: str, other: str) -> bool:
    """Tell whether two answers agree and have the same numbers."""
    return _numbers(one) == _numbers(other) and agree(one, other)


def weigh_answers(response: str, answers: Sequence[str]) -> Word:
    """Return what sampled answers say; the reader's own answer is the one that most others are the
    same as.

    Of a response a support may have another number: of 14 such rows that people read the response
    was right in 10. Of the reader's own answers that would make six different ones a certainty.
    """
    supports = [sum(are_same(answer, other) for other in answers) for answer in answers]
    commonest = Counter(map(normalise_answer, answers))
    best = max(
        range(len(answers)),
        key=lambda place: (supports[place], commonest[normalise_answer(answers[place])], -place),
    )
    agreeing = sum(agree(answer, response) for answer in answers)
    return Word(agreeing / len(answers), answers[best], supports[best] / len(answers))


def weigh_labels(
    response: str, choices: Sequence[str], scores: Sequence[float], prior: Sequence[float]
) -> Word:
    """Return what ranked labels say.

    ``scores`` are summed log-probabilities, ``prior`` (0-1) the reader's mean probability of each
    choice over rows with the same choices.
    """
    chances = probabilities(
        [score - math.log(each) for score, each in zip(scores, prior, strict=True)]
    )
    best = max(range(len(choices)), key=lambda place: chances[place])
    wanted = next(
        (place for place, choice in enumerate(choices) if choice.lower() == response.lower()), None
    )
    agreement = 0.0 if wanted is None else chances[wanted]
    return Word(agreement, choices[best], chances[best], wanted == best)


def weigh_told_labels(response: str, choices: Sequence[str], answers: Sequence[str]) -> Word:
    """Return what answers in words say of a label; one that is none of the choices supports none.

    The reader's own answer is the choice that most answers give, empty where none gives one.
    """
    told = Counter(_told_label(answer, choices) for answer in answers)
    best = max(choices, key=lambda choice: told[choice])
    agreeing = sum(told[choice] for choice in choices if choice.lower() == response.lower())
    return Word(agreeing / len(answers), best if told[best] else "", told[best] / len(answers))


def _told_label(answer: str, choices: Sequence[str]) -> str:
    """Return the choice that an answer is, or begins with before a mark; empty if there is none."""
    text = answer.strip(f"{_MARKS}*").lower()
    found = (
        choice
        for choice in choices
        if re.match(rf"{re.escape(choice.lower())}(?:[^\w\s-]|\n|$)", text)
    )
    return next(found, "")


def probabilities(scores: Sequence[float]) -> list[float]:
    """Return a softmax."""
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return [weight / sum(weights) for weight in weights]


class Prior:
    """The reader's mean probability of each choice, over all rows with the same choices.

    It is uniform where too few rows have these choices.
    """

    def __init__(self, answered: Iterable[tuple[Any, Any]]) -> None:
        """``answered`` are pairs of a row with ``choices`` and its answer with ``scores``."""
        self._sums: dict[tuple[str, ...], list[float]] = {}
        self._rows: Counter[tuple[str, ...]] = Counter()
        for row, answer in answered:
            if answer is not None and answer["scores"]:
                chances = probabilities(answer["scores"])
                before = self._sums.get(row.choices, [0.0] * len(chances))
                self._sums[row.choices] = [sum(pair) for pair in zip(before, chances, strict=True)]
                self._rows[row.choices] += 1

    def of(self, choices: tuple[str, ...]) -> list[float]:
        """Return one probability (0-1) a choice."""
        rows = self._rows[choices]
        if rows < _LEAST_PRIOR:
            return [1 / len(choices)] * len(choices)
        return [each / rows for each in self._sums[choices]]


def grounding(instruction: str, context: str, answer: str) -> float:
    """Return the share (0-1) of the question's words in the sentence that holds the answer.

    Of several sentences the best counts, and a table's row counts as one. It is 1 where the
    instruction has no plain question, or one without a word of content. A model finds some number
    for "How long are the bellows?" in any passage that has a single length in it; then the
    sentence with the number is about something else.
    """
    question = find_question(instruction.replace(context, "\n"))
    asked = {word for word in _words(question or "") if word not in _ASKING}
    if not asked:
        return 1.0
    return max(
        (
            len(asked & set(_words(sentence))) / len(asked)
            for sentence in _sentences(context)
            if holds(sentence, tidy(answer))
        ),
        default=0.0,
    )


def _sentences(passage: str) -> Iterator[str]:
    """Yield the sentences of a passage, tidied, and each row of a table in Markdown, after the
    table's first row, which names the columns.
    """
    yield from split_sentences(passage)
    head = ""
    for line in passage.split("\n"):
        is_row = line.lstrip().startswith("|")
        head = (head or line) if is_row else ""
        if is_row:
            yield tidy(f"{head} {line}")


def nearest_span(passage: str, response: str) -> str:
    """Return the span of a passage, of whole words and with the same numbers, that a response
    nearly is; empty if there is none.
    """
    words = list(re.finditer(r"\S+", passage))
    length, numbers = len(response.split()), _numbers(response)
    wanted = normalise_answer(response).split()
    parts = (normalise_answer(word[0]).split() for word in words)
    held = [0, *accumulate(sum(part in wanted for part in each) for each in parts)]
    best, found = _NEARLY, ""
    for size in range(max(1, length - _STRETCH), length + _STRETCH + 1):
        for first in range(len(words) - size + 1):
            common = held[first + size] - held[first]
            if 2 * common <= best * (common + len(wanted)):  # it cannot be as like as that
                continue
            span = passage[words[first].start() : words[first + size - 1].end()].strip(_MARKS)
            likeness = squad_f1(span, [response])
            if likeness > best and _numbers(span) == numbers:
                best, found = likeness, span
    return found


def decide(
    values: dict[str, Any],
    word: Word | None,
    params: Verify,
    repairing: bool = False,
    nearly: str = "",
) -> Decision:
    """Return what becomes of a row (rows.INSTRUCTIONS); ``word`` is None where it is not judged.

    A row that is ``repairing`` has a response that validate found wrong. It is kept with
    ``nearly``, the span that its response nearly is, where ``word``, which is then about that span,
    agrees, else with the reader's answer or not at all.
    """
    response = nearly or values["response"]
    if word is None:
        return Decision(response, reasons=[NOT_REPAIRED] if repairing else [])
    kind, context, instruction = (values[name] for name in ("task_type", "context", "instruction"))
    decision = Decision(response, word.agreement, word.answer)
    if nearly:
        decision.origin = REPAIRED
    standing = not repairing or bool(nearly and is_sound(kind, instruction, context, nearly))
    if not standing or not word.agrees(params.min_agreement):
        takes = (
            (params.repair == "answer" if repairing else params.adopt)
            and word.certainty >= params.min_agreement
            and is_sound(kind, instruction, context, word.answer)
        )
        if not takes:
            decision.reasons.append(NOT_REPAIRED if repairing else DISAGREES)
            return decision
        decision.response, decision.agreement = word.answer, word.certainty
        decision.origin = REPAIRED if repairing else ADOPTED
    if kind in EXTRACTION:
        decision.grounded = grounding(instruction, context, decision.response)
        if decision.grounded < params.min_grounding:
            decision.reasons.append(UNGROUNDED)
    return decision


def _words(text: str) -> list[str]:
    return [word.rstrip("s") for word in re.findall(r"\w+", text.lower())]


def _numbers(text: str) -> set[str]:
    """Return the numbers of a text with sign and decimals, without a comma between thousands."""
    found = re.findall(r"(?:(?<!\S)-)?\d+(?:[.,]\d+)*", text)
    return {re.sub(r",(?=\d{3}(?!\d))", "", number) for number in found}
