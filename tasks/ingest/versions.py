"""The files of a corpus at an address, with what tells their content: a look that reads no text."""

from __future__ import annotations

import shutil
from pathlib import Path

from tasks.core.listing import Listing
from tasks.core.sections.ingest import Ingest
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.fetcher import explain_fetch
from tasks.ingest.sources import Corpus, HubCorpus, open_corpus


def list_versions(address: str, params: Ingest, staging: Path) -> Listing:
    """Return name -> entry of every file at ``address``, or at the one that a file ``*.address``
    holds; hidden files are left out, as ingest does.

    Size and time are 0, the digest is what the store says of the content. Only where it says
    nothing is a file fetched, into ``staging``; of a dataset of the hub all rows are. A file that
    cannot be had is listed with its fault.

    Raises :class:`PipelineError` where the address cannot be reached.
    """
    corpus = open_corpus(address, staging, params)
    try:
        return {
            f"{file.name}#{file.rows_before}" if file.rows_before else file.name: (
                0,
                0,
                _tell_version(corpus, file),
            )
            for file in corpus.files()
            if file.problem is None or file.problem.reason != "hidden"
        }
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tell_version(corpus: Corpus, file: CorpusFile) -> str:
    problem = file.problem
    if problem is None:
        try:
            version = corpus.version(file)
            if isinstance(corpus, HubCorpus):  # a whole dataset would lie in the staging folder
                corpus.release(Path(file.place))
            return version
        except Exception as error:  # noqa: BLE001  any store error; one file must not stop the rest
            problem = explain_fetch(error)
    return f"{problem.reason}: {problem.detail}"
