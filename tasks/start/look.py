"""Surveys a corpus, and again with another setting where the first ones do not suit it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError, one_line
from tasks.core.overlay import overlay
from tasks.start.columns import choose_column, find_tables, tell_tables
from tasks.start.survey import NoPassages, Survey, survey

#: More passages than this share that are too short: the least length is halved.
_MANY_SHORT = 0.25
#: Share of the passages that a least length may drop where one is named.
_DROPPED = 0.1


@dataclass(frozen=True)
class Look:
    """What was found, and the settings of the section ingest that were chosen for it."""

    found: Survey
    chosen: dict[str, Any]
    #: Setting -> why it was chosen, as the profile's comment says it.
    reasons: dict[str, str]
    #: Lines on the tables of the corpus.
    notes: list[str]


def look(
    corpus: Path,
    values: Mapping[str, Any],
    folder: Path,
    tell: Callable[[str], None],
    given: Collection[str],
) -> Look:
    """Survey ``corpus`` with ``values``; choose the text's column and a smaller ``min_tokens``
    where that is needed, but none of the settings of ingest in ``given``.

    Raises :class:`PipelineError` where no passage is kept; it names a setting that would help.
    """
    chosen: dict[str, Any] = {}
    reasons: dict[str, str] = {}

    def progress(_: str, said: str) -> None:
        if said:
            tell(said)

    while True:
        tried = overlay(dict(values), {"ingest": chosen})
        free = {"text_column", "min_tokens"} - {*given, *chosen}
        ingest = tried["ingest"]
        half = ingest["min_tokens"] // 2
        try:
            found = survey(corpus, tried, folder, tell=tell, progress=progress)
        except NoPassages as error:
            counts = _count(error)
            # A stray table among files that cannot be read is not what is wrong.
            if counts.get("no_text_column", 0) == max(counts.values(), default=1):
                column, why = _need_column(corpus, ingest, error, "text_column" in free)
                tell(f"{corpus} again, with the column {column!r}: {why}")
                chosen["text_column"], reasons["text_column"] = column, why
                continue
            if "too_short" not in counts:
                raise
            if "min_tokens" not in free or not half:
                raise _name_tokens(corpus, tried, folder, error) from error
            share = counts["too_short"] / sum(counts.values())
        else:
            cut = len(found.passages) + sum(found.dropped.values())
            share = found.dropped.get("too_short", 0) / max(cut, 1)
            if share <= _MANY_SHORT or "min_tokens" not in free or not half:
                notes = [*_tell_tables(found, ingest), *_tell_short(share, ingest["min_tokens"])]
                return Look(found, chosen, reasons, notes)
        tell(f"{corpus} again, with ingest.min_tokens {half}: {share:.0%} were too short")
        chosen["min_tokens"] = half
        reasons["min_tokens"] = f"least tokens, halved: of the sample {share:.0%} were too short"


def _count(error: NoPassages) -> dict[str, int]:
    """Return reason -> how many were dropped for it, from ingest's message."""
    listed = re.search(r": ([a-z_]+ [\d,]+(?:, [a-z_]+ [\d,]+)*)(?:;|$)", str(error))
    pairs = re.findall(r"([a-z_]+) ([\d,]*\d)", listed[1]) if listed else []
    return {reason: int(count.replace(",", "")) for reason, count in pairs}


def _need_column(
    corpus: Path, ingest: Mapping[str, Any], error: NoPassages, free: bool
) -> tuple[str, str]:
    """Return the column of the text, and why; an error that lists the columns where it is not
    clear.
    """
    tables = find_tables(corpus, ingest.get("follow_links", False))
    column = choose_column(tables) if free else ""
    if column:
        return column, f"the only column of {one_line(tables[0].table)} with long text"
    remedy = "make start ... SET=ingest.text_column=NAME"
    if not tables:  # in an archive: ingest's own message lists the columns
        raise PipelineError(f"{error}; name the column that holds the text: {remedy}") from error
    lists = "; ".join(f"{one_line(table.table)}: {table.names()}" for table in tables[:3])
    raise PipelineError(
        f"{corpus}: its tables have no column {ingest.get('text_column') or 'text'!r} ({lists}): "
        f"name the one that holds the text: {remedy}"
    ) from error


def _name_tokens(
    corpus: Path, values: dict[str, Any], folder: Path, error: NoPassages
) -> PipelineError:
    """Return the error with a least length of passages that keeps nearly all of them."""
    try:
        found = survey(corpus, overlay(values, {"ingest": {"min_tokens": 1}}), folder)
    except NoPassages:
        return error
    tokens = sorted(found.passages["tokens"].to_pylist())
    least = tokens[int(_DROPPED * len(tokens))]
    return PipelineError(
        f"{error}: texts this short need SET=ingest.min_tokens={least}, which keeps nine of ten"
    )


def _tell_short(share: float, least: int) -> list[str]:
    if share <= _MANY_SHORT:
        return []
    return [
        f"{share:.0%} of the passages have fewer than {least} tokens and are left out; "
        f"SET=ingest.min_tokens={least // 2} keeps more of them"
    ]


def _tell_tables(found: Survey, ingest: Mapping[str, Any]) -> list[str]:
    whole = found.formats.keys() & {"csv", "tsv"}
    if ingest.get("text_column") or not (whole or "no_text_column" in found.unread):
        return []
    return tell_tables(find_tables(found.corpus, ingest.get("follow_links", False)))
