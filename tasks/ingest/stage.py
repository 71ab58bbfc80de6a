"""ingest: documents into passages of a token budget, each with its place in its document.

Files, parts of files and passages that are not used are kept with a reason.

    python -m tasks.ingest --params params.yaml [--corpus FOLDER] [--items ITEMS]
        --out artifacts/ingest

Worker processes read and cut the files, and a journal keeps their results. Then one pass over the
passages, in the order of the files' names, applies the rules that compare documents. The output
does not depend on which process did what, or when.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePath

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint
from tasks.core.params import Params
from tasks.core.pool import Limits, ResultPart
from tasks.core.ray_cluster import Workers
from tasks.core.secrets import hide
from tasks.core.sections.ingest import Ingest
from tasks.core.stage import Stage, run_stage
from tasks.core.store import work_key
from tasks.ingest import apparatus, running_heads
from tasks.ingest.collect import Collector
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.fetcher import Fetcher, KeyOf, explain_fetch
from tasks.ingest.file_pool import read_files, read_on_ray
from tasks.ingest.items import read_items
from tasks.ingest.journal import Journal
from tasks.ingest.readers import ocr
from tasks.ingest.readers.document import ReadOptions, printable
from tasks.ingest.sources import Corpus, open_corpus
from tasks.ingest.worker import Work
from tasks.lm.preflight import check_run, is_run
from tasks.scoring.lengths import check_lengths

log = logging.getLogger(__name__)

#: Libraries whose version changes the extracted text: part of the key of a file's result.
_LIBRARIES = (
    "charset-normalizer",
    "lxml",
    "markdown-it-py",
    "openpyxl",
    "py3langid",
    "pyarrow",
    "pypdfium2",
    "rensa",
    "semchunk",
    "striprtf",
    "tokenizers",
    "trafilatura",
)
#: Files that are listed at a time.
_LISTED = 2000
#: What the JSON of a result has once for each passage that is kept.
_KEPT = '"reason": ""'


def ingest(stage: Stage) -> None:
    """Write ``passages.parquet``, ``rejects.parquet``, ``summary.json`` and ``report.html``."""
    params, staging = stage.params.ingest, stage.work / "staging"
    items, leaks = read_items(stage)
    work = _make_work(params, _read_tokenizer(*tokenizer_name(stage)))
    corpus = open_corpus(stage.addresses["corpus"], staging, params)
    key_of = _make_key(corpus, work)
    try:
        with closing(Journal(stage.work / "journal.sqlite")) as journal:
            state = corpus.state()
            _list_files(corpus, journal, key_of)
            _read_new(stage, corpus, journal, work, key_of)

            def count_unsettled() -> int:
                # DVC hashes the corpus when the stage has ended: it would take what changed during
                # the stage for what was read.
                return journal.count_unsettled() + (state != corpus.state())

            Collector(stage, work, items, leaks).run(journal, count_unsettled)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_work(params: Ingest, tokenizer: str) -> Work:
    options = ReadOptions(
        text_column=params.text_column,
        max_bytes=params.max_file_mb << 20,
        ocr=ocr.check_languages(params.ocr_languages) if params.ocr else "",
        infoboxes=params.infoboxes,
        clause_numbers=params.clause_numbers,
    )
    return Work(
        tokenizer,
        options,
        params.passage_tokens,
        params.min_tokens,
        near_duplicates=params.near_duplicates > 0,
        languages=params.languages,
        mask=params.mask_personal_data,
        trim=tuple(
            kind
            for kind, chosen in (
                (apparatus.CITATION, params.citations),
                (apparatus.AUTHOR, params.author_citations),
                (apparatus.REFERENCES, params.reference_lists),
                (apparatus.INFOBOX, params.infoboxes),
                (apparatus.CLAUSE, params.clause_numbers),
                (running_heads.RUNNING_HEAD, params.running_heads),
                (apparatus.COMMENT, True),
            )
            if chosen
        ),
        lines=params.boilerplate_share > 0,
    )


def tokenizer_name(stage: Stage) -> tuple[str, str]:
    """Return name and revision of the model whose tokenizer counts a passage's tokens."""
    tokenizer, generate = stage.params.ingest.tokenizer, stage.params.generate
    return (tokenizer, "main") if tokenizer else (generate.generator, generate.revision)


def _read_tokenizer(generator: str, revision: str) -> str:
    """Return the tokenizer as JSON: worker processes load it without the model library."""
    from tasks.lm.tokenizers import tokenizer_json

    tokenizer = tokenizer_json(generator, revision)
    if not tokenizer:
        raise PipelineError(
            f"the tokenizer of {generator} has no tokenizer.json: convert it with "
            "transformers' save_pretrained, or choose another generator"
        )
    return tokenizer


def _list_files(corpus: Corpus, journal: Journal, key_of: KeyOf) -> None:
    """List every file in the journal with the key of its result; one that cannot be opened is
    listed with its problem.
    """

    def add_key(file: CorpusFile) -> tuple[CorpusFile, str]:
        if file.problem:
            return file, ""
        try:
            return file, key_of(file)
        except Exception as error:  # noqa: BLE001  any store error; one file must not stop the rest
            problem = explain_fetch(error)
            return CorpusFile(file.name, file.place, problem), ""

    files = corpus.files()
    with ThreadPoolExecutor(max_workers=4) as threads:
        while batch := list(islice(files, _LISTED)):
            journal.list(threads.map(add_key, batch))


def _make_key(corpus: Corpus, work: Work) -> KeyOf:
    """Return what makes the key of a file's result: of content, suffix, parameters and code."""
    libraries = [f"{name} {version(name)}" for name in _LIBRARIES]
    libraries += [ocr.tell_version()] if work.options.ocr else []
    basis = work_key("tasks.ingest.file_pool", asdict(work), libraries, sys.version_info[:2])

    def key_of(file: CorpusFile) -> str:
        kind = printable("".join(PurePath(file.place).suffixes[-2:]).lower())
        return fingerprint(corpus.version(file), kind, basis)

    return key_of


def _read_new(stage: Stage, corpus: Corpus, journal: Journal, work: Work, key_of: KeyOf) -> None:
    """Read the files without a result in the journal."""
    total, left = journal.plan()
    if not total:
        raise PipelineError(
            f"the corpus {hide(stage.addresses['corpus'])} is empty: put documents there, or "
            "name another (ingest.corpus)"
        )
    progress = stage.progress(total, "files")
    progress.skip(total - left)
    if left < total:
        log.info("%d of %d files need no reading", total - left, total)
    parts: Counter[str] = Counter()
    finished, passages, shown = 0, 0, time.monotonic()
    fetcher = Fetcher(corpus, journal)
    for result in _read_files(stage, fetcher.jobs(), work, left):
        if result.done or result.value != "[]":
            journal.add(result.key, parts[result.key], result.value)
            parts[result.key] += 1
        if result.done:
            # After any other failure another run may succeed, and a file that was changed while it
            # was read has another key.
            final = result.failure in ("", "error") and fetcher.is_unchanged(result.key, key_of)
            journal.finish(result.key, final)
            del parts[result.key]
            finished += fetcher.release(result.key)
        passages += str(result.value).count(_KEPT)
        # Progress is a write to the disk, which takes longer than a small file.
        if time.monotonic() - shown > 1:
            progress.advance(finished, passages=passages)
            finished, shown = 0, time.monotonic()
    if finished or fetcher.failed:
        progress.advance(finished + fetcher.failed, passages=passages)


def _read_files(
    stage: Stage, jobs: Iterator[tuple[str, Path]], work: Work, left: int
) -> Iterator[ResultPart]:
    """Read ``left`` files by processes of this machine or, where they are asked for, of a Ray
    cluster.
    """
    params, scratch = stage.params.ingest, stage.work / "unpacked"
    limits = Limits(
        params.file_seconds, params.file_memory_mb, params.file_total_seconds or math.inf
    )
    if params.ray_workers and left:
        cluster = Workers("ingest", min(params.ray_workers, left), params.ray_address, 1, gpu=False)
        return read_on_ray(jobs, work, cluster, limits, scratch)
    processes = min(params.workers or os.cpu_count() or 1, max(left, 1))
    return read_files(jobs, work, processes, limits, scratch)


def _check(stage: str, params: Params) -> None:
    """Refuse a run whose models do not fit the machine, or the items the model."""
    check_run(stage, params)
    if is_run():
        check_lengths(params)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return run_stage(
        "ingest",
        ingest,
        (),
        argv,
        settings={"items": "evaluate.items"},
        addresses={"corpus": "ingest.corpus"},
        check=_check,
    )
