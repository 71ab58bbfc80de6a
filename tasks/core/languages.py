"""The languages that texts are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of the language ``text`` is most likely in.

    A text in capitals is read in small letters: the detector, which knows few capitals, takes a
    fifth of such English passages for another language.
    """
    from py3langid.langid import classify

    capitals, small = sum(map(str.isupper, text)), sum(map(str.islower, text))
    return str(classify(text.lower() if capitals > small else text)[0])


def count_languages(texts: Iterable[str]) -> dict[str, int]:
    """Return language -> how many of the texts are most likely in it, the commonest first."""
    return dict(Counter(map(detect_language, texts)).most_common())
