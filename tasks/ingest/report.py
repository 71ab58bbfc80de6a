"""The report of an ingestion: the closing log lines, ``summary.json``, and a page of samples and
rejects.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from tasks.core.errors import PipelineError
from tasks.core.files import sha256_file
from tasks.core.page import Page, Tile, stage_links, write_page
from tasks.core.secrets import hide
from tasks.core.stage import Stage
from tasks.ingest.reasons import REASONS

log = logging.getLogger(__name__)

#: Most sample passages, rejects of one reason and characters of a reject on the page. The Parquet
#: files hold all.
_SAMPLES, _SHOWN, _SHOWN_CHARS = 24, 5000, 400
#: Languages that are named in the closing lines and on the page.
_LANGUAGES = 10
_TEMPLATE = Path(__file__).parent / "templates" / "report.html"


class Report:
    """Counts the passages, and keeps what the page shows: samples in memory, rejects in files by
    reason.
    """

    def __init__(self, folder: Path, compared: bool) -> None:
        """``compared``: there is an evaluation set to find passages in."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._compared = folder, compared
        self.formats: Counter[str] = Counter()
        self.encodings: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.masked: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.left_out: Counter[str] = Counter()
        #: Language -> passages that are dropped because they are in it.
        self.languages: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()
        self.taken_characters = 0
        self.cut = self.kept = self.tokens = self.in_evaluation = 0
        #: Labelled items whose question and answer are in the corpus.
        self.leaked: list[str] = []
        self._rejects: Counter[str] = Counter()
        self._first: dict[str, Any] = {}
        self._files: dict[str, IO[str]] = {}
        self._samples: list[tuple[str, dict[str, Any]]] = []

    def document(self, entry: dict[str, Any]) -> None:
        """Count a document; the first of several entries is marked."""
        self.masked.update(entry["masked"])
        self.left_out.update(entry["left_out"])
        if entry["first"]:
            self.formats[entry["format"]] += 1
            if entry["encoding"]:
                self.encodings[entry["encoding"]] += 1

    def removed(self, characters: int) -> None:
        """Count a line that was cut out of a passage."""
        self.lines["lines"] += 1
        self.lines["characters"] += characters

    def trimmed(self, kind: str, characters: int) -> None:
        """Count a piece that was taken out of a document's text, or a join (no characters)."""
        self.taken[kind] += 1
        self.taken_characters += characters

    def passage(self, row: dict[str, Any], reason: str, language: str = "") -> None:
        """Count a passage and why it is dropped (``""``: it is kept); ``language`` is that of a
        passage in none of the wanted ones.
        """
        self.cut += 1
        # Passages dropped for another reason do not count: only those kept, or dropped for it.
        self.in_evaluation += row["in_evaluation"] and reason in ("", "in_evaluation", "held_out")
        if reason:
            self.dropped[reason] += 1
            self.languages.update([language] if reason == "language" else [])
            return
        self.kept += 1
        self.tokens += row["tokens"]
        # The passages with the smallest hashes: the same random sample in every run, without
        # keeping all passages.
        self._samples.append((row["sha256"], row))
        if len(self._samples) > 50 * _SAMPLES:
            self._trim()

    def unused(self, row: dict[str, Any]) -> None:
        """Count a reject: a file or part not read, a dropped passage, or a line cut out."""
        reason = row["reason"]
        if not row["end"]:
            self.unread[reason] += 1
        if reason not in self.taken:
            self._first = self._first or row
        self._rejects[reason] += 1
        if self._rejects[reason] <= _SHOWN:
            if reason not in self._files:
                self._files[reason] = self._spool(reason).open("w", encoding="utf-8")
            self._files[reason].write(json.dumps(_reject(row)) + "\n")

    def check(self, corpus: str, text_column: str) -> None:
        """Raise :class:`PipelineError` with all counts where no passage is kept."""
        if self.kept:
            return
        first = self._first
        example = (
            f"; the first: {first['document']}: {first['reason']}, {first['detail']}"
            if first
            else ""
        )
        if not self.cut:
            hint = (
                f" (ingest.text_column is {text_column or 'text'!r})"
                if self.unread["no_text_column"]
                else ""
            )
            raise PipelineError(
                f"no readable document in {corpus}: "
                f"{format_counts(self.unread) or 'no text'}{example}{hint}"
            )
        raise PipelineError(
            f"no passage of {corpus} is kept: {format_counts(self.dropped)}{example}; see the "
            "ingest section of the parameters"
        )

    def write(self, stage: Stage, unsettled: int) -> None:
        """Write ``summary.json`` and ``report.html``, and log the closing lines.

        ``unsettled`` are the files that may give another result in the next run.
        """
        facts = {
            "documents": sum(self.formats.values()),
            "formats": dict(self.formats),
            "encodings": dict(self.encodings),
            "unread": dict(self.unread),
            "tokens": self.tokens,
            "in_evaluation": self.in_evaluation if self._compared else None,
            "leaked_items": len(self.leaked) if self._compared else None,
            "masked": dict(self.masked),
            "boilerplate": dict(self.lines),
            "left_out": dict(self.left_out),
            "other_languages": dict(self.languages),
            "trimmed": dict(self.taken),
            "trimmed_characters": self.taken_characters,
            "unsettled": unsettled,
            "passages_sha256": sha256_file(stage.out / "passages.parquet"),
        }
        stage.summary(self.cut, self.kept, dict(self.dropped), **facts)
        for file in self._files.values():
            file.close()
        self._write_page(stage)
        for name, value in self._facts():
            log.info("%-20s %s", name, value)
        if self.leaked:
            log.warning(
                "the corpus has the question and an answer of %d labelled items: %s",
                len(self.leaked),
                ", ".join(self.leaked[:5]) + (" ..." if len(self.leaked) > 5 else ""),
            )
        if unsettled:
            log.warning(
                "%d files were not read, or changed meanwhile: the next run tries again", unsettled
            )

    def close(self) -> None:
        """Delete what was kept for the page."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "documents", f"{sum(self.formats.values()):,}: {format_counts(self.formats)}"
        yield "encodings", format_counts(self.encodings) or "set by the formats"
        yield "passages", f"{self.kept:,} kept of {self.cut:,}, {self.tokens:,} tokens"
        yield "passages dropped", format_counts(self.dropped) or "none"
        if self.languages:
            yield (
                "other languages",
                f"{format_counts(self.languages, _LANGUAGES)} (passages, dropped)",
            )
        yield "not read", format_counts(self.unread) or "none"
        yield (
            "boilerplate cut out",
            f"{self.lines['lines']:,} lines, {self.lines['characters']:,} characters"
            if self.lines
            else "none",
        )
        yield "left out by readers", format_counts(self.left_out) or "none"
        yield "taken out, joined", self._taken()
        yield "in the evaluation", self._overlap()
        if self.masked:
            yield "masked", format_counts(self.masked)

    def _overlap(self) -> str:
        """Return how many passages are also in the evaluation set, in words."""
        if not self._compared:
            return "not checked"
        return f"{self.in_evaluation:,} passages" if self.in_evaluation else "none"

    def _taken(self) -> str:
        """Return what was taken out of the text, and how many clause numbers were joined."""
        if not self.taken:
            return "none"
        return f"{format_counts(self.taken)}; {self.taken_characters:,} characters"

    def _trim(self) -> None:
        self._samples = sorted(
            self._samples, key=lambda sample: (sample[0], sample[1]["passage_id"])
        )[:_SAMPLES]

    def _write_page(self, stage: Stage) -> None:
        self._trim()
        # Elsewhere it is a look at a corpus, which no other stage follows.
        in_a_run = stage.place.parts[-2:] == ("artifacts", "ingest")
        page = Page(
            "Ingest",
            "The passages that the documents were cut into, and what of them was not used.",
            tiles=(
                Tile("Documents", f"{sum(self.formats.values()):,}"),
                Tile("Passages kept", f"{self.kept:,}", f"of {self.cut:,}"),
                Tile("Tokens", f"{self.tokens:,}"),
                Tile("Not read", f"{self.unread.total():,}", tone="warn" if self.unread else ""),
            ),
            facts=(("corpus", hide(stage.addresses["corpus"])), *self._facts()),
            links=stage_links("ingest") if in_a_run else (),
        )
        write_page(
            stage.out / "report.html",
            _TEMPLATE,
            page,
            kept=self.kept,
            samples=[(_place(row), row["text"]) for _, row in self._samples],
            unused=self._rejects.total(),
            reasons=[
                {
                    "name": reason,
                    "meaning": REASONS.get(reason, ""),
                    "count": count,
                    "shown": _SHOWN,
                    "rows": self._rows(reason),
                }
                # Files that were not read come first: people look for them.
                for reason, count in sorted(
                    _most_frequent(self._rejects), key=lambda item: item[0] not in self.unread
                )
            ],
        )

    def _spool(self, reason: str) -> Path:
        return self._folder / f"{reason}.jsonl"

    def _rows(self, reason: str) -> Iterator[dict[str, str]]:
        """Yield the rejects of the page from their file, as they may be many."""
        with self._spool(reason).open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def format_counts(counts: Mapping[str, int], most: int = 0) -> str:
    """Return ``text 19, pdf 12``, the most frequent first; beyond ``most`` names (0: all) how many
    others there are, and their sum.
    """
    ordered = _most_frequent(counts)
    most = most or len(ordered)
    shown = [f"{name} {count:,}" for name, count in ordered[:most]]
    rest = sum(count for _, count in ordered[most:])
    return ", ".join([*shown, *([f"{len(ordered) - most} others {rest:,}"] if rest else [])])


def _most_frequent(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _reject(row: dict[str, Any]) -> dict[str, str]:
    place = f"{row['document']} [{row['start']}:{row['end']}]" if row["end"] else row["document"]
    text = row["text"] if len(row["text"]) <= _SHOWN_CHARS else row["text"][:_SHOWN_CHARS] + " ..."
    return {"place": place, "detail": row["detail"], "text": text}


def _place(row: dict[str, Any]) -> str:
    parts = (
        row["document"],
        f"page {row['page']}" if row["page"] else "",
        row["section"],
        f"characters {row['start']}-{row['end']}",
        f"{row['tokens']} tokens",
    )
    return " · ".join(part for part in parts if part)
