"""The room that models need on a machine's disks and GPU, and whether there is enough.

One sum is made of what will be written: downloads, merged models, checkpoints. Weights are counted
by their files, an adapter by its base model's shape. torch is imported only where there is a GPU,
or where the disk is short.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.core.card import card_bytes
from tasks.core.errors import PipelineError
from tasks.core.files import folder_size
from tasks.core.privacy import cache_folder
from tasks.core.sections.finetune import Finetune
from tasks.core.stage import WORK
from tasks.lm.loading import NF4_BYTES
from tasks.lm.memory import need_cards
from tasks.lm.merged import is_merged
from tasks.lm.model_cache import LIMIT, cache_limit
from tasks.lm.models import EMBEDDED, Weights
from tasks.lm.precision import dtype, dtype_name, has_bfloat16

#: Checkpoints of one training at a time: two, and the one that is being written.
_CHECKPOINTS = 3
#: Bytes of a trained value with Adam's two moments, in float32.
_CHECKPOINT_BYTES = 12
#: The same with its gradient, on the GPU.
_TRAINED_BYTES = 16
#: bfloat16 copies of an adapter: output, DVC's cache, MLflow's.
_ADAPTER_COPIES = 3
#: Values of a model that a processor has no use for: it trains one of 7 billion for weeks.
_MOST_ON_CPU = 3_000_000_000
#: Environment variable: 1 lets a run begin all the same.
_ON_CPU = "BONITO_LARGE_ON_CPU"


@dataclass(frozen=True)
class Copy:
    """A merged checkpoint that a stage makes of a base model; see :mod:`tasks.lm.merged`."""

    base: Weights
    adapter: Path | None
    quantization: str
    precision: str
    #: The adapter is still to be trained.
    unknown: bool = False


@dataclass
class Models:
    """What a run loads: base models by the setting that names them, and the copies it makes."""

    bases: dict[str, Weights] = field(default_factory=dict)
    copies: list[Copy] = field(default_factory=list)
    #: The training's settings and the values that it trains; 0 where there is no training.
    target: Finetune | None = None
    trained: int = 0
    #: Setting -> precision, of the models that are not trained.
    precisions: dict[str, str] = field(default_factory=dict)
    #: The training's stage.
    stage: str = "finetune"
    #: Settings whose models the machines of a Ray cluster load.
    elsewhere: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Need:
    """Bytes that a run will write into a folder."""

    what: str
    bytes: float
    folder: Path
    #: How to have them elsewhere, or fewer.
    remedy: str
    #: The model that is downloaded or converted; empty for what the stages make.
    model: str = ""


def check_room(models: Models, work: Path = WORK) -> None:
    """Refuse models that disk or GPU have no room for, and large ones where there is no GPU;
    ``work`` is the stages' work folder.
    """
    _check_card(models)
    folders = (work, cache_folder())
    if _short(disk_needs(models, exact=False, folders=folders)):
        # torch and the base models' digests say which copies are there already, and how wide.
        short = _short(disk_needs(models, exact=True, folders=folders))
        if short:
            raise PipelineError(short)


def describe_needs(models: Models, work: Path = WORK) -> str:
    """Say in one line what a run will download and write, and where, as if no merged model and no
    checkpoint were there yet.
    """
    # As wide as this machine makes them, which takes torch.
    copies = [replace(copy, precision=dtype_name(copy.precision)) for copy in models.copies]
    needs = disk_needs(replace(models, copies=copies), False, (work, cache_folder()))
    said = []
    if fetched := [need for need in needs if need.model not in ("", EMBEDDED)]:
        listed = ", ".join(f"{need.model} {_gigabytes(need.bytes)}" for need in fetched)
        size = _gigabytes(sum(need.bytes for need in fetched))
        said.append(f"download {size} into {fetched[0].folder} ({listed})")
    made = [need for need in needs if need.model in ("", EMBEDDED)]
    said += [f"write {_list(made)}"] if made else []
    free = ", ".join(
        f"{_gigabytes(shutil.disk_usage(_existing(together[0].folder)).free)} "
        f"({', '.join(dict.fromkeys(str(need.folder) for need in together))})"
        for together in _by_disk(needs)
    )
    whole = _gigabytes(sum(need.bytes for need in needs))
    return f"this run will {' and '.join(said)}, at most {whole} in all; free: {free}"


def count_lora(config: dict[str, Any], rank: int) -> int:
    """Return the values of a LoRA adapter on every linear layer but the head, of a Llama, Mistral
    or another model of that shape; 0 where ``config`` does not have its sizes, or they are none.
    """
    try:
        width, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        inner, heads = int(config["intermediate_size"]), int(config["num_attention_heads"])
        head = int(config.get("head_dim") or width // heads)
        query, key = heads * head, int(config.get("num_key_value_heads") or heads) * head
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return 0
    ends = 2 * (width + query) + 2 * (width + key) + 3 * (width + inner)
    return rank * layers * ends


def disk_needs(models: Models, exact: bool, folders: tuple[Path, Path]) -> list[Need]:
    """Return what the models' stages will write; ``folders``: the stages' work folder, the cache.

    Not ``exact``: as if no merged model and no checkpoint were there yet, and ``auto`` were
    float32.
    """
    from huggingface_hub import constants

    work, cache = folders
    needs = []
    # Two revisions of a model are two downloads.
    for base in {(base.name, base.revision): base for base in models.bases.values()}.values():
        if base.lacking and base.name == EMBEDDED:
            remedy = "BONITO_CACHE moves it"
            needs.append(Need("for the embedded model", base.lacking, cache, remedy, EMBEDDED))
        elif base.lacking:
            place, what = Path(constants.HF_HUB_CACHE), f"to download {base.name}"
            remedy = "HF_HUB_CACHE moves downloads"
            needs.append(Need(what, base.lacking, place, remedy, base.name))
    sizes = [
        copy.base.values * _width(copy.precision, exact)
        for copy in models.copies
        if not (exact and _is_there(copy))
    ]
    if sizes:
        # The cache is pruned when one more is made: what is there then makes room.
        used = folder_size(cache / "merged") if exact else 0
        largest = max(sizes)
        peak = max(largest, min(sum(sizes), cache_limit() + largest - used))
        remedy = f"BONITO_CACHE moves merged models, {LIMIT} bounds them"
        needs.append(Need(f"for {len(sizes)} merged models", peak, cache, remedy))
    if models.trained and models.target:
        size = _CHECKPOINTS * _CHECKPOINT_BYTES * models.trained
        if exact and (kept := work / models.stage / "checkpoints").is_dir():
            size = max(size - folder_size(kept), _CHECKPOINT_BYTES * models.trained)
        size += 2 * _ADAPTER_COPIES * models.trained
        what = f"for checkpoints and adapter of rank {models.target.lora_rank}"
        needs.append(Need(what, size, work, "a lower finetune.lora_rank makes checkpoints smaller"))
    return needs


def _width(precision: str, exact: bool) -> int:
    """Return the bytes of a value."""
    if precision == "auto":
        return dtype(precision).itemsize if exact else 4
    return 4 if precision == "float32" else 2


def _is_there(copy: Copy) -> bool:
    base = copy.base
    return not copy.unknown and is_merged(
        base.name, base.revision, copy.adapter, copy.quantization, copy.precision
    )


def _short(needs: Sequence[Need]) -> str:
    """Say which disk has no room for the needs on it; an empty text where all have."""
    for together in _by_disk(needs):
        free = shutil.disk_usage(_existing(together[0].folder)).free
        whole = sum(need.bytes for need in together)
        if whole > free:
            remedies = "; ".join(dict.fromkeys(need.remedy for need in together))
            return (
                f"the run needs {_gigabytes(whole)} of disk and {_gigabytes(free)} are free: "
                f"{_list(together)}. Free some ({remedies})"
            )
    return ""


def _by_disk(needs: Sequence[Need]) -> list[list[Need]]:
    disks: dict[int, list[Need]] = {}
    for need in needs:
        disks.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    return list(disks.values())


def _list(needs: Sequence[Need]) -> str:
    return ", ".join(f"{_gigabytes(need.bytes)} {need.what} in {need.folder}" for need in needs)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _check_card(models: Models) -> None:
    """Refuse what a GPU has no room for even when it is empty, or does not compute; without a GPU,
    a model that needs one.
    """
    total = card_bytes()
    if total is None:
        return _check_processor(models)
    if models.trained and models.target:
        need_cards(models.target.processes)
    for setting in models.bases:
        precision = _precision(models, setting)
        if precision in ("bfloat16", "fp8") and not has_bfloat16():
            raise PipelineError(
                f"{setting} is to be loaded in {precision}, which this GPU does not multiply (it "
                "is older than NVIDIA's Ampere): set its precision to float32, or take a newer card"
            )
    for what, need in _card_needs(models):
        if need > total:
            raise PipelineError(
                f"{what} needs {need / 1e9:.1f} GB of the GPU at least, which has "
                f"{total / 1e9:.1f} GB: take a smaller model or a larger card"
            )


def _check_processor(models: Models) -> None:
    for setting, base in models.bases.items():
        here = setting not in models.elsewhere
        if here and base.values > _MOST_ON_CPU and os.environ.get(_ON_CPU) != "1":
            raise PipelineError(
                f"{setting}: {base.name} has {base.values / 1e9:.1f} billion values, and there is "
                "no NVIDIA GPU here, without which a run takes weeks: take a machine with one or "
                f"a smaller model; {_ON_CPU}=1 runs it here all the same"
            )


def _precision(models: Models, setting: str) -> str:
    return models.precisions.get(setting) or (models.target.precision if models.target else "auto")


def _card_needs(models: Models) -> Iterator[tuple[str, float]]:
    """Yield what each step holds on the GPU at least: weights, and what is trained."""
    target = models.target
    for setting, base in models.bases.items():
        precision = _precision(models, setting)
        width = 1 if precision == "fp8" else dtype(precision).itemsize
        yield f"{setting} {base.name}", base.values * width
    if models.trained and target:
        base, nf4 = models.bases["finetune.model"], target.quantization == "nf4"
        plain = dtype(target.precision).itemsize
        held = base.values * (NF4_BYTES if nf4 else plain) + models.trained * _TRAINED_BYTES
        yield f"training {base.name} at rank {target.lora_rank}", held
