"""Whether a run's models fit this machine, asked by its first stage: before weights are downloaded
and before anything is computed.

One sum is made of what the run will write: downloads, merged models, checkpoints. Weights are
counted by their files, an adapter by its base model's shape. torch is imported only where there is
a GPU, or where the disk is short.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tasks.core.card import card_bytes
from tasks.core.data_params import CROSS_FIT
from tasks.core.errors import PipelineError
from tasks.core.files import folder_size, read_json
from tasks.core.model_params import Finetune
from tasks.core.params import Params
from tasks.core.privacy import cache_folder
from tasks.core.stage import WORK
from tasks.lm.adapters import check_adapter, start_adapter
from tasks.lm.embedded import EMBEDDED_BYTES, EMBEDDED_CONFIG, embedded_place
from tasks.lm.hub import hub_weights
from tasks.lm.merged import is_merged
from tasks.lm.model_cache import LIMIT, cache_limit
from tasks.lm.models import (
    EMBEDDED,
    NF4_BYTES,
    base_path,
    count_values,
    dtype,
    pinned,
    resolve,
)

log = logging.getLogger(__name__)
#: The stages that load models, in the order of the graph.
_ORDER = ("ingest", "generate", "verify", "finetune", "baseline", "evaluate")
#: Environment variable: the stages that run in other work pools (docs/operations.md).
_POOLS = "PIPELINE_POOLS"
#: Checkpoints of one training at a time: two, and the one that is being written.
_CHECKPOINTS = 3
#: Of a trained value: itself, and Adam's two, in float32.
_CHECKPOINT_BYTES = 12
#: The same with its gradient, on the card.
_TRAINED_BYTES = 16
#: bfloat16 copies of an adapter: output, DVC's cache, MLflow's.
_ADAPTER_COPIES = 3


@dataclass(frozen=True)
class Weights:
    """A base model: its size in values, the bytes that must come first, and its ``config.json``."""

    name: str
    revision: str
    values: int
    #: Bytes to download, or to convert.
    lacking: int
    config: dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """A merged checkpoint that a stage makes of a base model; see :mod:`tasks.lm.merged`."""

    base: Weights
    adapter: Path | None
    quantization: str
    precision: str
    #: The adapter is still to be trained.
    unknown: bool = False


@dataclass(frozen=True)
class Models:
    """What a run loads: base models by the setting that names them, and the copies it makes."""

    bases: dict[str, Weights]
    copies: list[Copy]
    #: The training's settings and the values that it trains; 0 where there is no training.
    target: Finetune | None
    trained: int
    #: Setting -> precision, of the models that are not trained.
    precisions: dict[str, str] = field(default_factory=dict)
    #: The training's stage.
    stage: str = "finetune"


@dataclass(frozen=True)
class Need:
    """Bytes that a run will write into a folder."""

    what: str
    bytes: float
    folder: Path
    #: How to have them elsewhere, or fewer.
    remedy: str


def check_run(stage: str, params: Params) -> None:
    """Raise :class:`PipelineError` where a model of the run cannot be loaded, an adapter does not
    fit its base model, or disk or GPU are too small for what ``stage`` and the stages behind it do.

    Asks only where DVC started the stage: one that is tried by hand is no run.
    """
    if "DVC_STAGE" in os.environ:
        check_models(params, stage)


def check_models(params: Params, stage: str = _ORDER[0]) -> None:
    """Do as :func:`check_run`, whoever asks."""
    check_room(read_models(params, stage))


def check_training(target: Finetune, stage: str, package: str) -> None:
    """Do as :func:`check_models` for the training of a stage of ``package``, outside the graph."""
    models = Models({}, [], target, 0, stage=stage)
    base, _ = _look(models, "finetune.model", target.model, target.revision)
    if target.start and not Path(target.start).is_file():
        _check_start(target, base)
    trained = count_lora(base.config, target.lora_rank)
    check_room(replace(models, trained=trained), WORK / package)


def check_plain(named: Sequence[tuple[str, str, str]], precision: str) -> None:
    """Do as :func:`check_models` for models that an engine asks: setting, name and revision of
    each.
    """
    models = Models({}, [], None, 0)
    for setting, name, revision in named:
        models.copies.extend(_plain(models, "", setting, name, revision, precision))
    check_room(models)


def check_room(models: Models, work: Path = WORK) -> None:
    """Refuse models that disk or GPU have no room for; ``work`` is the stages' work folder."""
    folders = (work, cache_folder())
    if _short(disk_needs(models, exact=False, folders=folders)):
        # torch and the base models' digests say which copies are there already, and how wide.
        short = _short(disk_needs(models, exact=True, folders=folders))
        if short:
            raise PipelineError(short)
    _check_card(models)


def read_models(params: Params, stage: str = _ORDER[0]) -> Models:
    """Look at every model that ``stage`` and the stages behind it load; download configurations, no
    weights.
    """
    # With work pools the stages behind it may run on another machine.
    behind = (stage,) if os.environ.get(_POOLS) else _ORDER[_ORDER.index(stage) :]
    models = Models({}, [], params.finetune, 0)
    generate, verify, writes = params.generate, params.verify, bool(params.supervise.mix.generator)
    if "generate" in behind and writes and not generate.address:
        named = ("generate.generator", generate.generator, generate.revision)
        models.copies.extend(_plain(models, "generate", *named, generate.precision))
    if "verify" in behind and writes and verify.reader != "none" and not verify.address:
        if verify.reader != CROSS_FIT:
            named = ("verify.reader", verify.reader, verify.revision)
            models.copies.extend(_plain(models, "verify", *named, "auto"))
        elif fit := verify.fit:  # two readers, one after the other
            base, _ = _look(models, "verify.fit.model", fit.model, fit.revision)
            models.copies.extend(
                2 * [Copy(base, None, fit.quantization, fit.precision, unknown=True)]
            )
    if not {"baseline", "finetune", "evaluate"} & set(behind):
        return models
    return _add_target(models, params, behind)


def _add_target(models: Models, params: Params, behind: Sequence[str]) -> Models:
    """Return the models with the target's: as it is, as its start, and as it will be adapted."""
    target, trains = params.finetune, str(params.supervise.mix) != "none"
    base, _ = _look(models, "finetune.model", target.model, target.revision)
    rounding = (target.quantization, target.precision)
    copies = [*models.copies]
    if "baseline" in behind:
        copies.append(Copy(base, None, *rounding))
    if (start := Path(target.start)).is_dir():
        _check_start(target, base)
        copies += [Copy(base, start, *rounding)] if "baseline" in behind else []
    if trains and "evaluate" in behind:
        copies.append(Copy(base, None, *rounding, unknown=True))
    trained = count_lora(base.config, target.lora_rank) if trains and "finetune" in behind else 0
    return replace(models, copies=copies, trained=trained)


def _check_start(target: Finetune, base: Weights) -> None:
    start = start_adapter(target.model_copy(update={"revision": base.revision}), Path(target.start))
    check_adapter(start, target.model, base.config)


def _plain(
    models: Models, stage: str, setting: str, name: str, revision: str, precision: str
) -> Iterator[Copy]:
    """Yield the copy that an engine needs of an adapter; a plain model is loaded as it is."""
    base, adapter = _look(models, setting, name, revision)
    models.precisions[setting] = precision
    if adapter:
        known = adapter / "provenance.json"
        # As the stages do: the reader is rounded as in its training, the generator is not.
        made = read_json(known) if stage == "verify" and known.is_file() else {}
        yield Copy(
            base, adapter, made.get("quantization", "none"), made.get("precision", precision)
        )


def _look(models: Models, setting: str, name: str, revision: str) -> tuple[Weights, Path | None]:
    """Return base model and adapter of a name, and add the base to the models."""
    try:
        model = resolve(name, revision)
        base = _weights(model.base, model.revision)
        if model.adapter:
            check_adapter(model.adapter, model.base, base.config)
    except PipelineError as error:
        raise PipelineError(f"{setting}: {error}") from error
    models.bases[setting] = base
    return base, model.adapter


def _weights(name: str, revision: str) -> Weights:
    if name == EMBEDDED:
        lacking = 0 if embedded_place().is_dir() else EMBEDDED_BYTES
        return Weights(name, revision, EMBEDDED_BYTES // 2, lacking, EMBEDDED_CONFIG)
    folder = Path(base_path(name, revision, weights=False))
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    if Path(name).is_dir():
        size, lacking = sum(file.stat().st_size for file in folder.glob("*.safetensors")), 0
    else:
        revision = pinned(name, revision)
        size, lacking = hub_weights(name, revision)
    return Weights(name, revision, count_values(size, config), lacking, config)


def count_lora(config: dict[str, Any], rank: int) -> int:
    """Return the values of a LoRA adapter on every linear layer but the head, of a Llama, Mistral
    or another model of that shape; 0 where ``config`` does not have its sizes.
    """
    try:
        width, layers = int(config["hidden_size"]), int(config["num_hidden_layers"])
        inner, heads = int(config["intermediate_size"]), int(config["num_attention_heads"])
    except (KeyError, TypeError):
        return 0
    head = int(config.get("head_dim") or width // heads)
    query, key = heads * head, int(config.get("num_key_value_heads") or heads) * head
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
    for base in {base.name: base for base in models.bases.values()}.values():
        if base.lacking and base.name == EMBEDDED:
            needs.append(Need("the embedded model", base.lacking, cache, "BONITO_CACHE moves it"))
        elif base.lacking:
            place, what = Path(constants.HF_HUB_CACHE), f"to download {base.name}"
            needs.append(Need(what, base.lacking, place, "HF_HUB_CACHE moves downloads"))
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
    if precision == "auto" and not exact:
        return 4
    return dtype(precision).itemsize if exact else {"float32": 4}.get(precision, 2)


def _is_there(copy: Copy) -> bool:
    base = copy.base
    return not copy.unknown and is_merged(
        base.name, base.revision, copy.adapter, copy.quantization, copy.precision
    )


def _short(needs: Sequence[Need]) -> str:
    """Say which disk has no room for the needs on it; an empty text where all have."""
    disks: dict[int, list[Need]] = {}
    for need in needs:
        disks.setdefault(_existing(need.folder).stat().st_dev, []).append(need)
    for together in disks.values():
        free = shutil.disk_usage(_existing(together[0].folder)).free
        whole = sum(need.bytes for need in together)
        if whole > free:
            parts = ", ".join(
                f"{need.bytes / 1e9:.1f} GB {need.what} in {need.folder}" for need in together
            )
            remedies = "; ".join(dict.fromkeys(need.remedy for need in together))
            return (
                f"the run needs {whole / 1e9:.1f} GB of disk and {free / 1e9:.1f} GB are free: "
                f"{parts}. Free some ({remedies})"
            )
    return ""


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _check_card(models: Models) -> None:
    """Refuse what a GPU has no room for even when it is empty."""
    total = card_bytes()
    if total is None:
        return
    for what, need in _card_needs(models):
        if need > total:
            raise PipelineError(
                f"{what} needs {need / 1e9:.1f} GB of the GPU at least, which has "
                f"{total / 1e9:.1f} GB: take a smaller model or a larger card"
            )


def _card_needs(models: Models) -> Iterator[tuple[str, float]]:
    """Yield what each step holds on the GPU at least: weights, and what is trained."""
    target = models.target
    for setting, base in models.bases.items():
        precision = models.precisions.get(setting) or (target.precision if target else "auto")
        width = 1 if precision == "fp8" else dtype(precision).itemsize
        yield f"{setting} {base.name}", base.values * width
    if models.trained and target:
        base, nf4 = models.bases["finetune.model"], target.quantization == "nf4"
        plain = dtype(target.precision).itemsize
        held = base.values * (NF4_BYTES if nf4 else plain) + models.trained * _TRAINED_BYTES
        yield f"training {base.name} at rank {target.lora_rank}", held
