"""The paths of training: load in 4 bits, train, compare with float32, kill and resume, merge."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import torch
from safetensors import safe_open

from benchmarks.contenders import finetune_gate
from benchmarks.finetune import TOLERANCES, loss_gate
from benchmarks.gpu_check.outcome import Figures
from benchmarks.gpu_check.setting import Setting
from benchmarks.harness import PASSED
from benchmarks.roofline import Need, read_weights
from tasks.core.sections.finetune import Finetune
from tasks.lm.checkpoints import last_whole_checkpoint
from tasks.lm.examples import Example, training_order
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.lm.merged import round_weight
from tasks.lm.precision import dtype
from tasks.lm.training import train

#: Higher than the profile's: after a few steps the adapter must stand above bfloat16's rounding.
_RATE = 0.01
_STEPS, _CHECKPOINT_STEPS = 6, 2
#: Of the gradients of all LoRA matrices with those in float32.
_LEAST_COSINE = 0.99
#: Losses after a resume, relative: on a GPU sums of gradients have no fixed order.
_MOST_OFF = 1e-3
#: Mean error of a merged weight over its mean change, beside the rounding of its own precision.
_MOST_ERROR = 0.1
_LAYER = "model.layers.0.self_attn.q_proj"


def load_4bit(setting: Setting) -> Figures:
    """Load the whole model in 4 bits; every weight of its layers is to be packed."""
    settings = setting.finetune(setting.whole)
    with freed_after(
        load_model(settings.model, quantization="nf4", precision=settings.precision)
    ) as model:
        packed = sum(
            parameter.quant_state.shape.numel()
            for parameter in model.parameters()
            if getattr(parameter, "quant_state", None) is not None
        )
        held = sum(parameter.nbytes for parameter in model.parameters())
        ids = torch.tensor([setting.prompts(1)[0]], device=model.device)
        with torch.inference_mode():
            finite = bool(model(input_ids=ids, logits_to_keep=1).logits.isfinite().all())
    weights = read_weights(settings.model)
    gate = PASSED if finite else "the logits are not finite"
    if packed != weights.body:
        gate = f"{packed:,} weights are packed, not {weights.body:,}"
    return Figures(gate, f"{held / 2**30:.2f} GiB of parameters, {weights.bytes / 2**30:.2f} plain")


def train_steps(setting: Setting) -> Figures:
    """Train a few Q-LoRA steps on the whole model, with the profile's settings."""
    steps = setting.shape.steps
    settings = setting.finetune(setting.whole, learning_rate=_RATE, checkpoint_steps=steps)
    examples = setting.examples(steps * settings.batch_rows)
    times: list[float] = []
    trained = train(
        examples,
        settings,
        setting.pad_token,
        setting.trained,
        setting.work / "checkpoints",
        lambda step, last, loss: times.append(time.perf_counter()),
        setting.start,
    )
    losses = [loss for _, loss in trained.losses]
    gate = PASSED if len(losses) == steps else f"{len(losses)} steps were made, not {steps}"
    # The first step is the warm-up.
    order = training_order([len(example) for example in examples], settings)
    timed = [examples[index] for index in order[settings.batch_rows :]]
    tokens = sum(map(len, timed))
    passes = (steps - 1) * settings.batch_rows // settings.micro_batch_rows
    need = Need(tokens, sum(len(one.response) for one in timed), passes, backward=True)
    note = "losses " + " ".join(f"{loss:.3f}" for loss in losses)
    weights = read_weights(settings.model)
    return Figures(gate, note, tokens, times[-1] - times[0], need, weights)


def compare_gradients(setting: Setting) -> Figures:
    """Compare loss and gradients of the cut with float32, row by row, without 4-bit kernels."""
    settings = setting.finetune(setting.cut)
    rows = [
        {"prompt": example.prompt, "response": example.response} for example in setting.examples(4)
    ]
    found = finetune_gate.play(
        {"settings": settings.model_dump(), "rows": rows, "pad_token": setting.pad_token}
    ).outputs
    ours, reference = found["ours"], found["reference"]
    tolerances = TOLERANCES[str(dtype(settings.precision))]
    gate = loss_gate(ours, reference, tolerances, found["plain"])
    if gate == PASSED and found["cosine"] < _LEAST_COSINE:
        gate = "the gradients point elsewhere"
    return Figures(
        gate,
        f"loss {ours['loss']:.5f}, float32 {reference['loss']:.5f}; gradient norm "
        f"{ours['gradient_norm']:.5f}, float32 {reference['gradient_norm']:.5f}; cosine "
        f"{found['cosine']:.5f}",
    )


def resume_after_kill(setting: Setting) -> Figures:
    """Train the cut; again in a process that is killed after its first checkpoint; and continue."""
    settings = setting.finetune(
        setting.cut, max_steps=_STEPS, checkpoint_steps=_CHECKPOINT_STEPS, batch_rows=4
    )
    examples = setting.examples(_STEPS * settings.batch_rows)
    folders = [setting.work / "resume" / name for name in ("undisturbed", "killed")]
    given = examples, settings, setting.pad_token
    undisturbed = train(*given, folders[0] / "adapter", folders[0] / "checkpoints")
    process = multiprocessing.get_context("spawn").Process(
        target=_train_until_killed, args=(*given, folders[1])
    )
    process.start()
    process.join()
    if process.exitcode != -signal.SIGKILL:
        return Figures(f"the training to be killed ended with status {process.exitcode}")
    if (found := last_whole_checkpoint(folders[1] / "checkpoints")) is None:
        return Figures("the killed training left no whole checkpoint")
    resumed = train(*given, folders[1] / "adapter", folders[1] / "checkpoints")
    off = max(
        (
            abs(one - other) / abs(one)
            for (_, one), (_, other) in zip(undisturbed.losses, resumed.losses, strict=False)
        ),
        default=0.0,
    )
    gate = PASSED if off <= (_MOST_OFF if torch.cuda.is_available() else 0) else f"off by {off:.2g}"
    if [step for step, _ in resumed.losses] != [step for step, _ in undisturbed.losses]:
        gate = f"losses of the steps {resumed.losses}, undisturbed {undisturbed.losses}"
    return Figures(gate, f"continued from {found.name}; losses off by {off:.2g} at most")


def _train_until_killed(
    examples: list[Example], settings: Finetune, pad_token: int, folder: Path
) -> None:
    def kill(step: int, last: int, loss: float) -> None:
        if step > settings.checkpoint_steps:
            os.kill(os.getpid(), signal.SIGKILL)

    train(examples, settings, pad_token, folder / "adapter", folder / "checkpoints", kill)


def merge(setting: Setting) -> Figures:
    """Merge the adapter: a merged matrix is the NF4-rounded one plus the adapter's product."""
    settings, adapter = setting.finetune(setting.whole), setting.adapter
    kind = dtype(settings.precision)
    base = round_weight(_read(setting.whole, f"{_LAYER}.weight").to(kind))
    down, up = (
        _read(adapter, f"base_model.model.{_LAYER}.lora_{side}.weight").float() for side in "AB"
    )
    change = settings.lora_alpha / settings.lora_rank * (up @ down)
    merged = _read(setting.merged(), f"{_LAYER}.weight").float()
    made = merged - base.float()
    error, size = (made - change).abs().mean(), change.abs().mean()
    # Rounding may be as large as a small change, but has no part in its direction.
    part = float((made * change).sum() / (change * change).sum())
    rounding = torch.finfo(kind).eps * merged.abs().mean()
    right = error <= _MOST_ERROR * size + rounding and abs(part - 1) <= _MOST_ERROR
    gate = PASSED if right else "the merged matrix is another"
    note = f"error of {_LAYER}: {error / size:.2%} of its change, of which it has {part:.1%}"
    return Figures(gate, note)


def _read(folder: Path, name: str) -> torch.Tensor:
    """Return a tensor of a folder, on the GPU if there is one: merging rounds there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt", device=device) as opened:
            if name in opened.keys():  # noqa: SIM118 - it is no mapping
                return opened.get_tensor(name)
    raise KeyError(f"{folder} has no tensor {name}")
