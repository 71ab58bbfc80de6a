"""The row types of the stages' files: one Arrow schema a file.

A stage never imports another stage. It reads the file that the other wrote, with these columns.
"""

from __future__ import annotations

import pyarrow as pa

from tasks.core.errors import PipelineError

#: artifacts/ingest/passages.parquet. ``start`` and ``end`` are character offsets into the
#: document's extracted text; ``page`` counts from 1 (0: the format has no pages), ``section`` is
#: the heading path joined by " > ".
PASSAGES = pa.schema(
    [
        ("passage_id", pa.string()),
        ("document", pa.string()),
        ("page", pa.int32()),
        ("section", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("tokens", pa.int32()),
        ("sha256", pa.string()),
        ("in_evaluation", pa.bool_()),
        ("text", pa.string()),
    ]
)

#: artifacts/ingest/rejects.parquet: a file or a passage that was not used, and why.
REJECTS = pa.schema(
    [
        ("document", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("text", pa.string()),
    ]
)

#: artifacts/generate/predictions.parquet: everything the generator wrote, parsable or not.
#: ``instruction`` still holds the ``{{context}}`` placeholder. ``reason`` says why a row is
#: unusable; it is empty for a parsed row. ``attempt`` counts from 0: a later one was sampled again
#: (generate.retries), with the row's ``seed``. ``confidence`` is the generator's own: the mean
#: log-probability of the instruction's tokens plus that of the response's, null where it is not
#: known.
PREDICTIONS = pa.schema(
    [
        ("row_id", pa.string()),
        ("passage_id", pa.string()),
        ("document", pa.string()),
        ("task_type", pa.string()),
        ("sample", pa.int32()),
        ("attempt", pa.int32()),
        ("seed", pa.int64()),
        ("context", pa.string()),
        ("prediction", pa.string()),
        ("parsed", pa.bool_()),
        ("reason", pa.string()),
        ("instruction", pa.string()),
        ("response", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("confidence", pa.float64()),
        ("generator", pa.string()),
        ("revision", pa.string()),
        ("temperature", pa.float64()),
        ("top_p", pa.float64()),
        ("max_tokens", pa.int32()),
    ]
)

#: artifacts/validate/instructions.parquet, and artifacts/supervise/instructions.parquet, the
#: training rows. The instruction holds the passage. A row without an instruction is raw text: its
#: response is trained on by next-word prediction (TAPT).
INSTRUCTIONS = pa.schema(
    [
        ("row_id", pa.string()),
        ("passage_id", pa.string()),
        ("document", pa.string()),
        ("task_type", pa.string()),
        ("context", pa.string()),
        ("instruction", pa.string()),
        ("response", pa.string()),
    ]
)

#: artifacts/finetune/trained.parquet, kept with the MLflow run: digests of the rows that an adapter
#: knows and of their passages, by which a later training tells new rows from old ones. A passage
#: of the run that no such row is from has an empty ``row_sha256``.
TRAINED = pa.schema([("row_sha256", pa.string()), ("passage_sha256", pa.string())])
TRAINED_FILE = "trained.parquet"
#: The file that makes an adapter's folder a champion's: name, version, digests.
CHAMPION_FILE = "champion.json"
#: What an adapter is, weights and configuration. Other files of its folder tell how it was made.
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")

#: artifacts/validate/quarantine.parquet: rows that failed, with the names of all the expectations
#: they failed. artifacts/supervise/quarantine.parquet, where no generator wrote some of the rows:
#: those of them that a person found wrong.
QUARANTINE = pa.schema([*INSTRUCTIONS, ("reasons", pa.list_(pa.string()))])

#: artifacts/verify/instructions.parquet. ``agreement`` is the share of the reader's answers that
#: agree with the response, a label's corrected probability, or null where the type was not judged.
#: ``answer`` is the reader's own answer. ``confidence`` is that of the prediction. ``origin`` says
#: whose response the row has: the generator's (``written``), or the reader's in place of one that
#: it disagreed with (``adopted``) or that validate found wrong (``repaired``).
VERIFIED = pa.schema(
    [
        *INSTRUCTIONS,
        ("agreement", pa.float64()),
        ("answer", pa.string()),
        ("confidence", pa.float64()),
        ("origin", pa.string()),
    ]
)

#: artifacts/verify/quarantine.parquet: rows that are not kept, with the reasons.
UNVERIFIED = pa.schema([*VERIFIED, ("reasons", pa.list_(pa.string()))])

#: artifacts/evaluate/predictions.parquet: one row per model x template x item. ``scores`` are the
#: choices' summed log-probabilities in ``choices`` order (empty for extraction); ``f1`` is the
#: item's SQuAD F1 in 0-1 (classification: 1 if right).
EVALUATIONS = pa.schema(
    [
        ("model", pa.string()),
        ("dataset", pa.string()),
        ("template", pa.string()),
        ("item_id", pa.string()),
        ("prompt", pa.string()),
        ("prediction", pa.string()),
        ("golds", pa.list_(pa.string())),
        ("choices", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("f1", pa.float64()),
    ]
)
#: What a person reads for EVALUATIONS' ``model``, in every table, plot and page.
MODEL_NAMES = {"zero_shot": "zero-shot", "start": "start alone", "adapted": "adapted"}


def require(table: pa.Table, schema: pa.Schema, where: object) -> pa.Table:
    """Return ``table`` with the schema's columns in its order; an error names a missing column."""
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise PipelineError(
            f"{where} lacks the column {missing[0]!r}: it was written by another version, "
            "run its stage again"
        )
    return table.select(schema.names).cast(schema)
