"""The last pass over all passages: the rules that compare documents, in the order of file names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import Any

from tasks.core.files import fingerprint
from tasks.core.parquet import TableWriter
from tasks.core.rows import PASSAGES, REJECTS
from tasks.core.stage import Stage
from tasks.ingest.boilerplate import Repeated, split_around
from tasks.ingest.cleaning import EvaluationOverlap, Leaks, Seen
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.journal import Journal
from tasks.ingest.readers.document import Unreadable
from tasks.ingest.report import Report
from tasks.ingest.trimming import original
from tasks.ingest.worker import Work, make_counter, shorten_passage
from tasks.scoring.datasets import Item


class Collector:
    """Writes passages and rejects, in bounded memory."""

    def __init__(self, stage: Stage, work: Work, items: Sequence[Item], leaks: Leaks) -> None:
        self._stage, self._work, self._leaks = stage, work, leaks
        self._params = stage.params.ingest
        words = self._params.evaluation_words
        self._overlap = EvaluationOverlap((item.context for item in items), words)
        #: Those of them that the corpus must not have.
        self._held_out = EvaluationOverlap((item.context for item in items if item.held_out), words)
        self._report = Report(stage.work / "report", compared=bool(items))
        self._count = make_counter(work.tokenizer)

    def run(self, journal: Journal, count_unsettled: Callable[[], int]) -> None:
        """Write ``passages.parquet``, ``rejects.parquet``, ``summary.json`` and ``report.html``
        from what the journal holds.

        ``count_unsettled`` is called at the end: what it returns is more than 0 if the stage may
        give another result when it runs again.
        """
        out, work = self._stage.out, self._stage.work
        with ExitStack() as stack:
            self._passages = stack.enter_context(TableWriter(out / "passages.parquet", PASSAGES))
            self._rejects = stack.enter_context(TableWriter(out / "rejects.parquet", REJECTS))
            self._seen = stack.enter_context(
                closing(Seen(work / "seen.sqlite", self._params.near_duplicates))
            )
            self._repeated = stack.enter_context(
                closing(Repeated(work / "lines.sqlite", self._params.boilerplate_share))
            )
            if self._params.boilerplate_share:
                for _, entry in _entries(journal):
                    if "passages" in entry:
                        self._repeated.count(entry)
                self._repeated.finish()
            for document, entry in _entries(journal):
                if "passages" in entry:
                    self._report.document(entry)
                    self._edits(document, entry["edits"])
                    for passage in entry["passages"]:
                        self._passage(document, passage)
                else:
                    self._reject(document, entry["reason"], entry["detail"])
        with closing(self._report):
            self._report.check(self._stage.addresses["corpus"], self._params.text_column)
            self._report.leaked = sorted(self._leaks.found)
            self._report.write(self._stage, count_unsettled())

    def _edits(self, document: str, edits: list[tuple[str, int, int, str]]) -> None:
        """Write what was taken out of a document's text."""
        for kind, start, end, text in edits:
            self._report.trimmed(kind, len(text))
            if text:
                self._reject(document, kind, "", start, end, text)

    def _passage(self, document: str, passage: dict[str, Any]) -> None:
        """Cut the boilerplate out of a passage, and add the rest."""
        spans = self._repeated.spans(passage) if self._params.boilerplate_share else []
        if not spans:
            self._add(document, passage)
            return
        parts = list(split_around(passage, spans))
        detail = f"of {self._repeated.documents} documents it is in {{}}"
        if not parts:
            most = max(documents for *_, documents in spans)
            fault = {"reason": "boilerplate", "detail": detail.format(most)}
            self._add(document, passage | fault)
            return
        for start, end, documents in spans:
            text = passage["text"][start - passage["start"] : end - passage["start"]]
            self._report.removed(len(text))
            place = _place(passage, start, end)
            self._reject(document, "boilerplate", detail.format(documents), *place, text)
        for start, end in parts:
            part = shorten_passage(passage, start, end, self._work, self._count)
            self._add(document, part | {"shifts": passage.get("shifts", [])})

    def _add(self, document: str, passage: dict[str, Any]) -> None:
        row = self._row(document, passage)
        reason, detail = self._judge(row, passage)
        # The detail of a wrong language begins with the language ("de, wanted: en").
        self._report.passage(row, reason, detail.partition(",")[0])
        if reason:
            self._reject(document, reason, detail, row["start"], row["end"], row["text"])
        else:
            self._passages.add(row)
            self._leaks.look(row["text"])

    def _reject(
        self, document: str, reason: str, detail: str, start: int = 0, end: int = 0, text: str = ""
    ) -> None:
        row = {
            "document": document,
            "reason": reason,
            "detail": detail,
            "start": start,
            "end": end,
            "text": text,
        }
        self._rejects.add(row)
        self._report.unused(row)

    def _row(self, document: str, passage: dict[str, Any]) -> dict[str, Any]:
        text = passage["text"]
        start, end = _place(passage, passage["start"], passage["end"])
        return {
            "passage_id": fingerprint(document, start, end, text)[:16],
            "document": document,
            "page": passage["page"],
            "section": passage["section"],
            "start": start,
            "end": end,
            "tokens": passage["tokens"],
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
            "in_evaluation": text in self._overlap,
            "text": text,
        }

    def _judge(self, row: dict[str, Any], passage: dict[str, Any]) -> tuple[str, str]:
        """Return why a passage is not kept, and the detail; two empty strings if it is kept."""
        params = self._params
        if passage["reason"]:
            return passage["reason"], passage["detail"]
        shares = f"shares {params.evaluation_words} words in a row, or all of a shorter passage, "
        if row["in_evaluation"] and row["text"] in self._held_out:
            return "held_out", f"{shares}with a passage that an item holds out"
        if params.drop_evaluation_overlap and row["in_evaluation"]:
            return "in_evaluation", f"{shares}with the evaluation set"
        if params.exact_duplicates and (
            earlier := self._seen.duplicate(bytes.fromhex(passage["same"]), row["passage_id"])
        ):
            return "duplicate", f"same text as passage {earlier}"
        if params.near_duplicates:
            earlier, alike = self._seen.near_duplicate(
                bytes.fromhex(passage["signature"]), row["passage_id"]
            )
            if earlier:
                return "near_duplicate", f"{alike:.2f} similar to passage {earlier}"
        return "", ""


def _place(passage: dict[str, Any], start: int, end: int) -> tuple[int, int]:
    """Return ``start`` and ``end`` as characters of the document as it was read."""
    shifts = passage.get("shifts", [])
    return original(shifts, start), original(shifts, end - 1) + 1


def _entries(journal: Journal) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (name of the document, entry) in the order of the files' names."""
    for file, key in journal.files():
        for entry in journal.entries(key) if key else [_problem_entry(file)]:
            yield file.document(entry["member"]), entry


def _problem_entry(file: CorpusFile) -> dict[str, Any]:
    problem = file.problem or Unreadable("unreadable", "")
    return {"member": "", "reason": problem.reason, "detail": problem.detail}
