"""The training rows that are nearest to an item: by the words of the whole row, by those of its
question and response alone, and by the vectors of the adapted model.

Words and phrases of one to three words are weighed by how rare they are among the rows (TF-IDF).
The orders are joined by rank (reciprocal rank fusion): who leads one of them is near the top.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tasks.core.parquet import Batches
from tasks.core.rows import INSTRUCTIONS

#: Rows that are compared: more would take more than seconds.
MOST = 10_000
#: Rows that are shown for their words, and for their passage; phrases shown of each.
_NEAREST, _SAME_PASSAGE, _SHARED = 8, 4, 6
#: Rows that the model reads, those that lead by their words: 32 take the embedded model three
#: seconds longer, and a first question more than ten.
_EMBEDDED = 16
#: Most words of a phrase.
_PHRASE = 3
#: Words of a run, and the share of an item's runs from which a row's passage counts as the same.
_RUN, _SAME = 5, 0.2
#: Characters of a piece of a passage that is looked for among too many rows.
_PIECE = 40
_WORD = re.compile(r"\w+")
#: Texts -> vectors [texts, width], or None without a model to read them with.
Embed = Callable[[list[str]], NDArray[np.float32] | None]


@dataclass(frozen=True)
class Near:
    """A training row (rows.INSTRUCTIONS) near an item.

    ``similarity`` is the cosine (0-1) of the weighed phrases, ``asked`` that of the question and
    the response alone, ``overlap`` the share (0-1) of the item's runs of five words that the row's
    passage has, ``shared`` the rarest common phrases. ``embedding`` is the cosine (-1 to 1) of the
    model's vectors of question and response, less their mean; None where there are none.
    """

    row: dict[str, Any]
    similarity: float
    asked: float
    overlap: float
    shared: tuple[str, ...]
    embedding: float | None = None


def find_nearest(
    path: Path,
    context: str,
    asked: str,
    seed: int,
    embed: Embed | None = None,
) -> tuple[list[Near], int, int]:
    """Return the nearest rows of a file, the nearest first, how many were compared, and how many
    there are. ``context`` is the item's passage, ``asked`` what is asked and expected. ``embed``
    returns vectors of length 1, or None if it has no model to read with; only the rows that lead by
    their words get one.
    """
    runs = _runs(context)
    rows, total = _choose(path, context, seed)
    if not rows:
        return [], 0, total
    overlaps = np.array([_overlap(runs, row["context"]) for row in rows])
    own = [_own(row) for row in rows]
    told = [f"{row['context']}\n{text}" for row, text in zip(rows, own, strict=True)]
    by_words, shared_of = _compare(told, f"{context}\n{asked}")
    by_asked, _ = _compare(own, asked)
    orders = [_order(by_words), _order(by_asked)]
    near = _join(orders)[:_EMBEDDED]
    vectors: dict[int, float] = {}
    cosines = _embed(embed, [own[place] for place in near], asked) if embed else None
    if cosines is not None:
        vectors = dict(zip(near, cosines, strict=True))
        orders.append(sorted(near, key=lambda place: -vectors[place]))
    by_passage = [place for place in _order(overlaps) if overlaps[place] >= _SAME]
    joined = _join(orders)
    chosen = dict.fromkeys([*joined[:_NEAREST], *by_passage[:_SAME_PASSAGE]])
    found = [
        Near(
            rows[place],
            float(by_words[place]),
            float(by_asked[place]),
            float(overlaps[place]),
            shared_of(place),
            vectors.get(place),
        )
        for place in sorted(chosen, key=joined.index)
        if by_words[place] > 0
    ]
    return found, len(rows), total


def _order(values: Any) -> list[int]:
    """Return the places of the values, the largest first."""
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    return order


def _join(orders: Sequence[Sequence[int]]) -> list[int]:
    """Return the places by the sum of 1 / (10 + rank) over the orders, the highest first."""
    scores: dict[int, float] = {}
    for order in orders:
        for rank, place in enumerate(order):
            scores[place] = scores.get(place, 0.0) + 1 / (10 + rank)
    return sorted(scores, key=lambda place: (-scores[place], place))


def _embed(embed: Embed, texts: list[str], asked: str) -> list[float] | None:
    """Return the cosine of each text with ``asked``, or None without vectors. All vectors of a
    language model point much the same way: their mean is taken off first.
    """
    vectors = embed([*texts, asked])
    if vectors is None:
        return None
    vectors = vectors - vectors[:-1].mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    cosines: list[float] = (vectors[:-1] @ vectors[-1]).tolist()
    return cosines


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


def _compare(told: list[str], text: str) -> tuple[Any, Any]:
    """Return the similarities of ``told`` to ``text``, and a function that names the rarest phrases
    that one of them shares with it.

    They are those of scikit-learn's TfidfVectorizer (phrases of one to three words, sublinear_tf)
    with the phrases of ``text`` as vocabulary: others would cost memory and say nothing about it.
    Importing scikit-learn for this would take longer than everything else here.
    """
    phrases = sorted(_phrases(text))
    if not phrases:
        return np.zeros(len(told)), lambda _: ()
    numbers = {phrase: number for number, phrase in enumerate(phrases)}
    counted = [_count(one, numbers) for one in told]
    rows = np.repeat(np.arange(len(told)), [len(one) for one in counted])
    columns = np.array([number for one in counted for number, _ in one], np.int64)
    counts = np.array([count for one in counted for _, count in one], np.float64)
    having = np.bincount(columns, minlength=len(phrases))
    rarity = np.log((1 + len(told)) / (1 + having)) + 1
    weights = (1 + np.log(counts)) * rarity[columns]
    item = (1 + np.log([count for _, count in _count(text, numbers)])) * rarity
    item /= np.linalg.norm(item)
    products = weights * item[columns]
    lengths = np.sqrt(np.bincount(rows, weights**2, len(told)))
    similarities = np.bincount(rows, products, len(told)) / np.maximum(lengths, 1e-9)

    def shared(place: int) -> tuple[str, ...]:
        own = np.flatnonzero(rows == place)
        order = own[np.argsort(-products[own], kind="stable")]
        found = [f" {phrases[number]} " for number in columns[order].tolist()]
        longest = [
            one for one in found if not any(one in other and one != other for other in found)
        ]
        return tuple(phrase.strip() for phrase in longest[:_SHARED])

    return similarities, shared


def _phrases(text: str) -> set[str]:
    """Return the phrases of one to three words."""
    words = _words(text.lower())
    return {
        " ".join(words[place : place + length])
        for length in range(1, _PHRASE + 1)
        for place in range(len(words) - length + 1)
    }


def _count(text: str, numbers: dict[str, int]) -> list[tuple[int, int]]:
    """Return (number, count) of the phrases that have a number, by number. With a phrase its
    beginnings have one, too.
    """
    words = _words(text.lower())
    counts: Counter[int] = Counter()
    for place in range(len(words)):
        phrase = words[place]
        for after in range(place + 1, place + _PHRASE + 1):
            if phrase not in numbers:
                break
            counts[numbers[phrase]] += 1
            if after == len(words):
                break
            phrase = f"{phrase} {words[after]}"
    return sorted(counts.items())


def _own(row: dict[str, Any]) -> str:
    """Return what a row says besides its passage."""
    return f"{row['instruction'].replace(row['context'], ' ')}\n{row['response']}"
