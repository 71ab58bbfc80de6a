"""``params.yaml``, parsed once into frozen, typed models that refuse unknown keys.

One section a stage. ``params.yaml`` is the embedded default; a file of ``profiles/`` overlays it
(see tasks/core/overlay.py).
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from tasks.core.errors import PipelineError, did_you_mean
from tasks.core.task_types import TASK_TYPES, task_type
from tasks.core.yaml_file import read_yaml

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
#: A short or full name; validators check it, the schema offers all of them to an editor.
TypeName = Annotated[
    str,
    WithJsonSchema(
        {
            "type": "string",
            "enum": [name for kind in TASK_TYPES.values() for name in (kind.name, kind.full_name)],
        }
    ),
]
#: Keys of Hugging Face, OpenAI, GitHub, GitLab, Slack, Google and Amazon, private keys, web tokens,
#: and addresses with a password.
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{20,}"
    r"|\bglpat-[\w-]{20,}|\bxox[abprs]-[\w-]{10,}|\bAIza[\w-]{30,}|\bA(KIA|SIA)[A-Z0-9]{16}\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\beyJ[\w-]{10,}\.[\w-]{10,}\.|://[^/\s:@]+:[^/\s@]+@"
)
Precision = Literal["auto", "float32", "bfloat16"]


class Section(BaseModel):
    """Base of every section: immutable, unknown keys refused, no silent conversions between
    types.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Ingest(Section):
    """Documents into passages."""

    corpus: str = Field(
        description=(
            "folder or file of documents, an address of fsspec (s3://...), or a hub dataset "
            "(hf://owner/name)"
        )
    )
    text_column: str = Field(
        "",
        description=(
            "column that holds the text of tables; empty: text, and a CSV file without it is "
            "read as a whole table"
        ),
    )
    passage_tokens: Positive = Field(
        description="most tokens a passage may have, counted by the generator's own tokenizer"
    )
    tokenizer: str = Field(
        "",
        description=(
            "model whose tokenizer counts them instead, so that all generators get the same "
            "passages; empty: the generator's"
        ),
    )
    min_tokens: int = Field(ge=0, description="shorter passages are dropped (reason: too_short)")
    languages: tuple[str, ...] = Field(
        (), description="ISO 639-1 codes of the languages to keep, such as [en]; empty: all"
    )
    boilerplate_share: Fraction = Field(
        0.3,
        description=(
            "cut out lines that stand in this share of the documents, and in five at least; "
            "0: keep them"
        ),
    )
    exact_duplicates: bool = Field(
        True,
        description=(
            "drop passages with the same text, but for case and white space, as an earlier one"
        ),
    )
    near_duplicates: float = Field(
        0.9,
        ge=0.0,
        le=1.0,
        description=(
            "drop passages at least so similar to an earlier one (Jaccard, by MinHash); 0: "
            "keep them"
        ),
    )
    mask_personal_data: bool = Field(
        False,
        description=(
            "put [EMAIL], [PHONE], [IBAN], [CARD], [IP], [SSN] in place of such data before "
            "anything else"
        ),
    )
    drop_evaluation_overlap: bool = Field(
        description=(
            "drop passages that also stand in the evaluation set; the paper keeps them, they "
            "are always counted"
        )
    )
    evaluation_words: Positive = Field(
        13,
        description="so many words in a row shared with the evaluation set count as standing in it",
    )
    ocr: bool = Field(
        False,
        description=(
            "recognise scanned PDF pages with the tesseract program, which must be installed"
        ),
    )
    ocr_languages: str = Field(
        "eng", description="tesseract's names of the languages, such as eng+deu"
    )
    follow_links: bool = Field(
        False, description="read symbolic links that lead out of the corpus folder"
    )
    max_file_mb: Positive = Field(
        256,
        description=(
            "larger files, rows and unpacked archive members are refused (tables and archives "
            "are streamed)"
        ),
    )
    file_seconds: float = Field(
        120.0, gt=0.0, description="a file that takes longer without giving anything is cut off"
    )
    file_memory_mb: int = Field(2048, ge=64, description="a file that takes more memory is cut off")
    workers: int = Field(
        0, ge=0, description="processes; 0: one a core. The result does not depend on it"
    )

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
    samples: Positive = Field(description="tasks to write for each passage and task type")
    max_passages: int = Field(ge=0, description="passages to use, a seeded choice; 0: all")
    engine: Literal["vllm", "transformers"] = Field(
        description="vllm, or transformers where vLLM cannot run"
    )
    precision: Literal[Precision, "fp8"] = Field(
        "auto",
        description="of the weights; fp8: rounded to it by vLLM as they are loaded, on a GPU",
    )
    temperature: float = Field(ge=0.0, le=2.0)
    top_p: float = Field(gt=0.0, le=1.0)
    max_tokens: Positive
    shard_rows: Positive = Field(
        description=(
            "rows that go to the engine together and are kept together: the unit of resuming"
        )
    )
    workers: int = Field(
        0,
        ge=0,
        description=(
            "Ray workers, each with the generator and, where there are GPUs, one of its own; "
            "0: this process. Same rows"
        ),
    )
    ray_address: str = Field(
        "",
        description=(
            "Ray cluster of the workers, such as auto or 10.0.0.5:6379; empty: one on this "
            "machine, ended with the stage"
        ),
    )
    seed: Seed

    @field_validator("task_types", mode="before")
    @classmethod
    def _known(cls, names: Any) -> tuple[str, ...]:
        if not isinstance(names, (list, tuple)):
            raise ValueError("must be a list, such as [exqa]")
        try:
            return tuple(task_type(str(name)) for name in names)
        except PipelineError as error:
            raise ValueError(str(error)) from error


class Validate(Section):
    """Great Expectations over instruction/response rows."""

    min_yield: Fraction = Field(
        description="the run fails when a smaller share of the predictions is kept"
    )
    max_instruction_chars: Positive
    max_response_chars: Positive
    max_label_share: Fraction = Field(
        description=(
            "most a label may make up of a classification type's kept rows; the surplus is "
            "dropped (label_balance)"
        )
    )
    max_rows: int = Field(ge=0, description="rows to keep, a seeded choice; 0: all")
    labels: tuple[str, ...] = Field(
        (),
        description=(
            "custom label set for the classification types; empty: the family the instruction "
            "offers"
        ),
    )
    skip: tuple[str, ...] = Field((), description="names of expectations to leave out")
    seed: Seed

    @field_validator("labels", "skip", mode="before")
    @classmethod
    def _tuple(cls, names: Any) -> Any:
        return tuple(names) if isinstance(names, list) else names


class Supervise(Section):
    """Which rows the target model is trained on: the paper's supervision sources."""

    source: Literal["bonito", "prompted", "tapt", "p3", "labelled", "constructed", "none"] = Field(
        description=(
            "bonito, prompted: what generate wrote; tapt: the raw passages, next-word; p3, "
            "labelled: supervise.rows; constructed: claims made from the passages by rules; "
            "none: no training (zero-shot)"
        )
    )
    rows: str = Field(
        description=(
            "p3: prompted rows (a remix's train.parquet); labelled: training items in the "
            "dataset's columns; others: supervision/none"
        )
    )
    prompts: str = Field(
        description="prompted: folder of the prompt texts, one YAML file a task type"
    )
    max_rows: int = Field(ge=0, description="rows to train on, a seeded choice; 0: all")
    seed: Seed


class Finetune(Section):
    """Q-LoRA of the target model."""

    model: str = Field(
        description="target model: embedded:smollm2-135m-instruct, a path, or a hub name"
    )
    revision: str = Field("main", description="revision of a hub model")
    start: str = Field(
        "supervision/none",
        description="adapter folder to go on from; supervision/none: a fresh adapter",
    )
    prompt: Literal["auto", "bonito", "chat"] = Field(
        description="auto: the chat template where the model has one, else <|input|>/<|output|>"
    )
    quantization: Literal["nf4", "none"] = Field(
        description="nf4 with double quantisation, or none (LoRA on unquantised weights)"
    )
    resident: Literal["nf4", "dequantized"] = Field(
        "nf4",
        description=(
            "4-bit weights in memory: nf4, dequantised at every pass; or dequantized once, to "
            "the same values: faster, 4 times the memory"
        ),
    )
    precision: Precision = "auto"
    lora_rank: Positive
    lora_alpha: Positive
    lora_dropout: Fraction
    learning_rate: float = Field(gt=0.0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(0, ge=0)
    max_grad_norm: float = Field(gt=0.0)
    batch_rows: Positive = Field(description="rows an optimiser step (effective batch)")
    micro_batch_rows: Positive = Field(description="rows a forward pass; must divide batch_rows")
    epochs: float = Field(gt=0.0, description="passes over the rows")
    max_steps: int = Field(ge=0, description="steps at most; 0: as many as the epochs give")
    max_tokens: int = Field(
        0,
        ge=0,
        description=(
            "tokens to train on, prompts and responses, as many passes as that takes; 0: as "
            "many as the epochs give"
        ),
    )
    max_prompt_tokens: Positive
    max_response_tokens: Positive
    checkpoint_steps: Positive = Field(
        description="steps between checkpoints: the most a kill can cost"
    )
    gradient_checkpointing: bool = False
    processes: Positive = Field(
        1,
        description=(
            "GPUs that train together, each with a copy of the model; without a GPU, CPU processes"
        ),
    )
    seed: Seed


class Baseline(Section):
    """What the adapted model is compared with: the model as it came, on the same items, and on
    general tasks that adaptation may undo.
    """

    general: str = Field(
        description=(
            "held-out prompted rows of general tasks (a remix's heldout.parquet), scored "
            "before and after; supervision/none: none"
        )
    )
    general_rows: Positive = Field(
        description="rows of it to score, a seeded choice spread evenly over task types"
    )
    seed: Seed


class Evaluate(Section):
    """Base and adapted model over the labelled evaluation set."""

    dataset: str = Field(
        description="a file of datasets/: task type, columns, label set and prompt templates"
    )
    items: str = Field(
        description="labelled items, JSONL, CSV or Parquet, with the dataset file's columns"
    )
    max_items: int = Field(ge=0, description="items to score, a seeded choice; 0: all")
    templates: int = Field(ge=0, description="prompt templates to use, the first so many; 0: all")
    engine: Literal["vllm", "transformers"] = Field(
        description=(
            "who generates the extractive answers; ranked choices are always scored by transformers"
        )
    )
    max_new_tokens: Positive = Field(description="tokens of an extractive answer")
    batch_rows: Positive
    bootstrap: int = Field(ge=100, description="resamples of the 95 % intervals")
    prior_correction: bool = Field(
        True,
        description=(
            "classification: also report, apart, F1 with each template's liking for a choice "
            "taken out"
        ),
    )
    seed: Seed


class Register(Section):
    """MLflow: run, metrics, adapter, alias."""

    experiment: str
    model_name: str = Field("", description="registered model; empty: <target model>-<dataset>")
    parity_items: int = Field(
        6,
        ge=0,
        description=(
            "evaluation items that the 4-bit adapter, the merged and the served model all "
            "answer; 0: no check"
        ),
    )
    parity_floor: Fraction = Field(
        0.0,
        description=(
            "least share of them on which all agree; below it nothing is registered. 0: it is "
            "only told"
        ),
    )


# The sections are called what the stages are called. pydantic warns that two of the names hide a
# method (BaseModel's deprecated `validate`, and `register` of every abstract class); neither is
# used.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Field name .* shadows an attribute", UserWarning)

    class Params(Section):
        """The whole file."""

        ingest: Ingest
        generate: Generate
        # Without Field() the hidden methods would be the defaults, and the sections optional.
        validate: Validate = Field()  # type: ignore[assignment]
        supervise: Supervise
        finetune: Finetune
        baseline: Baseline
        evaluate: Evaluate
        register: Register = Field()


def load_params(path: Path, model: type[Section] = Params) -> Any:
    """Parse a YAML file into ``model``; every problem is one :class:`PipelineError` that names the
    key and what was meant.
    """
    return parse_params(read_yaml(path), str(path), model)


def parse_params(values: dict[str, Any], where: str, model: type[Section] = Params) -> Any:
    """Parse already loaded values; ``where`` names their source in errors."""
    _refuse_secrets(values)
    try:
        return model.model_validate(_tuples(values))
    except ValidationError as error:
        problems = [_explain(problem, model) for problem in error.errors()]
        raise PipelineError(f"{where}: {'; '.join(problems)}") from error


def _refuse_secrets(value: Any, place: str = "") -> None:
    """Parameters are written to logs, DVC's lock file and MLflow: a password or key among them is
    refused, and not repeated in the error.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_secrets(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_secrets(inner, place)
    elif isinstance(value, str) and _SECRET.search(value):
        raise PipelineError(
            f"the value of {place} looks like a password or a key: such things come from "
            "the environment alone (HF_TOKEN, ...), never from parameters"
        )


def _tuples(value: Any) -> Any:
    """Lists become tuples: strict, frozen models take no list for a tuple."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _explain(problem: Any, model: type[BaseModel]) -> str:
    place = [str(part) for part in problem["loc"]]
    if problem["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(place)!r}{did_you_mean(place[-1], _keys(model, place[:-1]))}"
    if problem["type"] == "missing":
        return f"missing key {'.'.join(place)!r}"
    return f"{'.'.join(place)} = {problem['input']!r}: {problem['msg']}"


def _keys(model: type[BaseModel], place: list[str]) -> list[str]:
    for part in place:
        if (
            part.isdecimal()
        ):  # an entry of a list of sections: the list's own step led to their model
            continue
        annotation = model.model_fields[part].annotation
        model = next(
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return list(model.model_fields)
