"""Fetches the files of a corpus a few ahead of the processes that read them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from tasks.core.secrets import hide
from tasks.ingest.discovery import CorpusFile
from tasks.ingest.journal import Journal
from tasks.ingest.readers.document import Unreadable
from tasks.ingest.sources import Corpus, LocalCorpus
from tasks.ingest.worker import format_reject

#: Files that are fetched ahead of their readers.
_AHEAD = 8
#: Makes the key of a file's result.
KeyOf = Callable[[CorpusFile], str]


class Fetcher:
    """Fetches files a few ahead of the processes that read them, and releases them afterwards."""

    def __init__(self, corpus: Corpus, journal: Journal) -> None:
        self._corpus, self._journal = corpus, journal
        self._in_use: dict[str, tuple[Path, int]] = {}
        self.failed = 0

    def jobs(self) -> Iterator[tuple[str, Path]]:
        """Yield key and path; a file that cannot be fetched is a reject until the next run."""
        queue: deque[tuple[str, int, Future[Path]]] = deque()
        with ThreadPoolExecutor(max_workers=_AHEAD) as threads:
            for key, place, files in self._journal.todo():
                queue.append((key, files, threads.submit(self._corpus.fetch, place)))
                if len(queue) > _AHEAD:
                    yield from self._wait_for(*queue.popleft())
            while queue:
                yield from self._wait_for(*queue.popleft())

    def _wait_for(self, key: str, files: int, future: Future[Path]) -> Iterator[tuple[str, Path]]:
        try:
            path = future.result()
        except Exception as error:  # noqa: BLE001  any store error; one file must not stop the rest
            problem = explain_fetch(error)
            self._journal.add(key, 0, format_reject(problem.reason, problem.detail))
            self._journal.finish(key, final=False)
            self.failed += files
            return
        self._in_use[key] = path, files
        yield key, path

    def is_unchanged(self, key: str, key_of: KeyOf) -> bool:
        """Tell whether a file of this machine, which others may write to, still has its key."""
        path, _ = self._in_use[key]
        try:
            return not isinstance(self._corpus, LocalCorpus) or key == key_of(
                CorpusFile(path.name, str(path))
            )
        except (OSError, Unreadable):  # gone, or grown beyond its limit
            return False

    def release(self, key: str) -> int:
        """Release a file that has been read; return how many files have its content."""
        path, files = self._in_use.pop(key)
        self._corpus.release(path)
        return files


def explain_fetch(error: Exception) -> Unreadable:
    """Return what an error of a corpus's store says about a file; passwords are hidden."""
    if isinstance(error, Unreadable):
        return error
    return Unreadable("unreadable", hide(f"{type(error).__name__}: {error}")[:300])
