"""The task types, one entry each with everything that the pipeline knows of a type.

Prompts, parameters, the validation suites, the measure of adherence, the reports and the Prefect
form read this table. To add a type, add one entry, and rows that teach a generator.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from tasks.core.errors import PipelineError

#: What a response is: a span of the passage, one label of a small set (counted and balanced), one
#: of the options that the instruction offers, or free text.
Family = Literal["extraction", "classification", "choice", "writing"]

#: Expectations of a family; those without a type are for every row.
_OF_FAMILY: dict[Family, tuple[str, ...]] = {
    "extraction": ("answer_in_passage", "answer_not_in_question"),
    "classification": ("label_in_family",),
    "choice": ("label_in_family",),
    "writing": (),
}

#: Label families: sets of answers to the same decision. An instruction may offer only some of a
#: family. Families of a type are added after these.
_COMMON_LABELS: tuple[tuple[str, ...], ...] = (
    ("yes", "no", "maybe", "unknown", "unclear", "not sure", "not at all", "definitely"),
    ("true", "false", "inconclusive", "neither", "unknown", "unclear", "undetermined"),
    ("always", "sometimes", "never"),
    ("guaranteed", "possible", "impossible"),
    ("correct", "incorrect", "inconclusive"),
    ("entailment", "neutral", "contradiction"),
    ("entailed", "neutral", "contradicted"),
    ("supports", "refutes", "not enough info"),
    ("supported", "refuted", "not enough info", "not enough information"),
    ("relevant", "irrelevant", "not relevant"),
    ("equivalent", "not equivalent"),
    ("positive", "negative", "neutral", "mixed"),
    ("good", "bad"),
    ("satisfied", "dissatisfied"),
    ("increase", "decrease"),
    ("flattering", "unflattering"),
)
_YES_NO = ("yes", "no", "true", "false")
_DECISIONS = {label for family in _COMMON_LABELS[:9] for label in family}
_OPINIONS = {label for family in _COMMON_LABELS[11:] for label in family}
_STARS = tuple(f"{count}{unit}" for count in range(1, 6) for unit in ("", " star", " stars"))
_REVIEW = ("positive review", "negative review", "they loved it", "they didn't like it")

#: Wording that distinguishes types with similar answers.
_WORD_SENSE = r"\bthe word\b|\bsenses?\b|has a similar meaning|in the same way"
_SAME_TEXT = (
    r"paraphras|equivalent|same (?:thing|meaning)|(?:rewrite|replace)\b.*\bsentence|two "
    r"sentences|sent(?:ence)? [2b]\b"
)
_REFERENT = (
    r"pronoun|refers? to|referring to|stands? for|they mean|in other words|who or "
    r"what|replaced with|question: [\"“][^\"“”]{1,12}[\"”] (?:is|are)\b"
)
_INFERENCE = (
    r"infer|follows?\b|impl(?:y|ies)|entail|\btrue\b|guarantee|\bassum|justified|\bclaim|"
    r"therefore|must be|should be|\bcorrect\b|contradict|inconclusive|"
    r"\b(?:always|sometimes|never)\b|\bsuppose\b|hypothesis|definitely"
)
_SHORTEN = (
    r"summar|tl;?\s?dr|\btitle\b|headline|\bsum\b|boils? "
    r"down|nutshell|recap|abstract|outline|condense|key points|main points|few words|in brief"
)
_REWORD = r"paraphras|rephras|reword|rewrite|mean(?:s|ing)? the same|same meaning|in other words"
_ASK_FOR_QUESTION = r"(?:generate|write|come up with|make)\b.*\bquestion"


@dataclass(frozen=True)
class Form:
    """The form of a type's tasks.

    The instruction, without its passage and in lower case, must match the pattern ``asks`` and not
    ``unless``. ``answers`` is the rule for the response, a name of ``RULES`` in
    :mod:`bonito.evaluate.adherence`.
    """

    answers: str
    asks: str = ""
    unless: str = r"(?!)"


@dataclass(frozen=True)
class TaskType:
    """A task type. ``full_name`` is what the generator reads; a user may write either name."""

    name: str
    full_name: str
    family: Family
    form: Form
    #: Valid responses where the instruction offers none that can be parsed; empty: any.
    labels: frozenset[str] = frozenset()
    #: Label families besides the common ones.
    label_families: tuple[tuple[str, ...], ...] = ()
    #: Expectations of :mod:`tasks.validate.expectations` besides those of the family.
    expects: tuple[str, ...] = ()
    #: The instruction must hold a question or a request; a claim is not enough.
    asks_outright: bool = False
    #: The passage is the text to write, so the response may contain it.
    writes_passage: bool = False
    #: A type of family writing whose response follows from the instruction: a reader can answer it.
    has_answer: bool = False

    @property
    def read_as(self) -> Literal["answers", "labels", ""]:
        """How a reader answers rows of this type: in its own words, by ranking labels, or not."""
        if self.family == "writing":
            return "answers" if self.has_answer else ""
        return "labels" if self.family == "classification" else "answers"

    @property
    def expectations(self) -> tuple[str, ...]:
        """Names of the expectations on rows of this type alone."""
        copied = () if self.writes_passage else ("answer_not_passage",)
        return (*_OF_FAMILY[self.family], *copied, *self.expects)


#: Names as Bonito was trained on (arXiv 2402.18334, table of task types).
_TABLE = (
    TaskType(
        "exqa",
        "extractive question answering",
        "extraction",
        Form(
            "span",
            unless=f"{_ASK_FOR_QUESTION}|summar|tl;?dr|\\btopic\\b|categor|what label|\\bending",
        ),
        expects=("question_present",),
        asks_outright=True,
    ),
    TaskType(
        "mcqa",
        "multiple-choice question answering",
        "choice",
        Form(
            "option",
            unless=rf"{_WORD_SENSE}|sentiment|categor|because\.\.\.|\bcause\b|\beffect\b|\bending",
        ),
        expects=("question_present",),
    ),
    TaskType("qg", "question generation", "writing", Form("question", asks=r"\bquestions?\b")),
    TaskType(
        "qa",
        "question answering without choices",
        "writing",
        Form(
            "free",
            asks=r"\?|\bquestions?\b|"
            r"\b(?:what|when|where|who|which|why|how|decide|choose|explain)\b",
            unless=f"{_ASK_FOR_QUESTION}|{_SHORTEN}|{_REWORD}"
            r"|same thing|sentiment|\btopic\b|categor",
        ),
        expects=("question_present",),
        has_answer=True,
    ),
    TaskType(
        "ynqa",
        "yes-no question answering",
        "classification",
        Form(
            "decided_question",
            unless=f"{_WORD_SENSE}|paraphras|two sentences|sentence [2b]\\b|pronoun|they "
            "mean|replaced with",
        ),
        labels=frozenset((*_YES_NO, "maybe")),
        expects=("question_present", "question_closed"),
        asks_outright=True,
    ),
    TaskType(
        "coref",
        "coreference resolution",
        "choice",
        Form("referent", asks=_REFERENT, unless=_WORD_SENSE),
    ),
    TaskType("paraphrase", "paraphrase generation", "writing", Form("reworded", asks=_REWORD)),
    TaskType(
        "paraphrase_id",
        "paraphrase identification",
        "classification",
        Form("label", asks=_SAME_TEXT, unless=_WORD_SENSE),
        labels=frozenset((*_YES_NO, "equivalent", "not equivalent")),
    ),
    TaskType(
        "sent_comp",
        "sentence completion",
        "writing",
        Form(
            "ending",
            asks=r"complet|continu|\bending|\bends?\b|\bnext\b|because|as a "
            r"result|consequence|\bcaused?\b|\bcauses\b|\beffect\b|more "
            r"likely|plausible|alternative|"
            r"\boption|start the sentence|\bwhy\? [\"“]|choose between|\bso(?:\.\.\.|$)",
            unless=r"\bquestion\b",
        ),
    ),
    TaskType(
        "sentiment",
        "sentiment",
        "classification",
        Form(
            "label",
            asks=r"sentiment|review|rating|\bfeel|enjoy|opinion|recommend|satisf|\btone\b|"
            r"\bstars?\b|\bscore\b|good or bad|give it|positive|negative|flattering",
        ),
        labels=frozenset((*_REVIEW, "yes", "no", *_STARS, *_OPINIONS)),
    ),
    TaskType(
        "summarization",
        "summarization",
        "writing",
        Form("shorter", asks=_SHORTEN, unless=r"\bquestion\b"),
    ),
    TaskType(
        "text_gen",
        "text generation",
        "writing",
        Form(
            "whole_text",
            asks=r"write|generate|\bbuild\b|story|\btitle:|create|compose|\bdetails\b",
            unless=r"(?:write|generate|make|give)\b[^.:]{0,20}"
            r"\b(?:summary|title|question|abstract|outline)\b",
        ),
        writes_passage=True,
    ),
    TaskType(
        "topic_class",
        "topic classification",
        "classification",
        Form(
            "topic",
            asks=r"topic|categor|\blabel\b|section|\bregarding\b|recommend the following|what "
            r"kind|\bclass(?:ify|es)?\b",
        ),
    ),
    TaskType(
        "wsd",
        "word sense disambiguation",
        "classification",
        Form("label", asks=_WORD_SENSE),
        labels=frozenset(_YES_NO),
    ),
    TaskType(
        "te",
        "textual entailment",
        "classification",
        Form("firm_label", asks=_INFERENCE, unless=f"{_WORD_SENSE}|{_REFERENT}|sentence 2"),
        labels=frozenset((*_YES_NO, "correct", "incorrect", "entailment")),
        expects=("question_present", "verbatim_claim_entailed"),
    ),
    TaskType(
        "nli",
        "natural language inference",
        "classification",
        Form("label", asks=_INFERENCE, unless=f"{_WORD_SENSE}|{_REFERENT}|sentence 2"),
        labels=frozenset(_DECISIONS - {"not at all", "definitely"}),
        expects=("question_present", "verbatim_claim_entailed"),
    ),
)

#: Name -> type, in the order in which tables show them.
TASK_TYPES: dict[str, TaskType] = {entry.name: entry for entry in _TABLE}
_NAMES = {entry.full_name: entry.name for entry in _TABLE}

#: Every label family, the common ones first.
LABEL_FAMILIES = (*_COMMON_LABELS, *(own for entry in _TABLE for own in entry.label_families))
#: Types whose labels are counted and balanced.
CLASSIFICATION = tuple(entry.name for entry in _TABLE if entry.family == "classification")
#: Types whose response is a span of the passage.
EXTRACTION = tuple(entry.name for entry in _TABLE if entry.family == "extraction")


def task_type(name: str) -> str:
    """Return the short name of a task type; an error suggests the nearest and lists all of them."""
    name = _NAMES.get(name, name)
    if name not in TASK_TYPES:
        near = difflib.get_close_matches(name, [*TASK_TYPES, *_NAMES], n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        raise PipelineError(f"unknown task type {name!r} ({meant}known: {', '.join(TASK_TYPES)})")
    return name


def types_expecting(expectation: str) -> tuple[str, ...]:
    """Return the names of the types that have an expectation."""
    return tuple(entry.name for entry in _TABLE if expectation in entry.expectations)
