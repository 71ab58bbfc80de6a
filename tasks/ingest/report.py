"""What a person sees of an ingestion: the closing lines, ``summary.json``, and a page of samples
and rejects that needs nothing from elsewhere.
"""

from __future__ import annotations

import html
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path
from tasks.core.stage import Stage
from tasks.ingest.reasons import REASONS

log = logging.getLogger(__name__)

#: What the page shows: sample passages, rejects of one reason, characters of a reject. The Parquet
#: files hold everything.
_SAMPLES, _SHOWN, _SHOWN_CHARS = 24, 5000, 400
_STYLE = (
    ":root{color-scheme:light dark;--line:#ddd;--soft:#f6f6f6;--dim:#666}"
    "@media(prefers-color-scheme:dark){:root{--line:#444;--soft:#262626;--dim:#aaa}body{background:#181818;color:#ddd}}"
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 "
    "1rem}h2{margin-top:2.5rem}"
    "table{border-collapse:collapse;width:100%;table-layout:fixed}td,th{border-bottom:1px "
    "solid var(--line);padding:.3rem .6rem .3rem 0;"
    "text-align:left;vertical-align:top;overflow-wrap:anywhere}.facts "
    "th{width:11rem;font-weight:600}"
    "pre{white-space:pre-wrap;overflow-wrap:anywhere;background:var(--soft);"
    "padding:.8rem;margin:.2rem 0 1.4rem}"
    "p{margin:.2rem "
    "0;overflow-wrap:anywhere}.dim{color:var(--dim)}summary{cursor:pointer;padding:.4rem "
    "0}details{border-bottom:1px solid var(--line)}"
    "details tr{content-visibility:auto}"
    "@media(max-width:40rem){.facts th{width:7.5rem}.rejects tr,.rejects "
    "td{display:block;border:0;padding:.1rem 0}"
    ".rejects tr{border-top:1px solid var(--line);padding:.4rem 0}.rejects thead{display:none}}"
)


class Report:
    """Counts while the passages go by, and keeps what the page shows: samples in memory, rejects in
    files by reason.
    """

    def __init__(self, folder: Path, compared: bool) -> None:
        """``compared``: there is an evaluation set, and passages are looked for in it."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._folder, self._compared = folder, compared
        self.formats: Counter[str] = Counter()
        self.encodings: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.masked: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        self.cut = self.kept = self.tokens = self.in_evaluation = 0
        self._rejects: Counter[str] = Counter()
        self._first: dict[str, Any] = {}
        self._files: dict[str, IO[str]] = {}
        self._samples: list[tuple[str, dict[str, Any]]] = []

    def document(self, entry: dict[str, Any]) -> None:
        """Count a document; a long one comes in several entries, the first marked."""
        self.masked.update(entry["masked"])
        if entry["first"]:
            self.formats[entry["format"]] += 1
            if entry["encoding"]:
                self.encodings[entry["encoding"]] += 1

    def removed(self, characters: int) -> None:
        """Count a line cut out of a passage that is kept, or judged by what is left of it."""
        self.lines["lines"] += 1
        self.lines["characters"] += characters

    def passage(self, row: dict[str, Any], reason: str) -> None:
        """Count a passage and why it is dropped (``""``: it is kept)."""
        self.cut += 1
        # Those dropped for another reason are left out: the count is that of the rows that have
        # the flag, kept or dropped for it.
        self.in_evaluation += row["in_evaluation"] and reason in ("", "in_evaluation")
        if reason:
            self.dropped[reason] += 1
            return
        self.kept += 1
        self.tokens += row["tokens"]
        # The passages with the smallest hashes: a sample of the whole that is the same in every
        # run, kept without holding the rest.
        self._samples.append((row["sha256"], row))
        if len(self._samples) > 50 * _SAMPLES:
            self._trim()

    def unused(self, row: dict[str, Any]) -> None:
        """Note a reject: a file or part that was not read, a dropped passage, or a line cut out."""
        reason = row["reason"]
        if not row["end"]:
            self.unread[reason] += 1
        self._first = self._first or row
        self._rejects[reason] += 1
        if self._rejects[reason] <= _SHOWN:
            if reason not in self._files:
                self._files[reason] = (self._folder / f"{reason}.html").open("w", encoding="utf-8")
            self._files[reason].write(_reject(row))

    def check(self, corpus: str, text_column: str) -> None:
        """Raise :class:`PipelineError` where nothing is left to work with, saying what became of
        everything.
        """
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
                f"{_counted(self.unread) or 'no text'}{example}{hint}"
            )
        raise PipelineError(
            f"no passage of {corpus} is kept: {_counted(self.dropped)}{example}; see the "
            "ingest section of the parameters"
        )

    def write(self, stage: Stage) -> None:
        """Write ``summary.json`` and ``report.html``, and log the closing lines."""
        facts = {
            "documents": sum(self.formats.values()),
            "formats": dict(self.formats),
            "encodings": dict(self.encodings),
            "unread": dict(self.unread),
            "tokens": self.tokens,
            "in_evaluation": self.in_evaluation if self._compared else None,
            "masked": dict(self.masked),
            "boilerplate": dict(self.lines),
        }
        stage.summary(self.cut, self.kept, dict(self.dropped), **facts)
        for file in self._files.values():
            file.close()
        with (
            atomic_path(stage.out / "report.html") as path,
            path.open("w", encoding="utf-8") as page,
        ):
            page.writelines(self._page())
        for name, value in self._facts():
            log.info("%-20s %s", name, value)

    def close(self) -> None:
        """Delete what was kept for the page."""
        for file in self._files.values():
            file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _facts(self) -> Iterator[tuple[str, str]]:
        yield "documents", f"{sum(self.formats.values()):,}: {_counted(self.formats)}"
        yield "encodings", _counted(self.encodings) or "set by the formats"
        yield "passages", f"{self.kept:,} kept of {self.cut:,}, {self.tokens:,} tokens"
        yield "passages dropped", _counted(self.dropped) or "none"
        yield "not read", _counted(self.unread) or "none"
        yield (
            "boilerplate cut out",
            f"{self.lines['lines']:,} lines, {self.lines['characters']:,} characters"
            if self.lines
            else "none",
        )
        yield "in the evaluation", self._overlap()
        if self.masked:
            yield "masked", _counted(self.masked)

    def _overlap(self) -> str:
        """Say how many of the passages that are kept are also in the evaluation set."""
        if not self._compared:
            return "not checked"
        return f"{self.in_evaluation:,} passages" if self.in_evaluation else "none"

    def _trim(self) -> None:
        self._samples = sorted(
            self._samples, key=lambda sample: (sample[0], sample[1]["passage_id"])
        )[:_SAMPLES]

    def _page(self) -> Iterator[str]:
        self._trim()
        yield (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            'content="width=device-width,initial-scale=1">'
        )
        yield (
            f"<title>ingest</title><style>{_STYLE}</style></head><body><h1>ingest</h1><table "
            "class=facts>"
        )
        for name, value in self._facts():
            yield f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        yield (
            f"</table><h2>Sample passages</h2><p class=dim>{len(self._samples)} of "
            f"{self.kept:,}, chosen by their hashes: the same in every run.</p>"
        )
        yield from (_sample(row) for _, row in self._samples)
        yield f"<h2>Not used ({sum(self._rejects.values()):,})</h2>"
        for reason, count in sorted(self._rejects.items(), key=lambda item: (-item[1], item[0])):
            yield from self._reason(reason, count)
        yield "</body></html>\n"

    def _reason(self, reason: str, count: int) -> Iterator[str]:
        shown = (
            f" The first {_SHOWN:,} are shown; rejects.parquet has all." if count > _SHOWN else ""
        )
        yield (
            f"<details{' open' if count <= 200 else ''}><summary><b>{html.escape(reason)}</b> "
            f"{count:,} "
        )
        yield (
            "<span "
            f"class=dim>{html.escape(REASONS.get(reason, ''))}.{shown}</span></summary><table "
            "class=rejects>"
        )
        yield "<thead><tr><th>document</th><th>detail</th><th>text</th></tr></thead>"
        with (self._folder / f"{reason}.html").open(encoding="utf-8") as rows:
            yield from iter(lambda: rows.read(1 << 16), "")
        yield "</table></details>"


def _counted(counts: Counter[str]) -> str:
    return ", ".join(
        f"{name} {count:,}"
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def _reject(row: dict[str, Any]) -> str:
    place = f"{row['document']} [{row['start']}:{row['end']}]" if row["end"] else row["document"]
    text = row["text"] if len(row["text"]) <= _SHOWN_CHARS else row["text"][:_SHOWN_CHARS] + " ..."
    cells = (f"<td>{html.escape(cell)}</td>" for cell in (place, row["detail"], text))
    return f"<tr>{''.join(cells)}</tr>\n"


def _sample(row: dict[str, Any]) -> str:
    place = [
        row["document"],
        f"page {row['page']}" if row["page"] else "",
        row["section"],
        f"characters {row['start']}-{row['end']}",
        f"{row['tokens']} tokens",
    ]
    shown = html.escape(" · ".join(part for part in place if part))
    return f"<p>{shown}</p><pre>{html.escape(row['text'])}</pre>"
