"""grow: the run after one of 100 documents changed, one came and one went, as a share of the full
run's wall time; there is no peer, the target is a share.
"""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from functools import cache
from pathlib import Path

from benchmarks.commands import call, clone
from benchmarks.harness import PASSED, BenchOptions
from benchmarks.inputs import DOMAINS, data_folder
from benchmarks.rows import ResultRow
from flows.runs.last_run import read_stages
from tasks.core.files import read_json
from tasks.core.parquet import read_table

NAMES = ("grow",)
TARGETS = {"share": 0.15}
_DOCUMENTS, _QUICK_DOCUMENTS = 100, 12
#: Shipped texts that are one document. Of one page each, 100 documents would be a run of which the
#: starts of the models are a quarter, whatever is reused.
_TEXTS, _QUICK_TEXTS = 4, 1
#: A run that takes longer is given up.
_MOST_SECONDS = 7200.0
#: What makes a quick run short. A quarter of twelve documents moves, and training still continues.
_QUICK = (
    *("generate.samples=2", "verify.answers=1", "verify.confident_share=1"),
    *("finetune.max_steps=4", "finetune.restart_share=1"),
    *("evaluate.max_items=8", "evaluate.templates=1", "evaluate.bootstrap=200"),
)
_RUN = "grow"


def run(options: BenchOptions) -> list[ResultRow]:
    """Return one row whose ratio is the share: the embedded default over 100 documents in a clone
    with caches of its own, then again after one of them got another sentence, one was removed and
    one was added, with ``finetune.start=champion``.

    A document is four of the shipped texts (about four pages, twenty passages). Each text is used
    three times, with other digits the second and the third time.

    One round, whatever is asked for: it is two runs of the pipeline. The first run's version is
    made the champion by hand, as what is timed is the way of the second, not who wins. Gate: the
    second run generated no more of the rows again than three of the documents have, none of its
    rows is of the removed document, and training continued from the champion. ``extra`` has the
    seconds of each stage, and the note which share of its work each did again. A quick run is the
    same on 12 documents of one text, with few rows, steps and items.
    """
    count, texts = (_QUICK_DOCUMENTS, _QUICK_TEXTS) if options.quick else (_DOCUMENTS, _TEXTS)
    settings = _QUICK if options.quick else ()
    folder = options.work / "grow"
    shutil.rmtree(folder, ignore_errors=True)
    checkout = clone(folder / "checkout")
    call([sys.executable, "-m", "dvc", "pull", "--quiet", "data.dvc"], checkout)
    corpus = _write_corpus(folder / "corpus", count, texts)
    full = _timed(checkout, f"ingest.corpus={corpus}", *settings)
    stages = {"full": _stage_seconds(checkout)}
    registered = _read(checkout, "register/registration.json")
    _make_champion(checkout, registered["model_name"], registered["version"])
    removed = _move(corpus, texts)
    again = _timed(checkout, f"ingest.corpus={corpus}", "finetune.start=champion", *settings)
    stages["again"] = _stage_seconds(checkout)
    shares = _shares_again(checkout)
    row = ResultRow(
        bench=NAMES[0],
        peer="share",
        gate=_gate(checkout, removed, shares["generate"], 3 / count),
        unit="seconds",
        target=TARGETS["share"],
        better="less",
    )
    again_told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    row.note = f"done again: {again_told}"
    row.extra = {"full_seconds": round(full, 1), "again_seconds": round(again, 1), "stages": stages}
    if row.gate == PASSED:
        row.ours, row.theirs = round(again, 1), round(full, 1)
        row.set_ratio([again / full])
    return [row]


def _write_corpus(corpus: Path, count: int, texts: int) -> Path:
    """Write the first ``count`` documents."""
    corpus.mkdir()
    for number in range(count):
        _write_document(corpus, number, texts)
    return corpus


def _write_document(corpus: Path, number: int, texts: int) -> None:
    """Write a document of the next ``texts`` shipped texts, those of the incidents first. Where all
    have been used, they begin again with other digits: near duplicates would be dropped.
    """
    shipped, parts = _list_shipped(), []
    for place in range(number * texts, (number + 1) * texts):
        text, draw = shipped[place % len(shipped)], random.Random(place)
        used = place >= len(shipped)
        parts.append(re.sub(r"\d", lambda _: str(draw.randrange(10)), text) if used else text)  # noqa: B023
    (corpus / f"{number:03}.md").write_text("\n".join(parts), encoding="utf-8")


@cache
def _list_shipped() -> list[str]:
    """Return the texts of the shipped documents."""
    folders = (data_folder(name) / "documents" for name in DOMAINS)
    files = [file for folder in folders for file in sorted(folder.iterdir())]
    return [file.read_text(encoding="utf-8") for file in files]


def _move(corpus: Path, texts: int) -> str:
    """Change the first document, remove the second, add one; return the removed one's name."""
    documents = sorted(corpus.iterdir())
    changed, removed = documents[:2]
    text = changed.read_text(encoding="utf-8")
    changed.write_text(f"{text}\nOn 3 May the inspector came again.\n", encoding="utf-8")
    removed.unlink()
    _write_document(corpus, len(documents), texts)
    return removed.name


def _stage_seconds(checkout: Path) -> dict[str, float]:
    """Return stage -> seconds of the last run."""
    stages = read_stages(checkout / ".runs" / _RUN)
    return {stage["stage"]: round(stage["seconds"], 1) for stage in stages}


def _timed(checkout: Path, *settings: str) -> float:
    """Return the seconds of a run of the name ``grow``, from the start of its process."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "flows.pipeline", "--name", _RUN, "--set", *settings]
    call(command, checkout, _MOST_SECONDS)
    return time.perf_counter() - start


def _read(checkout: Path, name: str) -> dict[str, str]:
    return dict(read_json(checkout / ".runs" / _RUN / "artifacts" / name))


def _make_champion(checkout: Path, name: str, version: str) -> None:
    code = (
        "import sys; from tasks.tracking.mlflow_store import connect; "
        "connect().set_registered_model_alias(sys.argv[1], 'champion', sys.argv[2])"
    )
    call([sys.executable, "-c", code, name, version], checkout)


def _shares_again(checkout: Path) -> dict[str, float]:
    """Return stage -> the share of its work (0-1) that the last run did again, of the stages that
    reuse any.
    """
    shares = {}
    for file in sorted((checkout / ".runs" / _RUN / ".work").glob("*/reused.json")):
        told = read_json(file)
        shares[file.parent.name] = told["again"] / max(1, told["again"] + told["reused"])
    return shares


def _gate(checkout: Path, removed: str, share: float, most: float) -> str:
    if share > most:
        return f"failed: {share:.1%} of the rows were generated again"
    for name in ("ingest/passages.parquet", "generate/predictions.parquet"):
        rows = read_table(checkout / ".runs" / _RUN / "artifacts" / name, ["document"])
        if removed in rows["document"].to_pylist():
            return f"failed: {name} has rows of {removed}, which was removed"
    summary = read_json(checkout / ".runs" / _RUN / "artifacts/finetune/summary.json")
    champion = summary.get("champion", {"continues": False, "reason": "there was no champion"})
    return PASSED if champion["continues"] else f"failed: {champion['reason']}"
