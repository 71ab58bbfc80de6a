"""Reads a seeded sample of a corpus with the stage ingest, and says what is in it."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, row_seed
from tasks.core.overlay import overlay
from tasks.core.parquet import read_table
from tasks.core.setting_paths import NOTHING
from tasks.ingest.cleaning import detect_language
from tasks.ingest.discovery import CorpusFile, discover
from tasks.start.trial import ROOT, run_apart, write_params

#: The sample: at most so many files, and so many bytes of them.
FILES, BYTES = 200, 32 << 20
#: Bytes to read of plain text. To cut 30 MB of it into 47,000 passages would take minutes.
TEXT_BYTES = 8 << 20
#: Formats of plain text, whose beginning can be read alone.
_TEXTS = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt", ".md")
#: Passages whose language is looked at.
_LOOKED_AT = 500


@dataclass(frozen=True)
class Survey:
    """What a sample of the corpus holds. Counts of passages are after ingest's own rules."""

    corpus: Path
    files: int
    size: int
    sampled_files: int
    sampled_size: int
    formats: dict[str, int]
    #: Reason -> files (documents of a table or an archive) that were not read.
    unread: dict[str, int]
    #: Reason -> passages that were dropped.
    dropped: dict[str, int]
    tokens: int
    #: Language (ISO 639-1) -> passages, of those looked at (500 at most), the commonest first.
    languages: dict[str, int]
    #: What reading the sample took.
    seconds: float
    passages: pa.Table = field(repr=False)

    def share(self, language: str) -> float:
        """Return the share of the passages in a language, in 0-1."""
        return self.languages.get(language, 0) / max(sum(self.languages.values()), 1)

    @property
    def whole(self) -> bool:
        """Whether the sample is the whole corpus."""
        return (self.sampled_files, self.sampled_size) == (self.files, self.size)

    @property
    def times(self) -> float:
        """How many times the sample the whole corpus is, by bytes."""
        return 1.0 if self.whole else self.size / max(self.sampled_size, 1)

    @property
    def expected_passages(self) -> int:
        """Passages of the whole corpus: counted, or as many more as there are more bytes."""
        return round(len(self.passages) * self.times)


def survey(
    corpus: Path,
    values: Mapping[str, Any],
    folder: Path,
    seed: int = 1,
    tell: Callable[[str], None] | None = None,
) -> Survey:
    """Read a seeded sample of ``corpus`` with the settings of ``values``; work in ``folder``.

    ``tell`` gets a line on what is read, before it is. Raises :class:`PipelineError` for a folder
    that is not there, is empty, or has no text.
    """
    found = list(discover(corpus))
    readable = [file for file in found if file.problem is None]
    if not readable:
        why = "; ".join(sorted({file.problem.reason for file in found if file.problem}))
        raise PipelineError(
            f"{corpus} holds no file that can be read{f' ({why})' if why else ''}: put documents "
            "there (docs/corpus.md lists the formats), or name another folder"
        )
    sizes = {file.name: Path(file.place).stat().st_size for file in readable}
    chosen = _choose(readable, sizes, seed)
    sampled = sum(min(sizes[file.name], _most(file)) for file in chosen)
    if tell:
        tell(f"{corpus}: {len(chosen):,} files, {sampled / 2**20:.1f} MB ...")
    whole = (len(chosen), sampled) == (len(readable), sum(sizes.values()))
    place = corpus if whole else _link(chosen, sizes, folder / "sample")
    sample = {
        "ingest": {
            "corpus": str(place.absolute()),
            "follow_links": values["ingest"].get("follow_links", False) or not whole,
            "drop_evaluation_overlap": False,
        },
        "evaluate": {"items": NOTHING},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_params(overlay(dict(values), sample), folder)
    try:
        measured = run_apart("ingest", folder, {}, str(corpus))
    except PipelineError as error:
        if not str(error).startswith("ingest: no readable document"):
            raise
        raise PipelineError(f"{error}; docs/corpus.md says what to do about each") from error
    summary = read_json(folder / "ingest" / "summary.json")
    passages = read_table(folder / "ingest" / "passages.parquet")
    unread = Counter(summary["unread"])
    if not whole:  # those of the listing alone: the sample has links to readable files only
        unread.update(file.problem.reason for file in found if file.problem)
    return Survey(
        corpus,
        len(readable),
        sum(sizes.values()),
        len(chosen),
        sampled,
        summary["formats"],
        dict(unread),
        summary["dropped"],
        summary["tokens"],
        _languages(passages),
        measured.seconds,
        passages,
    )


def _choose(files: list[CorpusFile], sizes: dict[str, int], seed: int) -> list[CorpusFile]:
    """Return the first files in a seeded order that are within the limits, one at least."""
    order = sorted(files, key=lambda file: (row_seed(seed, "file", file.name), file.name))
    chosen: list[CorpusFile] = []
    size = text = 0
    for file in order:
        more = min(sizes[file.name], _most(file))
        more_text = more if _is_text(file) else 0
        fits = size + more <= BYTES and text + more_text <= TEXT_BYTES
        if len(chosen) < FILES and (fits or not chosen):
            chosen.append(file)
            size, text = size + more, text + more_text
    return chosen


def _is_text(file: CorpusFile) -> bool:
    return file.name.lower().endswith(_TEXTS)


def _most(file: CorpusFile) -> int:
    """Return how many bytes of a file are read: of plain text the beginning is enough."""
    return TEXT_BYTES if _is_text(file) else sys.maxsize


def _link(files: list[CorpusFile], sizes: dict[str, int], folder: Path) -> Path:
    """Make a folder of links to the files, under their names; of a text that is too large its
    beginning, up to the end of a line, or of a word where it is all one line.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for file in files:
        link = folder / PurePosixPath(file.name)
        link.parent.mkdir(parents=True, exist_ok=True)
        if sizes[file.name] > _most(file):
            with Path(file.place).open("rb") as stream:
                start = stream.read(_most(file))
            link.write_bytes(start.rpartition(b"\n")[0] or start.rpartition(b" ")[0])
        else:
            link.symlink_to(Path(file.place).absolute())
    return folder


def _languages(passages: pa.Table) -> dict[str, int]:
    step = max(1, len(passages) // _LOOKED_AT)
    texts = passages["text"].to_pylist()[::step]
    return dict(Counter(map(detect_language, texts)).most_common())


def short(path: Path) -> str:
    """Return a path as a profile names it: from the checkout where it is inside."""
    whole = path.absolute()
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else str(whole)
