"""The sections of ``params.yaml`` whose stages make training rows from documents."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator

from tasks.core.errors import PipelineError
from tasks.core.mix import PATTERN, SOURCES, Mix, parse_mix
from tasks.core.model_params import Finetune
from tasks.core.section import (
    Count,
    Fraction,
    Positive,
    Precision,
    Section,
    Seed,
    Tokens,
    TypeName,
    Workers,
)
from tasks.core.setting_paths import NOTHING
from tasks.core.task_types import task_type

#: A source or a mix; the validator parses it, the schema offers the sources to an editor.
SourceText = Annotated[
    str,
    WithJsonSchema({"anyOf": [{"enum": list(SOURCES)}, {"type": "string", "pattern": PATTERN}]}),
]


class Ingest(Section):
    """Documents into passages."""

    corpus: str = Field(
        description=(
            "folder or file of documents. make ingest also takes an address (s3://...) or a hub "
            "dataset (hf://owner/name); for a run write that into a file *.address"
        )
    )
    text_column: str = Field(
        "",
        description=(
            "column of tables that holds the text; empty: text, and a CSV file without it is "
            "read as a whole table"
        ),
    )
    passage_tokens: Tokens = Field(
        description="most tokens a passage may have, counted by the generator's own tokenizer"
    )
    tokenizer: str = Field(
        "",
        description=(
            "model whose tokenizer counts them instead, so that all generators get the same "
            "passages; empty: the generator's"
        ),
    )
    min_tokens: Count = Field(description="shorter passages are dropped (reason: too_short)")
    languages: tuple[str, ...] = Field(
        (), description="ISO 639-1 codes of the languages to keep, such as [en]; empty: all"
    )
    boilerplate_share: Fraction = Field(
        0.3,
        description=(
            "remove lines that are in this share of the documents, and in at least five; "
            "0: keep them"
        ),
    )
    exact_duplicates: bool = Field(
        True,
        description="drop passages equal to an earlier one except for case and white space",
    )
    near_duplicates: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description=(
            "drop passages with this similarity to an earlier one or more (Jaccard, by MinHash); "
            "0: keep them"
        ),
    )
    mask_personal_data: bool = Field(
        False,
        description=(
            "replace such data by [EMAIL], [PHONE], [IBAN], [CARD], [IP], [SSN] before "
            "anything else"
        ),
    )
    citations: bool = Field(
        True,
        description=(
            "take out markers of sources, [12] and raised numbers, in documents that have several"
        ),
    )
    author_citations: bool = Field(
        True, description="take out sources in brackets, such as (Yao et al., 2022)"
    )
    reference_lists: bool = Field(
        True, description="take out lists of sources, below a title such as References"
    )
    infoboxes: bool = Field(True, description="take out the boxes of facts of wiki pages")
    clause_numbers: bool = Field(
        True, description="put a clause's number that stands alone on a line before its clause"
    )
    drop_evaluation_overlap: bool = Field(
        description=(
            "drop passages that overlap the evaluation set; the paper keeps them; they are "
            "always counted"
        )
    )
    evaluation_words: int = Field(
        13,
        ge=1,
        le=10_000,
        description="n-gram length, in words, that counts as overlap with the evaluation set",
    )
    ocr: bool = Field(
        False,
        description="recognise scanned PDF pages with tesseract, which must be installed",
    )
    ocr_languages: str = Field(
        "eng", description="tesseract's names of the languages, such as eng+deu"
    )
    follow_links: bool = Field(
        False, description="read symbolic links that lead out of the corpus folder"
    )
    max_file_mb: int = Field(
        256,
        ge=1,
        le=10**6,
        description=(
            "larger files, rows and unpacked archive members are refused (tables and archives "
            "are streamed)"
        ),
    )
    file_seconds: float = Field(
        120.0, gt=0.0, le=10**6, description="a file that yields nothing for this long is cut off"
    )
    file_total_seconds: float = Field(
        14400.0,
        ge=0.0,
        le=10**6,
        description="a file that takes longer in all, with its members, is cut off; 0: no limit",
    )
    file_memory_mb: int = Field(
        2048, ge=64, le=10**7, description="a file that takes more memory is cut off"
    )
    workers: Workers = Field(
        0, description="processes; 0: one per core. The result does not depend on it"
    )
    ray_workers: Workers = Field(
        0,
        description=(
            "Ray workers that read in place of these processes, one core each, on machines with "
            "the same folders; 0: none. The result does not depend on it"
        ),
    )
    ray_address: str = Field("", description="Ray cluster of the workers, as generate.ray_address")

    @field_validator("min_tokens")
    @classmethod
    def _below_the_most(cls, least: int, others: ValidationInfo) -> int:
        """Otherwise no passage would be kept."""
        most = others.data.get("passage_tokens", least)
        if least > most:
            raise ValueError(f"is above ingest.passage_tokens = {most}")
        return least

    @field_validator("languages")
    @classmethod
    def _codes(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """A name such as "english" would drop every passage."""
        for name in names:
            if not re.fullmatch("[a-z]{2}", name):
                raise ValueError(f"{name!r} is no code of two letters such as en (ISO 639-1)")
        return names

    @field_validator("languages", mode="before")
    @classmethod
    def _listed(cls, names: Any) -> Any:
        return tuple(names) if isinstance(names, list) else names


class Generate(Section):
    """Bonito over passages x task types."""

    generator: str = Field(
        description="adapter folder or model (path or hub name) that was trained as Bonito"
    )
    revision: str = Field("main", description="revision of a hub model")
    address: str = Field(
        "",
        description=(
            "supervise.source prompted: OpenAI-compatible address that serves the generator, "
            "such as http://127.0.0.1:8000/v1"
        ),
    )
    task_types: tuple[TypeName, ...] = Field(
        min_length=1, description="short or full names, see docs/datasets.md"
    )
    samples: int = Field(ge=1, le=1000, description="tasks to write for each passage and task type")
    max_passages: Count = Field(description="passages to use, a seeded choice; 0: all")
    engine: Literal["vllm", "transformers"] = Field(
        description="vllm, or transformers where vLLM cannot run"
    )
    precision: Literal[Precision, "fp8"] = Field(
        "auto",
        description="of the weights; fp8: vLLM rounds them as it loads them, on a GPU",
    )
    gpu_memory_utilization: Fraction = Field(
        0.0,
        description=(
            "share of a GPU's memory that vLLM takes, less where something else needs some; 0: "
            "vLLM's own default"
        ),
    )
    temperature: float = Field(
        ge=0.0, le=2.0, description="sampling temperature; 0: always the likeliest token"
    )
    top_p: float = Field(
        gt=0.0, le=1.0, description="sample among the likeliest tokens that have this probability"
    )
    max_tokens: Tokens = Field(description="most tokens of a task; longer ones are cut off")
    retries: int = Field(
        0,
        ge=0,
        le=2,
        description=(
            "times that a task is sampled again whose response is cut off, missing, the passage "
            "itself or, in extraction, not in the passage or already in the question"
        ),
    )
    shard_rows: Positive = Field(
        description=(
            "most rows of one file that are generated and stored together: the unit of resuming, "
            "and of what a changed corpus generates again"
        )
    )
    workers: Workers = Field(
        0,
        description=(
            "Ray workers, each with the generator and, if there are GPUs, a GPU; 0: this "
            "process. On a CPU the rows do not depend on it"
        ),
    )
    ray_address: str = Field(
        "",
        description=(
            "Ray cluster of the workers, such as auto or 10.0.0.5:6379; empty: one on this "
            "machine that ends with the stage"
        ),
    )
    seed: Seed = Field(description="each row's own random seed is made from it")

    @field_validator("task_types", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        if not isinstance(names, (list, tuple)):
            raise ValueError("must be a list, such as [exqa]")
        try:
            types = tuple(task_type(str(name)) for name in names)
        except PipelineError as error:
            raise ValueError(str(error)) from error
        if len({*types}) < len(types):
            raise ValueError(f"names a type twice: {', '.join(map(str, names))}")
        return types


class Validate(Section):
    """Great Expectations over instruction/response rows."""

    min_yield: Fraction = Field(
        description="the run fails when a smaller share of the predictions is kept"
    )
    max_instruction_chars: Positive = Field(description="a longer instruction is dropped")
    max_response_chars: Positive = Field(description="a longer response is dropped")
    max_label_share: Fraction = Field(
        description=(
            "largest share of a label among a classification type's kept rows; the surplus is "
            "dropped (label_balance)"
        )
    )
    max_rows: Count = Field(description="rows to keep, a seeded choice; 0: all")
    labels: tuple[str, ...] = Field(
        (),
        description=(
            "custom label set for the classification types; empty: the family the instruction "
            "offers"
        ),
    )
    skip: tuple[str, ...] = Field((), description="names of expectations to leave out")
    seed: Seed = Field(description="decides which rows max_rows and max_label_share keep")

    @field_validator("labels", "skip", mode="before")
    @classmethod
    def _tuple(cls, names: Any) -> Any:
        return tuple(names) if isinstance(names, list) else names


#: A ``verify.reader`` that is no model: two are trained on the rows.
CROSS_FIT = "cross-fit"
#: A ``verify.reader`` that is none: rows pass as validate left them.
NO_READER = "none"


class Verify(Section):
    """A reader answers again what the generator was surest of; rows that it disagrees with are not
    kept.
    """

    reader: str = Field(
        description=(
            "model or adapter folder that answers, or a hub name; cross-fit: two readers, each "
            "trained on one half's rows for the other's; none: rows pass as validate left them"
        )
    )
    fit: Finetune | None = Field(
        None, description="cross-fit: how its readers are trained, a section as finetune"
    )
    revision: str = Field("main", description="revision of a hub model")
    address: str = Field(
        "",
        description=(
            "OpenAI-compatible address that serves the reader, such as http://127.0.0.1:8000/v1; "
            "labels are then asked for as text"
        ),
    )
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="vllm, or transformers where vLLM cannot run"
    )
    gpu_memory_utilization: Fraction = Field(
        0.0, description="share of a GPU's memory that vLLM takes; 0: vLLM's own default"
    )
    answers: int = Field(
        ge=1, le=1000, description="answers that the reader samples to each instruction"
    )
    temperature: float = Field(
        0.7, ge=0.0, le=2.0, description="sampling temperature of the reader's answers"
    )
    max_tokens: Tokens = Field(32, description="tokens of an answer")
    min_agreement: Fraction = Field(
        description=(
            "smallest share of the answers that agree with the row's response (token F1 of at "
            "least 0.5), and of those that are the same, also in their numbers, where adopt takes "
            "theirs. A label agrees where it is the reader's likeliest; adopt asks this "
            "probability of another"
        )
    )
    min_grounding: Fraction = Field(
        description=(
            "extraction: smallest share of the question's words in the sentence that holds the "
            "answer; 0: not asked"
        ),
    )
    adopt: bool = Field(
        description=(
            "a row whose response the answers agree against takes their answer, where they agree "
            "with each other"
        ),
    )
    repair: Literal["none", "span", "answer"] = Field(
        "none",
        description=(
            "rows that validate dropped only because of their response. span: a response that is "
            "almost a span of the passage is replaced by that span, and judged; answer: the other "
            "ones, too, take the reader's answer where its answers agree; none: they stay dropped"
        ),
    )
    confident_share: float = Field(
        gt=0.0,
        le=1.0,
        description=(
            "share of each type's rows to ask the reader: those that the generator was surest of, "
            "by the log-probability of its tokens; the others are not kept; 1: all, and so without "
            "a reader"
        ),
    )
    keep_per_passage: Count = Field(
        0,
        description=(
            "best rows to keep of each passage and task type, by agreement and confidence; 0: all"
        ),
    )
    tests: str = Field(
        NOTHING,
        description=(
            "rows of people that test the reader (a remix's heldout.parquet); without them a "
            "label type is tested on claims made from the passages"
        ),
    )
    reviews: str = Field(
        NOTHING,
        description="verdicts of people on rows, JSON Lines: docs/review.md",
    )
    exclude_wrong: bool = Field(
        description="do not train on a row that a review found wrong (wrong_by_review)"
    )
    test_rows: Positive = Field(120, description="rows that test the reader in each task type")
    shard_rows: Positive = Field(
        256, description="rows that are asked and stored together: the unit of resuming"
    )
    workers: Workers = Field(
        0,
        description="Ray workers, each with the reader; 0: this process. On a CPU the rows do not "
        "depend on it",
    )
    ray_address: str = Field("", description="Ray cluster of the workers, as generate.ray_address")
    seed: Seed = Field(description="for the reader's sampled answers, and for drawing its tests")


class Supervise(Section):
    """Which rows the target model is trained on: the paper's supervision sources."""

    source: SourceText = Field(
        description=(
            "bonito, prompted: what generate wrote; tapt: the raw passages, next-word; p3, "
            "labelled: supervise.rows; constructed: claims made from the passages by rules; "
            "none: no training (zero-shot, or finetune.start alone); or a mix, such as "
            "bonito+constructed:0.5"
        )
    )
    rows: str = Field(
        description=(
            "p3: prompted rows (a remix's train.parquet); labelled: training items in the "
            f"dataset's columns; others: {NOTHING}"
        )
    )
    prompts: str = Field(
        description="prompted: folder of the prompt texts, one YAML file a task type"
    )
    max_rows: Count = Field(description="rows to train on, a seeded choice; 0: all")
    seed: Seed = Field(description="decides which rows max_rows keeps, and their order")

    @field_validator("source")
    @classmethod
    def _parsed(cls, text: str) -> str:
        try:
            return str(parse_mix(text))
        except PipelineError as error:
            raise ValueError(str(error)) from error

    @property
    def mix(self) -> Mix:
        """The source, or the mix of sources."""
        return parse_mix(self.source)
