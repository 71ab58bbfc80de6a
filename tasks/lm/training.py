"""LoRA and Q-LoRA training of a causal language model, resumable to the bit: used for target models
and for the generator alike.

transformers' Trainer does the work. Added here: the loss on response tokens with the head applied
only there, checkpoints that count only when they are whole, and the loss curve as rows. Several
processes (:mod:`tasks.core.process`) train one model: each has a copy and takes its share of every
batch's rows, and the gradients are added up.
"""

from __future__ import annotations

import logging
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any, Protocol

import torch
from pydantic import BaseModel
from torch import distributed
from torch.nn import functional
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.process import rank, world_size
from tasks.core.store import is_whole, seal_folder, work_key
from tasks.lm.fused_lora import fuse_lora
from tasks.lm.models import dtype, load_model, resolve, vocabulary_logits

log = logging.getLogger(__name__)
_IGNORED = -100
_LENGTH_MULTIPLE = 32


class Settings(Protocol):
    """What training reads of a params section (see :class:`tasks.core.params.Finetune`)."""

    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str: ...
    @property
    def quantization(self) -> Any: ...
    @property
    def precision(self) -> Any: ...
    @property
    def resident(self) -> Any: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def lora_dropout(self) -> float: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def schedule(self) -> Any: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def max_grad_norm(self) -> float: ...
    @property
    def batch_rows(self) -> int: ...
    @property
    def micro_batch_rows(self) -> int: ...
    @property
    def epochs(self) -> float: ...
    @property
    def max_steps(self) -> int: ...
    @property
    def max_tokens(self) -> int: ...
    @property
    def checkpoint_steps(self) -> int: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Example:
    """Token ids of one row; the loss falls on ``response`` alone."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class Trained:
    """The loss curve as (step, loss), the steps of the whole run, and the response tokens of one
    pass over the rows.
    """

    losses: list[tuple[int, float]]
    steps: int
    tokens: int

    def csv(self) -> str:
        """Return the loss curve as ``loss.csv`` holds it."""
        return "step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in self.losses)


OnStep = Callable[[int, int, float], None]


def train(
    examples: list[Example],
    settings: Settings,
    pad_token: int,
    out: Path,
    checkpoints: Path,
    on_step: OnStep | None = None,
    start: Path | None = None,
) -> Trained:
    """Train a LoRA adapter on ``examples``, a fresh one or the one in ``start``, and save it
    (safetensors, bfloat16) to ``out``.

    A killed call continues from the last whole checkpoint under ``checkpoints``, with the losses
    and weights an undisturbed run would have had; the caller gives a folder that belongs to exactly
    these examples and settings. ``on_step`` gets (step, last step, loss). Of several processes each
    calls this with the same arguments; the first alone reports and saves, and none returns before
    all are done.
    """
    if not examples:
        raise PipelineError("there are no rows to train on: look at the quarantine of validate")
    arguments = training_arguments(
        settings, checkpoints
    )  # first of all: they tell each process its device
    order = training_order(
        [len(example.prompt) + len(example.response) for example in examples], settings
    )
    set_seed(settings.seed)
    model = lora_model(settings, start)
    trainer = response_trainer(
        model,
        arguments,
        [examples[index] for index in order],
        settings,
        pad_token,
        [_Report(on_step)] if on_step else [],
    )
    resume = _agreed_checkpoint(checkpoints)
    log.info(
        "training on %d rows%s", len(examples), f", continuing from {resume.name}" if resume else ""
    )
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if rank() == 0:
        save_adapter(model, settings, out)
    if world_size() > 1:
        distributed.barrier()
        distributed.destroy_process_group()
    losses = [
        (entry["step"], float(entry["loss"]))
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    return Trained(
        losses, trainer.state.global_step, sum(len(example.response) for example in examples)
    )


def response_trainer(
    model: Any,
    arguments: TrainingArguments,
    examples: list[Example],
    settings: Settings,
    pad_token: int,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trainer:
    """Return the Trainer of a model of :func:`lora_model` over examples in the order of
    training.
    """
    model.forward = MethodType(_forward_to_loss, model)
    trainer = _ResponseTrainer(
        model=model,
        args=arguments,
        train_dataset=_even(
            [_row(example) for example in examples],
            settings.micro_batch_rows * world_size(),
            pad_token,
        ),
        data_collator=_Collator(pad_token),
        callbacks=[_SealCheckpoint(), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def training_order(lengths: list[int], settings: Settings) -> list[int]:
    """Return the rows' indices in the order of training, all epochs in one list of ``max_steps``
    batches at most; a batch is the next ``batch_rows``.

    Rows of like length stand together (sorted within stretches of 50 batches, the batches of a
    stretch shuffled), so that little is padded. The order is worked out here, from the seed alone,
    because the Trainer's own sampler draws another one when it resumes.
    """
    chance = random.Random(settings.seed)
    drawn: list[int] = []
    if settings.max_tokens:  # the budget decides how many passes over the rows that takes
        tokens = 0
        while tokens < settings.max_tokens:
            for index in chance.sample(range(len(lengths)), len(lengths)):
                if tokens < settings.max_tokens:
                    drawn.append(index)
                    tokens += lengths[index]
    else:
        while len(drawn) < max(1, round(settings.epochs * len(lengths))):
            drawn += chance.sample(range(len(lengths)), len(lengths))
        drawn = drawn[: max(1, round(settings.epochs * len(lengths)))]
    order: list[int] = []
    stretch = 50 * settings.batch_rows
    for start in range(0, len(drawn), stretch):
        rows = sorted(drawn[start : start + stretch], key=lambda index: -lengths[index])
        batches = [
            rows[first : first + settings.batch_rows]
            for first in range(0, len(rows), settings.batch_rows)
        ]
        whole = [batch for batch in batches if len(batch) == settings.batch_rows]
        chance.shuffle(whole)
        order += [index for batch in whole + batches[len(whole) :] for index in batch]
    return order[: settings.max_steps * settings.batch_rows or None]


def start_adapter(settings: Settings, start: Path) -> Path | None:
    """Return the adapter to go on from, None for a fresh one; one that does not fit the model and
    the LoRA settings is an error.
    """
    if start.is_file():
        return None
    found = resolve(str(start))
    if found.adapter is None:
        raise PipelineError(
            f"finetune.start = {start}: no adapter there (adapter_config.json is missing)"
        )
    config = read_json(start / "adapter_config.json")
    for name, held, asked in (
        ("model", found.base, settings.model),
        ("lora_rank", config["r"], settings.lora_rank),
        ("lora_alpha", config["lora_alpha"], settings.lora_alpha),
    ):
        if held != asked:
            raise PipelineError(
                f"finetune.start = {start} was trained with {name} {held}, but "
                f"finetune.{name} is {asked}: they must agree"
            )
    return start


def training_key(params: BaseModel, examples: Sequence[Example], began: str) -> str:
    """Return what a training is known by, its checkpoints and its run: settings (but for how many
    processes share it), examples, and the weights it goes on from (``began``: their SHA-256, empty
    for a fresh adapter).
    """
    rows = [(example.prompt, example.response) for example in examples]
    return work_key(
        __name__,
        params.model_dump(mode="json", exclude={"processes"}),
        rows,
        *([began] if began else []),
    )


def lora_model(settings: Settings, start: Path | None = None) -> Any:
    """Return the base model with a fresh LoRA on every linear layer but lm_head (QLoRA's choice),
    or with the one in ``start``, ready to train.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    model = load_model(settings.model, settings.revision, settings.quantization, settings.precision)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        base_model_name_or_path=settings.model,
        revision=settings.revision,
    )
    # The adapter's own weights stay in float32 (autocast_adapter_dtype): at small learning rates
    # bf16 would round updates away.
    model = (
        PeftModel.from_pretrained(model, str(start), is_trainable=True)
        if start
        else get_peft_model(model, config)
    )
    log.info(
        "%d LoRA layers are computed in one piece",
        fuse_lora(model, dtype(settings.precision), settings.resident),
    )
    return model


def save_adapter(model: Any, settings: Settings, out: Path) -> None:
    """Save the adapter's weights as bfloat16 safetensors, and a config that names the base by its
    model name, not by a cache path.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = next(iter(model.peft_config.values()))
    config.base_model_name_or_path, config.revision = settings.model, settings.revision
    config.target_modules = sorted(
        config.target_modules
    )  # a set: its order would depend on the hash seed
    state = {
        name: value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
        if "lora_" in name
    }
    model.save_pretrained(out, state_dict=state, safe_serialization=True)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card


def training_arguments(settings: Settings, folder: Path) -> TrainingArguments:
    """Return the Trainer's arguments; of several processes, each has its device and knows the
    others from here on.
    """
    gpu, processes = torch.cuda.is_available(), world_size()
    if gpu and processes > torch.cuda.device_count():
        raise PipelineError(
            f"finetune.processes = {processes}, but {torch.cuda.device_count()} GPUs can "
            "be seen (CUDA_VISIBLE_DEVICES chooses them)"
        )
    if settings.batch_rows % (settings.micro_batch_rows * processes):
        together = f" times {processes} processes" if processes > 1 else ""
        raise PipelineError(
            f"finetune.micro_batch_rows = {settings.micro_batch_rows}{together} must "
            f"divide finetune.batch_rows = {settings.batch_rows}"
        )
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.micro_batch_rows,
        # Micro batches are dealt out in turns, so the rows of a step are the same whatever the
        # number of processes.
        gradient_accumulation_steps=settings.batch_rows // (settings.micro_batch_rows * processes),
        # All epochs, and no row behind the last step, stand in training_order: told max_steps, the
        # Trainer would start the rows again when there are too few, and do one step too many when
        # it resumes from the last one.
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        # The paged optimiser moves its state between GPU and host memory; there is nothing to page
        # on a CPU.
        optim="paged_adamw_32bit" if gpu else "adamw_torch",
        bf16=dtype(settings.precision) == torch.bfloat16,
        use_cpu=not gpu,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_steps=settings.checkpoint_steps,
        save_total_limit=2,
        seed=settings.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=gpu,
        ddp_find_unused_parameters=False,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    if arguments.n_gpu > 1:
        # one process with several GPUs in sight: the Trainer would make batches for all of them
        arguments._n_gpu = 1
    return arguments


def _even(
    rows: list[dict[str, list[int]]], multiple: int, pad_token: int
) -> list[dict[str, list[int]]]:
    """Return the rows with empty ones behind them, for several processes: accelerate would fill the
    last batch with the first rows again.
    """
    missing = -len(rows) % multiple if world_size() > 1 else 0
    return rows + [{"input_ids": [pad_token], "labels": [_IGNORED]}] * missing


def _row(example: Example) -> dict[str, list[int]]:
    ids = [*example.prompt, *example.response]
    return {"input_ids": ids, "labels": [_IGNORED] * len(example.prompt) + list(example.response)}


@dataclass(frozen=True)
class _Collator:
    """Pads on the right: input_ids and labels, each int64 [rows, longest].

    No attention mask: under causal attention no token sees what stands to its right, and padding
    bears no loss. Without a mask the fast attention kernels run. The length is a multiple of 32, so
    that kernels compiled for one shape serve many batches.
    """

    pad_token: int

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        longest = (
            -(-max(len(row["input_ids"]) for row in rows) // _LENGTH_MULTIPLE) * _LENGTH_MULTIPLE
        )

        def padded(key: str, value: int) -> torch.Tensor:
            return torch.tensor([row[key] + [value] * (longest - len(row[key])) for row in rows])

        return {
            "input_ids": padded("input_ids", self.pad_token),
            "labels": padded("labels", _IGNORED),
        }


class _ResponseTrainer(Trainer):
    """A Trainer whose loss is the mean over response tokens, with the vocabulary head applied at
    those positions alone.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # Divide by the trainable tokens of the whole effective batch, not by each micro batch's
        # own.
        self.model_accepts_loss_kwargs = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        loss = model(inputs["input_ids"], inputs["labels"], num_items_in_batch)["loss"]
        # The tokens are counted over all processes, whose gradients are averaged: times their
        # number that is the sum.
        return loss * world_size() if world_size() > 1 else loss


def _forward_to_loss(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, tokens: Any
) -> dict[str, torch.Tensor]:
    """Take the place of the model's own forward, as gradients are added up over the processes for
    what its forward has computed alone.

    Without autocast, into which accelerate wraps a forward: the weights are in the dtype of
    ``precision`` already.
    """
    with torch.autocast(input_ids.device.type, enabled=False):
        return {"loss": response_loss(model, {"input_ids": input_ids, "labels": labels}, tokens)}


def response_loss(model: Any, inputs: dict[str, torch.Tensor], tokens: Any = None) -> torch.Tensor:
    """Return the summed cross-entropy of the labelled tokens over ``tokens`` (their number where
    None is given), a scalar.

    ``inputs``: input_ids and labels, each [rows, length], padded on the right; -100 marks tokens
    without loss. Equal to the model's own loss, but the head and the softmax (a large share of the
    work of a small model with a 49k vocabulary) run on labelled positions only.
    """
    labels = inputs["labels"][:, 1:]
    wanted = labels != _IGNORED
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = base.get_decoder()(input_ids=inputs["input_ids"], use_cache=False).last_hidden_state
    logits = vocabulary_logits(base, hidden[:, :-1][wanted])
    return functional.cross_entropy(logits, labels[wanted], reduction="sum") / (
        wanted.sum() if tokens is None else tokens
    )


def _agreed_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that the first process found whole; the others wait for its word."""
    found = [last_whole_checkpoint(folder) if rank() == 0 else None]
    if world_size() > 1:
        distributed.broadcast_object_list(found, src=0)
    return found[0]


def last_whole_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose marker agrees with its files; cut short or damaged ones
    are named and removed.
    """
    found = sorted(
        folder.glob("checkpoint-*"),
        key=lambda path: int(path.name.rpartition("-")[2]),
        reverse=True,
    )
    for checkpoint in found:
        if is_whole(checkpoint):
            return checkpoint
        log.warning(
            "%s is cut short or damaged: removed, training goes back to the one before", checkpoint
        )
        shutil.rmtree(checkpoint)
    return None


class _SealCheckpoint(TrainerCallback):
    """Seals a checkpoint once all its files are there: the Trainer's own saves are not staged."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if world_size() > 1:
            distributed.barrier()  # every process writes the state of its random numbers
        if state.is_world_process_zero:
            seal_folder(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _Report(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self.on_step(state.global_step, state.max_steps, float(logs["loss"]))
