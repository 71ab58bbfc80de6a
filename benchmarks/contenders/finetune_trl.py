"""TRL's SFTTrainer on the same 4-bit model and the same LoRA: at its defaults, or tuned for this
machine.

Its defaults: eight rows a device, gradient checkpointing, bf16. Tuned: no checkpointing, rows
grouped by length, no logging. Both train on the response alone, as their rows come with labels.
``padding_free`` and packing want flash attention, which a CPU has not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from benchmarks.worker import Done, serve
from datasets import Dataset
from tasks.lm.loading import load_model
from tasks.lm.precision import dtype
from tasks.lm.tokenizers import load_tokenizer

_TUNED: dict[str, Any] = {
    "gradient_checkpointing": False,
    "train_sampling_strategy": "group_by_length",
}


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Make the trainer; its rows are token ids already, so that all contenders train on the same
    ones.
    """
    settings = config["settings"]
    rows = json.loads(Path(config["rows"]).read_text(encoding="utf-8"))
    ids = [row["prompt"] + row["response"] for row in rows]
    labels = [[-100] * len(row["prompt"]) + row["response"] for row in rows]
    a_device = min(8, settings["batch_rows"])  # TRL's default
    arguments = SFTConfig(
        output_dir=config["work"],
        per_device_train_batch_size=a_device,
        gradient_accumulation_steps=settings["batch_rows"] // a_device,
        num_train_epochs=1,
        learning_rate=settings["learning_rate"],
        max_grad_norm=settings["max_grad_norm"],
        bf16=dtype("auto") == torch.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **(_TUNED if config["tuned"] else {}),
    )
    lora = LoraConfig(
        r=settings["lora_rank"],
        lora_alpha=settings["lora_alpha"],
        lora_dropout=settings["lora_dropout"],
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    trainer = SFTTrainer(
        load_model(settings["model"], quantization="nf4"),
        arguments,
        train_dataset=Dataset.from_dict({"input_ids": ids, "labels": labels}),
        processing_class=load_tokenizer(settings["model"]),
        peft_config=lora,
    )
    return {"trainer": trainer, "tokens": sum(map(len, ids))}


def play(state: dict[str, Any]) -> Done:
    """Train on every row once."""
    return Done(state["tokens"], {"loss": state["trainer"].train().training_loss})


if __name__ == "__main__":
    serve(load, play)
