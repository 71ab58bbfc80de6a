"""Statements from the text of a passage: plain sentences that can be judged, whole or cut."""

from __future__ import annotations

import re

from tasks.claims import patterns

WORD = re.compile(r"[A-Za-z][\w'’-]*|\d(?:[\w.,%-]*[\w%])?")
#: "0. 057" is one number, as tokenised data sets have it.
_END = re.compile(r"(?<=[.!?])(?!(?<=\d\.)\s+\d)[\"”’)\]]*\s+(?=[\"“(\[]?[A-Z0-9])")
_TIDY = (
    (re.compile(r"\s+([,.;:%)\]])"), r"\1"),
    (re.compile(r"\s+"), " "),
    (re.compile(r"([(\[])\s+"), r"\1"),
)
_LINK = re.compile(r"\[([^\]]{1,80})\]\([^()\s]{1,300}\)")
#: A note in brackets. Without a letter or digit it is none: "[***]" marks words left out.
_NOTES = re.compile(r"\s*(?:\[(?=[^\]]*\w)[^\]]{0,40}\]|\((?=[^()]*\w)[^()]{0,120}\))")
_ENUMERATOR = re.compile(r"\s*\((?:[ivx]+|[a-z])\)")
#: What needs the words after it, so that they are no note: "in accordance with (Section 5)".
_NEEDS_MORE = re.compile(r"\b(?:an?|the|of|with|by|for|from|in|on|at|to|under|and|or|[a-z])$", re.I)
#: Not "at all times".
AT_ALL = r"at all(?=[.,;]| (?:in|on|by|for|of|to|as|and|or|if|when)\b)"
MARKS = re.compile(
    r"[`\"“”«»#|*_<>={}~\\;:?!…\[\]()/@&]|--|\.\.|\s[-–—]\s|—|–|''|https?|www\."
    #: A number that is cut: "0. 057", "16, 219".
    r"|\d\. \d|(?<!\d)\d{1,3}, \d{3}\b"
)
_RELATIVE = re.compile(r"^(?P<main>[^,]{20,}), (?:which|who|whose|where)\b[^,]*\.$")
_PARTICIPLE = re.compile(r"^(?P<main>[^,]{25,}), [a-z]{3,}ing\b[^,]*\.$")
_COORDINATE = re.compile(r"^(?P<main>[^,]{25,}), (?:and|but) (?P<next>\w+) [^,]*\.$")
#: What begins a clause of its own after "and": the rest does not need it.
_STARTS = frozenset(("the", "a", "an", "he", "she", "they", "it", "its", "his", "her", "their"))
_APPOSITION = re.compile(
    r"^(?P<head>[A-Z][^,]{2,40}), (?:an?|the|who|which) [^,]{3,60}, (?P<tail>[a-z][^,]*\.)$"
)
_OTHERS = re.compile(
    r"^The (?:(?:first|second|third|fourth|last|two|three|four|same|others?)\b"
    r"|(?:rest|remaining|one|new)\b"
    r"|\w+ (?:one|ones)\b)"
)
#: "in the table below", "the above quote": about the page, or another sentence.
_ELSEWHERE = re.compile(
    r"\bthe (?:above|below)\b"
    r"|\b(?:shown|listed|described|mentioned|noted|given|discussed|table|figure|example|section)s?"
    r" (?:above|below)\b"
)
#: A sentence begins in the middle: a heading stands before it, without a mark between them.
_HEADED = re.compile(r"\w (?:The|This|These|Each|Every|All|Any|No|In|If|It) [a-z]")
#: Cut at initials: "by the Rev. A.G."
_INITIAL = re.compile(r"\b(?!U\.[SK])[A-Z]\.[A-Z]\.$")
_NUMBERED = re.compile(
    r"^(?:(?:\d+(?:\.\d+)*\.?|[A-Z]\.)\s+(?=[A-Z])|\d+(?:\.\d+){2,}\.?\s+(?=\d))"
)
_PREPOSITIONS = frozenset(("of", "with", "by", "for", "from", "in", "on", "at"))
_ITEM = re.compile(r"^\s*(?:[-*•>]|\d+[.)])\s+")
_ALTERNATIVES = re.compile(r"\b(?:one of|any of|either|if|unless|until|when)\b")
_ENDED = re.compile(r"[.!?:;][\"”’)\]]*\s*$")
_LEAST, _MOST, _MOST_IN_HEADING = 5, 30, 10


def split_sentences(text: str) -> list[str]:
    """Return the sentences of a text in order, without headings and list marks.

    Items of which only one may hold ("one of the following:") are left out.
    """
    sentences: list[str] = []
    lead = ""
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*•#|>]|\d+[.)])\s)", text):
        item = _ITEM.match(block)
        lead = lead if item else block.rstrip()
        if item and lead.endswith(":") and _ALTERNATIVES.search(lead):
            continue
        lines = [line for line in block.split("\n") if not line.lstrip().startswith(("#", "|"))]
        sentences += _split(_ITEM.sub("", " ".join(_without_heading(lines))))
    return sentences


def _without_heading(lines: list[str]) -> list[str]:
    """Return the lines without a heading: the one line without a full stop, short and not last."""
    loose = [number for number, line in enumerate(lines) if not _ENDED.search(line)]
    if len(loose) != 1 or loose[0] + 1 == len(lines):
        return lines
    line, below = lines[loose[0]], lines[loose[0] + 1].lstrip()
    heads = len(line.split()) <= _MOST_IN_HEADING and below[:1].isupper()
    return [other for other in lines if other is not line] if heads else lines


def _split(block: str) -> list[str]:
    parts: list[str] = []
    for part in _END.split(block.strip()):
        if parts and _goes_on(parts[-1]):
            parts[-1] += " " + part
        else:
            parts.append(part)
    return [tidy(part) for part in parts if part.strip()]


def _goes_on(before: str) -> bool:
    last = before.rstrip('"”’)]').split()[-1:] or [""]
    word = last[0].rstrip(".").lower()
    initial = last[0].endswith(".") and (len(word) == 1 and word.isalpha())
    return last[0].endswith(".") and (initial or word in patterns.words("abbreviations"))


def tidy(text: str) -> str:
    """Return a text without spaces before its marks (as tokenised data sets have them)."""
    for pattern, by in _TIDY:
        text = pattern.sub(by, text)
    return re.sub(r"(\w) ('s|n't)\b", r"\1\2", text).strip()


def without_notes(sentence: str) -> str:
    """Return a sentence without its notes in brackets and its leading number.

    Of a link the text is kept. A note is kept if the sentence needs it: "in accordance with
    (Section 5)".
    """
    return _NUMBERED.sub("", _NOTES.sub(_without_note, _LINK.sub(r"\1", sentence)))


def _without_note(note: re.Match[str]) -> str:
    is_needed = _NEEDS_MORE.search(note.string[: note.start()])
    return note[0] if is_needed and not _ENUMERATOR.fullmatch(note[0]) else ""


def statements(text: str, hedged: bool = False) -> list[tuple[str, str]]:
    """Return (sentence, statement) of the passage: plain statements and their cuts.

    ``hedged`` also takes what the passage says with a doubt, a condition or a reason.
    """
    found: list[tuple[str, str]] = []
    for sentence in split_sentences(text):
        plain = without_notes(sentence)
        forms = list(dict.fromkeys([plain, *_cuts(plain)]))
        found += [(sentence, form) for form in forms if is_statement(form, hedged)]
    return list(dict.fromkeys(found))


def _cuts(sentence: str) -> list[str]:
    """Return the sentence without an introduction, a relative or a second clause."""
    cuts: list[str] = []
    for pattern in (_RELATIVE, _PARTICIPLE, _COORDINATE):
        match = pattern.match(sentence)
        if match and (pattern is not _COORDINATE or match["next"].lower() in _STARTS):
            cuts.append(match["main"].rstrip(",") + ".")
    match = _APPOSITION.match(sentence)
    if match and not re.match(r"(?:and|or|but|which|who|as|in|on|at)\b", match["tail"]):
        cuts.append(f"{match['head']} {match['tail']}")
    for form in [sentence, *cuts]:
        match = patterns.introduction().match(form)
        if match and not _lower_words(match["rest"]) & patterns.words("conditions"):
            main = match["main"]
            cuts += [main[0].upper() + main[1:]] if main[0].isalpha() else []
    return cuts


def is_statement(sentence: str, hedged: bool = False) -> bool:
    """Tell whether a sentence can be judged alone: complete, plain, about no other sentence."""
    words = WORD.findall(sentence)
    if not (_LEAST <= len(words) <= _MOST and sentence.endswith(".")):
        return False
    if not (sentence[0].isupper() or sentence[0].isdigit()) or MARKS.search(sentence):
        return False
    if sum(word.isupper() and len(word) > 3 for word in words) > 1 or sentence.count(",") > 3:
        return False
    if any(pattern.search(sentence) for pattern in (_ELSEWHERE, _HEADED, _OTHERS, _INITIAL)):
        return False
    return _speaks_for_itself(words, hedged) and finite_verb(sentence) is not None


def _speaks_for_itself(words: list[str], hedged: bool) -> bool:
    """Tell whether no word points at another sentence or, but for ``hedged``, tells of a doubt."""
    lower = [word.lower().replace("’", "'") for word in words]
    plain = [word.partition("'")[0] for word in lower]  # "I've" speaks of me
    refused = patterns.words("pointing") | (frozenset() if hedged else patterns.words("unsure"))
    return not (
        {lower[0], plain[0]} & patterns.words("openers")
        or {*lower, *plain} & refused
        or {"he", "she", "they", "it", "we"} & set(plain[:4])
    )


def finite_verb(sentence: str) -> re.Match[str] | None:
    """Return the main clause's verb: the first known one after a plain subject, or None.

    A subject is plain when nothing in it can begin another clause. An introduction is passed over.
    """
    auxiliaries, breaks = patterns.words("auxiliaries"), patterns.words("breaks")
    before = ""
    for place, match in enumerate(WORD.finditer(sentence, main_clause(sentence))):
        word = match[0].lower()
        # "photographs of finished work": after a preposition a form in -ed is no verb.
        known = before not in _PREPOSITIONS and _is_verb(match[0], sentence[match.end() :])
        if place == 1 and known and before.endswith("ly"):  # "Clearly made in the north."
            return None
        if place and (word in auxiliaries or known):
            return match
        before = word
        if (place and (word in breaks and word not in ("and", "or"))) or place > 11:
            return None
        if sentence[match.end() : match.end() + 1] in (",", ";"):
            return None
    return None


def main_clause(sentence: str) -> int:
    """Return where the main clause begins: after an introduction such as "In 2011, "; else 0."""
    match = patterns.introduction().match(sentence)
    return match.start("main") if match else 0


def _is_verb(word: str, rest: str) -> bool:
    """Tell whether a word is a known finite verb here; a form before "by" is a participle."""
    known = word in patterns.verb_bases() and not re.match(
        r"\s+(?:by|is|are|was|were|has|had|will|shall)\b", rest
    )
    # "the reports", "the records": a noun more often
    if known and patterns.verb_bases()[word][1] == "does":
        return bool(re.match(r"\s+(?:the|an?|its|his|her|their|all|no|any|\d|[A-Z])", rest))
    return known


def _lower_words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)}


def content_words(text: str) -> frozenset[str]:
    """Return the words that carry what a text says, crudely stemmed; numbers as they are."""
    stopwords = patterns.words("stopwords")
    return frozenset(stem(word) for word in _lower_words(text) if word not in stopwords)


def stem(word: str) -> str:
    """Return a word without the commonest endings, so that forms of one word meet."""
    word = word.rstrip(".,%'’-").removesuffix("'s").removesuffix("’s")
    for ending in ("ing", "ies", "ed", "es", "s", "ly", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word
