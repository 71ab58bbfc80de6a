"""``artifacts/preview``: the passages of ``make ingest``, and of what and how they were cut."""

from __future__ import annotations

from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, read_json, write_json
from tasks.core.params import Params

PREVIEW = Path("artifacts") / "preview"
_CUT = "cut.json"


def record_cut(home: Path, params: Params, corpus: str) -> None:
    """Write beside the passages which corpus they are of, and a digest of the settings they were
    cut with. ``home`` is the folder that paths start from.
    """
    write_json(home / PREVIEW / _CUT, _describe(home, params, corpus))


def find_preview(home: Path, params: Params, command: str) -> Path | None:
    """Return the previewed passages; None where there are none.

    Raises :class:`PipelineError` where they are of another corpus, or were cut with other settings,
    than ``params`` has; ``command`` cuts the right ones.
    """
    passages, record = home / PREVIEW / "passages.parquet", home / PREVIEW / _CUT
    if not passages.is_file():
        return None
    told = read_json(record) if record.is_file() else {"corpus": "an unknown corpus"}
    wanted = _describe(home, params, params.ingest.corpus)
    if told == wanted:
        return passages
    cut = " were cut with other settings"
    if told["corpus"] != wanted["corpus"]:
        cut = f" are of {told['corpus']}, not of {wanted['corpus']}"
    raise PipelineError(f"the passages in {PREVIEW}{cut}: {command} cuts those of this profile")


def _describe(home: Path, params: Params, corpus: str) -> dict[str, str]:
    generate = params.generate
    settings = params.ingest.model_dump(exclude={"corpus"})
    return {
        "corpus": corpus if "://" in corpus else str((home / corpus).resolve()),
        "settings": fingerprint(settings, generate.generator, generate.revision),
    }
