"""The languages that texts are in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def detect_language(text: str) -> str:
    """Return the ISO 639-1 code of the language ``text`` is most likely in."""
    from py3langid.langid import classify

    return str(classify(text)[0])


def count_languages(texts: Iterable[str]) -> dict[str, int]:
    """Return language -> how many of the texts are most likely in it, the commonest first."""
    return dict(Counter(map(detect_language, texts)).most_common())
