"""ingest: documents into passages of a token budget, each with its place in its document, every
unused one with its reason.

    python -m tasks.ingest --params params.yaml [--corpus FOLDER] [--evaluation ITEMS]
        --out artifacts/ingest

Files are read and cut in processes of their own (``tasks.documents``) whose results are kept in a
journal; then the passages go by once, in the order of the files' names, past the rules that look at
more than one document. Nothing here depends on which process did what, or when.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePath

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.params import Ingest
from tasks.core.pool import Limits
from tasks.core.stage import Stage, run_stage
from tasks.core.store import work_key
from tasks.ingest.cleaning import EvaluationOverlap
from tasks.ingest.collect import Collector
from tasks.ingest.discovery import Found
from tasks.ingest.journal import Journal
from tasks.ingest.readers import ocr
from tasks.ingest.readers.document import Options, Unreadable
from tasks.ingest.sources import Source, open_source
from tasks.ingest.worker import Work, read_files, reject
from tasks.scoring.datasets import load_dataset, load_items

log = logging.getLogger(__name__)

#: Libraries whose version changes what is extracted: part of the key under which a file's result is
#: kept.
_LIBRARIES = (
    "charset-normalizer",
    "lxml",
    "py3langid",
    "pypdfium2",
    "python-docx",
    "rensa",
    "semchunk",
    "striprtf",
    "tokenizers",
    "trafilatura",
)
#: Files that are listed, or fetched ahead of the processes that read them, at a time.
_LISTED, _AHEAD = 2000, 8


def ingest(stage: Stage) -> None:
    """Write ``passages.parquet``, ``rejects.parquet``, ``summary.json`` and ``report.html``."""
    params, staging = stage.params.ingest, stage.work / "staging"
    overlap = EvaluationOverlap(_evaluation_passages(stage), params.evaluation_words)
    work = _work(params, _tokenizer(*tokenizer_name(stage)))
    source = open_source(
        stage.addresses["corpus"], staging, params.text_column or "text", params.follow_links
    )
    try:
        with closing(Journal(stage.work / "journal.sqlite")) as journal:
            _list(source, journal, work)
            _read_new(stage, source, journal, work)
            Collector(stage, work, overlap).run(journal)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _work(params: Ingest, tokenizer: str) -> Work:
    options = Options(
        text_column=params.text_column,
        max_bytes=params.max_file_mb << 20,
        ocr=ocr.checked(params.ocr_languages) if params.ocr else "",
    )
    return Work(
        tokenizer,
        options,
        params.passage_tokens,
        params.min_tokens,
        near_duplicates=params.near_duplicates > 0,
        languages=params.languages,
        mask=params.mask_personal_data,
        lines=params.boilerplate_share > 0,
    )


def tokenizer_name(stage: Stage) -> tuple[str, str]:
    """Return name and revision of the model whose tokenizer counts a passage's tokens."""
    own, generate = stage.params.ingest.tokenizer, stage.params.generate
    return (own, "main") if own else (generate.generator, generate.revision)


def _tokenizer(generator: str, revision: str) -> str:
    """Return the generator's own tokenizer as JSON: what the reading processes need, without the
    model library around it.
    """
    from tasks.lm.models import tokenizer_json

    tokenizer = tokenizer_json(generator, revision)
    if not tokenizer:
        raise PipelineError(
            f"the tokenizer of {generator} has no tokenizer.json: convert it with "
            "transformers' save_pretrained, or choose another generator"
        )
    return tokenizer


def _evaluation_passages(stage: Stage) -> Iterator[str]:
    """Yield the passages of the labelled items.

    They are read as evaluate will read them, so that a bad one is told of before any work is done.
    """
    if "evaluation" in stage.inputs:
        yield from (
            item.context
            for item in load_items(
                load_dataset(Path(stage.params.evaluate.dataset)), stage.path("evaluation")
            )
        )
    elif stage.params.ingest.drop_evaluation_overlap:
        raise PipelineError(
            "ingest.drop_evaluation_overlap is set, and there are no items to compare "
            "with: name them with --evaluation"
        )


def _list(source: Source, journal: Journal, work: Work) -> None:
    """Note every file with the key of its result: content, kind, parameters and code.

    A file that cannot be opened gets its problem.
    """
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    basis = work_key("tasks.ingest.worker", work.to_json(), libraries, sys.version_info[:2])

    def keyed(file: Found) -> tuple[Found, str]:
        if file.problem:
            return file, ""
        try:
            kind = (
                "".join(PurePath(file.place).suffixes[-2:])
                .lower()
                .encode(errors="backslashreplace")
                .decode()
            )
            return file, fingerprint(source.version(file), kind, basis)
        except Exception as error:  # noqa: BLE001  stores have errors of their own, and one file is no reason to stop
            return Found(
                file.name,
                file.place,
                Unreadable("unreadable", f"{type(error).__name__}: {error}"[:300]),
            ), ""

    files = source.files()
    with ThreadPoolExecutor(max_workers=4) as threads:
        while batch := list(islice(files, _LISTED)):
            journal.list(threads.map(keyed, batch))


def _read_new(stage: Stage, source: Source, journal: Journal, work: Work) -> None:
    """Read the files that the journal does not know."""
    params = stage.params.ingest
    total, left = journal.plan()
    if not total:
        raise PipelineError(
            f"the corpus {stage.addresses['corpus']} is empty: put documents there, or "
            "name another (ingest.corpus)"
        )
    progress = stage.progress(total, "files")
    progress.skip(total - left)
    if left < total:
        log.info("%d of %d files need no reading", total - left, total)
    numbers: Counter[str] = Counter()
    finished, shown = 0, time.monotonic()
    fetched = _Fetched(source, journal)
    for result in read_files(
        fetched.jobs(),
        work,
        min(params.workers or os.cpu_count() or 1, max(left, 1)),
        Limits(params.file_seconds, params.file_memory_mb),
    ):
        journal.add(result.key, numbers[result.key], result.value)
        numbers[result.key] += 1
        if result.done:
            # After the other failures another run may fare better.
            journal.finish(result.key, final=result.failure in ("", "error"))
            del numbers[result.key]
            finished += fetched.release(result.key)
            # Showing progress costs a write to the disk; small files go by faster than that.
            if time.monotonic() - shown > 1:
                progress.advance(finished)
                finished, shown = 0, time.monotonic()
    if finished or fetched.failed:
        progress.advance(finished + fetched.failed)


class _Fetched:
    """Fetches the files to be read a few ahead of the processes that read them, and lets go of them
    afterwards.
    """

    def __init__(self, source: Source, journal: Journal) -> None:
        self._source, self._journal = source, journal
        self._held: dict[str, tuple[Path, int]] = {}
        self.failed = 0

    def jobs(self) -> Iterator[tuple[str, Path]]:
        """Yield key and path; a file that cannot be fetched is a reject, and is tried again by the
        next run.
        """
        queue: deque[tuple[str, int, Future[Path]]] = deque()
        with ThreadPoolExecutor(max_workers=_AHEAD) as threads:
            for key, place, files in self._journal.todo():
                queue.append((key, files, threads.submit(self._source.fetch, place)))
                if len(queue) > _AHEAD:
                    yield from self._arrived(*queue.popleft())
            while queue:
                yield from self._arrived(*queue.popleft())

    def _arrived(self, key: str, files: int, fetched: Future[Path]) -> Iterator[tuple[str, Path]]:
        try:
            path = fetched.result()
        except Exception as error:  # noqa: BLE001  stores have errors of their own, and one file is no reason to stop
            self._journal.add(
                key, 0, reject("unreadable", f"{type(error).__name__}: {error}"[:300])
            )
            self._journal.finish(key, final=False)
            self.failed += files
            return
        self._held[key] = path, files
        yield key, path

    def release(self, key: str) -> int:
        """Let go of a file that has been read; return how many files of the corpus it stood for."""
        path, files = self._held.pop(key)
        self._source.release(path)
        return files


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return run_stage(
        "ingest",
        ingest,
        (),
        argv,
        settings={"evaluation": "evaluate.items"},
        addresses={"corpus": "ingest.corpus"},
    )
