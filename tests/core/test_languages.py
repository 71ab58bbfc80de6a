"""The language of a text: published clauses of contracts, and of other texts."""

from __future__ import annotations

import pytest

from tasks.core.languages import detect_language

_CAPITALS = [
    "EXCEPT AS EXPRESSLY STATED IN THIS AGREEMENT, NEITHER PARTY MAKES ANY REPRESENTATIONS OR "
    "WARRANTIES OF ANY KIND WITH RESPECT TO THE SUBJECT MATTER HEREOF, INCLUDING BUT NOT LIMITED "
    "TO THE IMPLIED WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE OR ANY LEVEL "
    "OF BUSINESS OR SERVICE. c. LIMITATIONS ON LIABILITY.",
    "(a) IN NO EVENT SHALL A PARTY BE LIABLE FOR ANY PUNITIVE, EXEMPLARY, INDIRECT, INCIDENTAL, "
    "SPECIAL, OR CONSEQUENTIAL DAMAGES OR EXPENSES, INCLUDING LOSS OF PROFITS, REVENUE, DATA, OR "
    "USE, EVEN IF SUCH PARTY HAS BEEN ADVISED OF THE POSSIBILITY OF SUCH DAMAGES;",
]


@pytest.mark.parametrize("text", _CAPITALS)
def test_capitals_are_the_language_that_they_are_written_in(text: str) -> None:
    """The detector was trained on small letters: it takes English capitals for Lingala, Igbo."""
    assert detect_language(text) == "en"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Der Vertrag wird auf unbestimmte Zeit geschlossen und kann gekündigt werden.", "de"),
        ("DER VERTRAG WIRD AUF UNBESTIMMTE ZEIT GESCHLOSSEN UND KANN GEKÜNDIGT WERDEN.", "de"),
        ("договор заключён на неопределённый срок и может быть расторгнут сторонами", "ru"),
        ("12 345 / 678", "zxx"),
    ],
)
def test_other_texts_keep_their_language(text: str, code: str) -> None:
    assert detect_language(text) == code
