"""LoRA and Q-LoRA training of target models and of the generator, on a CPU resumable to the bit.

transformers' Trainer does the work. Added are the loss on response tokens alone, checkpoints that
count only when they are whole, and the loss curve. Several processes (:mod:`tasks.core.process`)
train one model: each has a copy and takes its share of every batch's rows, and the gradients are
summed.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import distributed
from transformers import TrainerCallback, TrainingArguments, set_seed

from tasks.core.errors import PipelineError
from tasks.core.process import rank, world_size
from tasks.core.sections.finetune import Finetune
from tasks.core.store import work_key
from tasks.lm.checkpoints import agree_on_checkpoint
from tasks.lm.examples import Example, training_order
from tasks.lm.fused_lora import fuse_lora
from tasks.lm.loading import load_model
from tasks.lm.memory import full_card, need_cards
from tasks.lm.precision import dtype
from tasks.lm.response_trainer import response_trainer

log = logging.getLogger(__name__)
#: 4-bit weights that are held dequantised at most: 2 GB in bfloat16, beside their 4-bit copies.
_MOST_DEQUANTIZED = 1_000_000_000
#: Settings that change no weight, or only which rows and start are chosen.
#: The key has those itself.
_SAME_WEIGHTS = {
    "processes",
    "checkpoints_gb",
    "checkpoint_steps",
    "resident",
    "gradient_checkpointing",
    "restart",
    "restart_share",
    "replay_share",
}


@dataclass(frozen=True)
class Trained:
    """The loss curve as (step, loss), all steps, and the response tokens of one epoch."""

    losses: list[tuple[int, float]]
    steps: int
    tokens: int

    def csv(self) -> str:
        """Return the loss curve as ``loss.csv`` holds it."""
        return "step,loss\n" + "".join(f"{step},{loss}\n" for step, loss in self.losses)


OnStep = Callable[[int, int, float], None]


def train(
    examples: Sequence[Example],
    settings: Finetune,
    pad_token: int,
    out: Path,
    checkpoints: Path,
    on_step: OnStep | None = None,
    start: Path | None = None,
) -> Trained:
    """Train a LoRA adapter, a new one or the one in ``start``, and save it (safetensors, bfloat16)
    to ``out``.

    After a kill the same call continues from the last whole checkpoint under ``checkpoints``, with
    the losses and weights of an undisturbed run. The folder must belong to exactly these examples
    and settings. ``on_step`` gets (step, last step, loss). Each of several processes calls this
    with the same arguments. The first alone reports and saves, and none returns before all are
    done.
    """
    if not examples:
        raise PipelineError("there are no rows to train on")
    # The arguments come first: with them each process gets its device.
    arguments = training_arguments(settings, checkpoints)
    order = training_order([len(example) for example in examples], settings)
    set_seed(settings.seed)
    model = lora_model(settings, start)
    trainer = response_trainer(
        model,
        arguments,
        examples,
        order,
        settings,
        pad_token,
        [_NeedFinite(settings.learning_rate), *([_Report(on_step)] if on_step else [])],
    )
    resume = agree_on_checkpoint(checkpoints)
    place = f", continuing from {resume.name}" if resume else ""
    log.info("training on %d rows%s", len(examples), place)
    smaller = (
        "set finetune.gradient_checkpointing: true, or lower finetune.micro_batch_rows "
        f"({settings.micro_batch_rows})"
    )
    with full_card("the training", smaller):
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
    tokens = sum(len(example.response) for example in examples)
    return Trained(losses, trainer.state.global_step, tokens)


def training_key(params: BaseModel, examples: Sequence[Example], start: str) -> str:
    """Return the key of a training's checkpoints and MLflow run.

    It holds the settings but those that change no weight, the examples, and the adapter that
    the training starts from (``start``: its SHA-256, empty for a new one).
    """
    rows = hashlib.sha256()
    for example in examples:
        rows.update(f"{example.prompt}{example.response}".encode())
    settings = params.model_dump(mode="json", exclude=_SAME_WEIGHTS)
    return work_key(__name__, settings, rows.hexdigest(), *filter(None, [start]))


def lora_model(settings: Finetune, start: Path | None = None) -> Any:
    """Return the base model, ready to train, with the LoRA adapter in ``start`` or a new one.

    A new one is on every linear layer but lm_head, as in QLoRA.
    """
    from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model

    model = load_model(settings.model, settings.revision, settings.quantization, settings.precision)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    # The adapter's own weights stay in float32 (autocast_adapter_dtype): at small learning rates
    # bf16 would round updates away.
    if start:
        config = PeftConfig.from_pretrained(str(start))
        config.lora_dropout = settings.lora_dropout
        model = PeftModel.from_pretrained(model, str(start), is_trainable=True, config=config)
    else:
        config = LoraConfig(
            r=settings.lora_rank,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
            base_model_name_or_path=settings.model,
            revision=settings.revision,
        )
        model = get_peft_model(model, config)
    fused = fuse_lora(model, dtype(settings.precision), choose_resident(settings, model))
    log.info("%d LoRA layers are fused", fused)
    return model


def choose_resident(settings: Finetune, model: Any) -> str:
    """Return how the 4-bit weights stay in memory: dequantized only where that is small.

    The training is the same either way, to the bit.
    """
    if settings.resident == "nf4" or settings.quantization == "none":
        return settings.resident
    quantised = sum(
        parameter.quant_state.shape.numel()
        for parameter in model.parameters()
        if getattr(parameter, "quant_state", None) is not None
    )
    if quantised <= _MOST_DEQUANTIZED:
        return settings.resident
    log.warning(
        "finetune.resident dequantized would hold another %.0f GB for %.1f billion weights: "
        "nf4 is used",
        quantised * dtype(settings.precision).itemsize / 1e9,
        quantised / 1e9,
    )
    return "nf4"


def save_adapter(model: Any, settings: Finetune, out: Path) -> None:
    """Save the adapter's weights as bfloat16 safetensors, and a config that names the base by its
    model name, not by a cache path.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = next(iter(model.peft_config.values()))
    config.base_model_name_or_path, config.revision = settings.model, settings.revision
    # Sorted: the order of a set would depend on the hash seed.
    config.target_modules = sorted(config.target_modules)
    weights = {name: value for name, value in model.state_dict().items() if "lora_" in name}
    state = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    model.save_pretrained(out, state_dict=state, safe_serialization=True)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card


def training_arguments(settings: Finetune, folder: Path) -> TrainingArguments:
    """Return the Trainer's arguments; with them each of several processes gets its device and
    joins the others.
    """
    gpu, processes = torch.cuda.is_available(), world_size()
    need_cards(processes)
    if settings.batch_rows % (settings.micro_batch_rows * processes):
        times = f" times {processes} processes" if processes > 1 else ""
        raise PipelineError(
            f"finetune.micro_batch_rows = {settings.micro_batch_rows}{times} must "
            f"divide finetune.batch_rows = {settings.batch_rows}"
        )
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=settings.micro_batch_rows,
        # Processes take micro batches in turn, so the rows of a step do not depend on their number.
        gradient_accumulation_steps=settings.batch_rows // (settings.micro_batch_rows * processes),
        # training_order already holds every epoch. With max_steps set, the Trainer would start the
        # rows again where they are few, and on resume from the last step run one step too many.
        num_train_epochs=1,
        learning_rate=settings.learning_rate,
        # The Trainer's "constant" does not warm up, whatever warmup_steps says.
        lr_scheduler_type=(
            "constant_with_warmup" if settings.schedule == "constant" else settings.schedule
        ),
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        # Not bitsandbytes' paged one: it never gives its memory back, a resume on several GPUs ends
        # with an error, and a checkpoint of a CPU could not continue on a GPU. The state is small.
        optim="adamw_torch",
        bf16=dtype(settings.precision) == torch.bfloat16,
        use_cpu=not gpu,
        train_sampling_strategy="sequential",
        logging_steps=1,
        # It would log a loss of NaN as 0: :class:`_NeedFinite` could not see it.
        logging_nan_inf_filter=False,
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
        # The Trainer of one process would make batches for all visible GPUs.
        arguments._n_gpu = 1
    return arguments


class _NeedFinite(TrainerCallback):
    """Ends a training whose loss is no number: from there on all its weights are none."""

    def __init__(self, learning_rate: float) -> None:
        self.learning_rate = learning_rate

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        loss = float((logs or {}).get("loss", 0.0))
        if not math.isfinite(loss):
            raise PipelineError(
                f"the loss of step {state.global_step} is {loss}: the training has diverged; lower "
                f"finetune.learning_rate ({self.learning_rate:g})"
            )


class _Report(TrainerCallback):
    def __init__(self, on_step: OnStep) -> None:
        self.on_step = on_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs and state.is_world_process_zero:
            self.on_step(state.global_step, state.max_steps, float(logs["loss"]))
