"""ingest: documents into passages of a token budget, each with its place in its document, every unused one with its reason.

    python -m tasks.ingest --params params.yaml --corpus FOLDER --evaluation ITEMS --out artifacts/ingest

Files are read and cut in processes of their own (``tasks.documents``) whose results are kept in a journal; then the passages go by once, in the
order of the files' names, past the rules that look at more than one document. Nothing here depends on which process did what, or when.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.dataset import load_dataset, load_items
from tasks.documents import pool
from tasks.documents.cleaning import EvaluationOverlap, Seen
from tasks.documents.discovery import Found, discover
from tasks.documents.document import Options, Unreadable
from tasks.documents.journal import Journal
from tasks.documents.output import Report, Rows
from tasks.documents.worker import Work
from tasks.errors import PipelineError
from tasks.files import fingerprint, sha256_file
from tasks.params import Ingest
from tasks.rows import PASSAGES, REJECTS
from tasks.stage import Stage, run_stage

log = logging.getLogger(__name__)

#: Libraries whose version changes what is extracted: part of the key under which a file's result is kept.
_LIBRARIES = ("charset-normalizer", "lxml", "py3langid", "pypdfium2", "python-docx", "rensa", "semchunk", "striprtf", "tokenizers", "trafilatura")


def ingest(stage: Stage) -> None:
    """Write ``passages.parquet``, ``rejects.parquet``, ``summary.json`` and ``report.html``."""
    params = stage.params.ingest
    overlap = EvaluationOverlap(_evaluation_passages(Path(stage.params.evaluate.dataset), stage.path("evaluation")), params.evaluation_words)
    files = discover(stage.path("corpus"), params.follow_links)
    work = _work(params, _tokenizer(*tokenizer_name(stage)))
    with closing(Journal(stage.work / "journal.sqlite")) as journal:
        keyed = _keyed(files, work)
        _read_new(stage, keyed, journal, work)
        journal.keep(key for _, key in keyed)
        _collect(stage, keyed, journal, overlap)


def _work(params: Ingest, tokenizer: str) -> Work:
    options = Options(text_column=params.text_column, max_bytes=params.max_file_mb << 20)
    return Work(
        tokenizer,
        options,
        params.passage_tokens,
        params.min_tokens,
        near_duplicates=params.near_duplicates > 0,
        languages=params.languages,
        mask=params.mask_personal_data,
    )


def tokenizer_name(stage: Stage) -> tuple[str, str]:
    """Return name and revision of the model whose tokenizer counts a passage's tokens."""
    own, generate = stage.params.ingest.tokenizer, stage.params.generate
    return (own, "main") if own else (generate.generator, generate.revision)


def _tokenizer(generator: str, revision: str) -> str:
    """Return the generator's own tokenizer as JSON: what the reading processes need, without the model library around it."""
    from tasks.models import load_tokenizer

    tokenizer = load_tokenizer(generator, revision)
    if not getattr(tokenizer, "is_fast", False):
        raise PipelineError(f"the tokenizer of {generator} has no tokenizer.json: convert it with transformers' save_pretrained, or choose another generator")
    return str(tokenizer.backend_tokenizer.to_str())


def _evaluation_passages(dataset: Path, items: Path) -> Iterator[str]:
    """Yield the passages of the labelled items. They are read as evaluate will read them, so that a bad one is told of before any work is done."""
    yield from (item.context for item in load_items(load_dataset(dataset), items))


def _keyed(files: list[Found], work: Work) -> list[tuple[Found, str]]:
    """Pair every file with the key of its result: content, kind, parameters and code. A file that cannot be opened gets its problem."""
    basis = fingerprint(work.to_json(), _code_version())

    def key(file: Found) -> tuple[Found, str]:
        if file.problem:
            return file, ""
        try:
            return file, fingerprint(sha256_file(file.path), "".join(file.path.suffixes[-2:]).lower(), basis)
        except OSError as error:
            return Found(file.name, file.path, Unreadable("unreadable", f"{error.strerror}")), ""

    with ThreadPoolExecutor(max_workers=4) as threads:
        return list(threads.map(key, files))


def _code_version() -> str:
    folder = Path(pool.__file__).parent
    return fingerprint(*(sha256_file(path) for path in sorted(folder.glob("*.py"))), *(f"{name} {version(name)}" for name in _LIBRARIES), sys.version_info[:2])


def _read_new(stage: Stage, keyed: list[tuple[Found, str]], journal: Journal, work: Work) -> None:
    """Read the files that the journal does not know."""
    params, done = stage.params.ingest, journal.keys()
    jobs = {key: file.path for file, key in keyed if key and key not in done}
    progress = stage.progress(len(keyed), "files")
    progress.skip(len(keyed) - len(jobs))
    if done and len(jobs) < len(keyed):
        log.info("%d of %d files are done already", len(keyed) - len(jobs), len(keyed))
    workers = params.workers or os.cpu_count() or 1
    numbers: Counter[str] = Counter()
    finished, shown = 0, time.monotonic()
    for outcome in pool.run(list(jobs.items()), work, workers, pool.Limits(params.file_seconds, params.file_memory_mb)):
        journal.add(outcome.key, numbers[outcome.key], outcome.part)
        numbers[outcome.key] += 1
        if outcome.done:
            journal.finish(outcome.key, outcome.final)
            finished += 1
            # Showing progress costs a write to the disk; small files go by faster than that.
            if time.monotonic() - shown > 1:
                progress.advance(finished)
                finished, shown = 0, time.monotonic()
    if finished:
        progress.advance(finished)


def _collect(stage: Stage, keyed: list[tuple[Found, str]], journal: Journal, overlap: EvaluationOverlap) -> None:
    """Pass every document by, in order, and write what is kept and what is not."""
    params = stage.params.ingest
    passages, rejects = Rows(stage.out / "passages.parquet", PASSAGES), Rows(stage.out / "rejects.parquet", REJECTS)
    seen = Seen(stage.work / "seen.sqlite", params.near_duplicates)
    report = Report()
    with closing(passages), closing(rejects), closing(seen):
        for file, key in keyed:
            for entry in journal.entries(key) if key else [_problem_entry(file)]:
                document = file.name + entry["member"]
                if "passages" not in entry:
                    report.unused(rejects.add(document=document, reason=entry["reason"], detail=entry["detail"], start=0, end=0, text=""))
                    continue
                report.document(entry)
                for passage in entry["passages"]:
                    row = _row(document, passage, overlap)
                    reason, detail = _judge(row, passage, seen, params)
                    report.passage(row, reason)
                    if reason:
                        report.unused(rejects.add(document=document, reason=reason, detail=detail, start=row["start"], end=row["end"], text=row["text"]))
                    else:
                        passages.add(**row)
    report.check(stage.path("corpus"), params.text_column)
    report.write(stage)


def _problem_entry(file: Found) -> dict[str, Any]:
    problem = file.problem or Unreadable("unreadable", "")
    return {"member": "", "reason": problem.reason, "detail": problem.detail}


def _row(document: str, passage: dict[str, Any], overlap: EvaluationOverlap) -> dict[str, Any]:
    text = passage["text"]
    return {
        "passage_id": fingerprint(document, passage["start"], passage["end"], text)[:16],
        "document": document,
        "page": passage["page"],
        "section": passage["section"],
        "start": passage["start"],
        "end": passage["end"],
        "tokens": passage["tokens"],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        "in_evaluation": text in overlap,
        "text": text,
    }


def _judge(row: dict[str, Any], passage: dict[str, Any], seen: Seen, params: Ingest) -> tuple[str, str]:
    """Return why a passage is not kept and the particulars, or two empty strings."""
    if passage["reason"]:
        return passage["reason"], passage["detail"]
    if params.drop_evaluation_overlap and row["in_evaluation"]:
        return "in_evaluation", f"shares {params.evaluation_words} words in a row, or all of a shorter passage, with the evaluation set"
    if earlier := seen.duplicate(bytes.fromhex(passage["same"]), row["passage_id"]):
        return "duplicate", f"same text as passage {earlier}"
    if params.near_duplicates:
        earlier, alike = seen.near_duplicate(bytes.fromhex(passage["signature"]), row["passage_id"])
        if earlier:
            return "near_duplicate", f"{alike:.2f} similar to passage {earlier}"
    return "", ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return run_stage("ingest", ingest, ("corpus", "evaluation"), argv)


if __name__ == "__main__":
    sys.exit(main())
