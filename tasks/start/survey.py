"""Reads a seeded sample of a corpus with the stage ingest, and says what is in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.languages import count_languages
from tasks.core.overlay import overlay
from tasks.core.parquet import read_table
from tasks.core.sections.ingest import Ingest
from tasks.core.setting_paths import NOTHING
from tasks.ingest.discovery import discover
from tasks.start.apart import Tell, run_apart, write_params
from tasks.start.draw import draw, link
from tasks.start.launch import ROOT

#: Passages whose language is looked at.
_LOOKED_AT = 500
_SEED = 1


class NoPassages(PipelineError):
    """No passage is kept of a corpus; the message is that of ingest."""


@dataclass(frozen=True)
class Survey:
    """What a sample of the corpus holds. Counts of passages are after ingest's own rules."""

    corpus: Path
    #: All files, and their bytes.
    files: int
    total: int
    #: Bytes of the files that can be read, but for those that are left out.
    size: int
    sampled_files: int
    sampled_size: int
    #: Whether all that can be read was read.
    whole: bool
    #: Files that would have taken too long to read. The figures do not count them.
    left_out: int
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
    tell: Callable[[str], None] | None = None,
    progress: Tell | None = None,
) -> Survey:
    """Read a seeded sample of ``corpus`` with the settings of ``values``; work in ``folder``.

    ``tell`` gets a line on what is read, before it is, and ``progress`` that of the reading. Raises
    :class:`PipelineError` for a folder that is not there or is empty, and :class:`NoPassages` where
    no passage is kept.
    """
    ingest = values["ingest"]
    follow_links = ingest.get("follow_links", _default("follow_links"))
    listed = list(discover(corpus, follow_links))
    files = [file for file in listed if file.problem is None]
    if not files:
        why = "; ".join(sorted({file.problem.reason for file in listed if file.problem}))
        raise PipelineError(
            f"{corpus} holds no file that can be read{f' ({why})' if why else ''}: put documents "
            "there (docs/corpus.md lists the formats), or name another folder"
        )
    drawn = draw(files, ingest.get("max_file_mb", _default("max_file_mb")) << 20, _SEED)
    copied, shown = drawn.needs_copy(), drawn.shown()
    if tell:
        count = len(drawn.chosen) + len(shown)
        tell(f"{corpus}: {count:,} files, {drawn.sampled / 2**20:.1f} MB ...")
    place = link(drawn, folder / "sample") if copied else corpus
    sample = {
        "ingest": {
            "corpus": str(place.absolute()),
            "follow_links": follow_links or copied,
            "drop_evaluation_overlap": False,
        },
        "evaluate": {"items": NOTHING},
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_params(overlay(dict(values), sample), folder)
    try:
        measured = run_apart("ingest", folder, {}, str(corpus), progress)
    except PipelineError as error:
        if str(error).startswith("ingest: no readable document"):
            raise NoPassages(f"{error}; docs/corpus.md says what to do about each") from error
        if str(error).startswith("ingest: no passage of "):
            raise NoPassages(str(error)) from error
        raise
    summary = read_json(folder / "ingest" / "summary.json")
    passages = read_table(folder / "ingest" / "passages.parquet")
    unread = Counter(summary["unread"])
    if copied:  # what the copy does not have
        others = [*listed, *drawn.unreadable[len(shown) :]]
        unread.update(file.problem.reason for file in others if file.problem)
    return Survey(
        corpus,
        len(files),
        drawn.total,
        drawn.size,
        len(drawn.chosen),
        drawn.sampled,
        drawn.whole,
        len(drawn.left_out),
        summary["formats"],
        dict(unread),
        summary["dropped"],
        summary["tokens"],
        _languages(passages),
        measured.seconds,
        passages,
    )


def _default(name: str) -> Any:
    return Ingest.model_fields[name].default


def _languages(passages: pa.Table) -> dict[str, int]:
    step = max(1, len(passages) // _LOOKED_AT)
    return count_languages(passages["text"].to_pylist()[::step])


def short(path: Path) -> str:
    """Return a path as a profile names it: from the checkout where it is inside."""
    whole = path.absolute()
    return str(whole.relative_to(ROOT)) if whole.is_relative_to(ROOT) else str(whole)
