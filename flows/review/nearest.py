"""The training rows that share most with an item: rare words in a row, and the passage itself.

Words and phrases of one to three words are weighed by how rare they are among the rows (TF-IDF).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.parquet import Batches
from tasks.core.rows import INSTRUCTIONS

#: Rows that are compared: more would take more than seconds.
MOST = 10_000
#: Rows that are shown for their words, and for their passage; phrases shown of each.
_NEAREST, _SAME_PASSAGE, _SHARED = 8, 4, 6
#: Words of a run, and the share of an item's runs from which a row's passage counts as the same.
_RUN, _SAME = 5, 0.2
#: Characters of a piece of a passage that is looked for among too many rows.
_PIECE = 40
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Near:
    """A training row (rows.INSTRUCTIONS) near an item.

    ``similarity`` is the cosine (0-1) of the weighed phrases, ``overlap`` the share (0-1) of the
    item's runs of five words that the row's passage has, ``shared`` the rarest common phrases.
    """

    row: dict[str, Any]
    similarity: float
    overlap: float
    shared: tuple[str, ...]


def find_nearest(path: Path, context: str, text: str, seed: int) -> tuple[list[Near], int, int]:
    """Return the nearest rows of a file, the nearest first, how many were compared, and how many
    there are. ``context`` is the item's passage, ``text`` everything of the item.
    """
    runs = _runs(context)
    rows, total = _choose(path, context, seed)
    if not rows:
        return [], 0, total
    overlaps = np.array([_overlap(runs, row["context"]) for row in rows])
    similarities, shared_of = _compare(rows, text)
    by_words = np.argsort(-similarities, kind="stable")[:_NEAREST]
    by_passage = [
        place for place in np.argsort(-overlaps, kind="stable").tolist() if overlaps[place] >= _SAME
    ]
    chosen = dict.fromkeys([*by_words.tolist(), *by_passage[:_SAME_PASSAGE]])
    found = [
        Near(rows[place], float(similarities[place]), float(overlaps[place]), shared_of(place))
        for place in chosen
        if similarities[place] > 0
    ]
    return sorted(found, key=lambda near: -near.similarity), len(rows), total


def _choose(path: Path, context: str, seed: int) -> tuple[list[dict[str, Any]], int]:
    """Return all rows, or of too many every n-th and those that hold a piece of the passage."""
    total = len(Batches(path, INSTRUCTIONS))
    step = max(1, math.ceil(total / MOST))
    pieces = _pieces(context)
    rows: list[dict[str, Any]] = []
    seen = 0
    for batch in Batches(path, INSTRUCTIONS):
        chosen = (np.arange(seen, seen + len(batch)) + seed) % step == 0
        for piece in pieces if step > 1 else ():
            chosen |= pc.match_substring(batch["context"], piece).to_numpy()
        rows += batch.filter(pa.array(chosen)).to_pylist() if len(rows) < 2 * MOST else []
        seen += len(batch)
    return rows, total


def _pieces(context: str) -> list[str]:
    """Return three pieces of a passage, as they are written in it."""
    starts = (0, len(context) // 2, max(len(context) - _PIECE, 0))
    pieces = {context[start : start + _PIECE] for start in starts}
    return sorted(piece for piece in pieces if len(piece) == _PIECE)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _runs(text: str) -> set[str]:
    words = _words(text.lower())
    return {" ".join(words[place : place + _RUN]) for place in range(len(words) - _RUN + 1)}


def _overlap(runs: set[str], context: str) -> float:
    return len(runs & _runs(context)) / len(runs) if runs else 0.0


def _compare(rows: list[dict[str, Any]], text: str) -> tuple[Any, Any]:
    """Return the rows' similarities to ``text``, and a function that names the rarest phrases that
    a row shares with it.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]

    told = [f"{row['context']}\n{_own(row)}" for row in rows]
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 3), sublinear_tf=True, tokenizer=_words, token_pattern=None
    )
    asked = vectorizer.build_analyzer()(text)
    if not asked:
        return np.zeros(len(rows)), lambda _: ()
    # Only the item's phrases count: others would cost memory and say nothing about it.
    vectorizer.set_params(vocabulary=sorted(set(asked)))
    weights = vectorizer.fit_transform(told)
    item = vectorizer.transform([text])
    similarities = np.asarray((weights @ item.T).todense()).ravel()
    phrases = vectorizer.get_feature_names_out()

    def shared(place: int) -> tuple[str, ...]:
        product = weights[place].multiply(item).tocsr()
        order = np.argsort(-product.data, kind="stable")
        found = [f" {phrases[place]} " for place in product.indices[order].tolist()]
        longest = [
            one for one in found if not any(one in other and one != other for other in found)
        ]
        return tuple(phrase.strip() for phrase in longest[:_SHARED])

    return similarities, shared


def _own(row: dict[str, Any]) -> str:
    """Return what a row says besides its passage."""
    return f"{row['instruction'].replace(row['context'], ' ')}\n{row['response']}"
