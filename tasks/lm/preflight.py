"""Whether a run's models fit this machine, asked by its first stage: before weights are downloaded
and before anything is computed.

:mod:`tasks.lm.room` says what they need.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.files import write_text
from tasks.core.params import Params
from tasks.core.sections.finetune import Finetune
from tasks.core.sections.verify import CROSS_FIT
from tasks.core.setting_paths import is_nothing
from tasks.core.stage import WORK
from tasks.lm.adapters import check_adapter, read_provenance, start_adapter
from tasks.lm.models import Weights, base_path, find_weights, resolve
from tasks.lm.room import Copy, Models, check_room, count_lora, describe_needs

log = logging.getLogger(__name__)
#: The stages that load models, in the order of the graph.
_ORDER = ("ingest", "generate", "verify", "finetune", "baseline", "evaluate")
#: Environment variable: the stages that run in other work pools (docs/machines.md).
_POOLS = "PIPELINE_POOLS"
#: File in the stages' work folder: the run that has said what it downloads, and the models.
_SAID = "downloads.txt"


def check_run(stage: str, params: Params) -> None:
    """Raise :class:`PipelineError` where a model of the run cannot be loaded, an adapter does not
    fit its base model, or disk or GPU are too small for what ``stage`` and the stages after it do.

    Asks only where DVC started the stage: one that is tried by hand is no run.
    """
    if is_run():
        models = read_models(params, stage)
        check_room(models)
        _announce(models)


def _announce(models: Models) -> None:
    """Log what the run will download and write. Its first stage says it: later ones have nothing
    new to say.
    """
    coming = _coming(models)
    if not coming:
        return
    # The flow's run; without one DVC itself, which starts all stages of a run.
    run = os.environ.get("PIPELINE_FLOW_RUN") or f"process {os.getppid()}"
    file = WORK / _SAID
    said = file.read_text(errors="replace").splitlines() if file.is_file() else []
    if run not in said or not {*coming} <= {*said}:
        log.info("%s", describe_needs(models))
        write_text(file, "\n".join([run, *coming]))


def _coming(models: Models) -> list[str]:
    return sorted({base.name for base in models.bases.values() if base.lacking})


def fetch_models(params: Params, tell: Callable[[str], None]) -> None:
    """Download what is lacking of a run's models, and make the embedded one; ``tell`` gets a line
    on their size before. Whoever measures a stage would else measure its downloads.
    """
    models = read_models(params)
    if _coming(models):
        tell(describe_needs(models))
        for base in models.bases.values():
            base_path(base.name, base.revision)


def is_run() -> bool:
    """Tell whether DVC started the stage."""
    return "DVC_STAGE" in os.environ


def check_models(params: Params, stage: str = _ORDER[0]) -> None:
    """Do as :func:`check_run`, whoever started the stage."""
    check_room(read_models(params, stage))


def check_training(target: Finetune, stage: str, package: str) -> None:
    """Do as :func:`check_models` for the training of a stage of ``package``, outside the graph."""
    models = Models(target=target, stage=stage)
    base, _ = _look(models, "finetune.model", target.model, target.revision)
    if target.start and not is_nothing(Path(target.start)):
        _check_start(target, base)
    models.trained = count_lora(base.config, target.lora_rank)
    check_room(models, WORK / package)


def check_plain(named: Sequence[tuple[str, str, str]], precision: str) -> None:
    """Do as :func:`check_models` for models that an engine asks: setting, name and revision of
    each.
    """
    models = Models()
    for setting, name, revision in named:
        _add_plain(models, setting, name, revision, precision)
    check_room(models)


def read_models(params: Params, stage: str = _ORDER[0]) -> Models:
    """Look at every model that ``stage`` and the stages after it load; download configurations, no
    weights.
    """
    # With work pools the stages after it may run on another machine.
    behind = (stage,) if os.environ.get(_POOLS) else _ORDER[_ORDER.index(stage) :]
    models = Models(target=params.finetune)
    generate, verify, writes = params.generate, params.verify, bool(params.supervise.mix.generator)
    if "generate" in behind and writes and not generate.address:
        named = ("generate.generator", generate.generator, generate.revision)
        _add_plain(models, *named, generate.precision)
    if "verify" in behind and writes and verify.reader != "none" and not verify.address:
        if verify.reader != CROSS_FIT:
            _add_plain(models, "verify.reader", verify.reader, verify.revision, "auto")
        elif fit := verify.fit:  # two readers, one after the other
            base, _ = _look(models, "verify.fit.model", fit.model, fit.revision)
            models.copies += 2 * [Copy(base, None, fit.quantization, fit.precision, unknown=True)]
    if generate.workers and generate.ray_address:
        models.elsewhere.add("generate.generator")
    if verify.workers and verify.ray_address:
        models.elsewhere.add("verify.reader")
    if {"baseline", "finetune", "evaluate"} & set(behind):
        _add_target(models, params, behind)
    return models


def _add_target(models: Models, params: Params, behind: Sequence[str]) -> None:
    """Add the target's models: as it is, as its start, and as it will be adapted."""
    target, trains = params.finetune, str(params.supervise.mix) != "none"
    base, _ = _look(models, "finetune.model", target.model, target.revision)
    rounding = (target.quantization, target.precision)
    if "baseline" in behind:
        models.copies.append(Copy(base, None, *rounding))
    if (start := Path(target.start)).is_dir():
        _check_start(target, base)
        models.copies += [Copy(base, start, *rounding)] if "baseline" in behind else []
    if trains and "evaluate" in behind:
        models.copies.append(Copy(base, None, *rounding, unknown=True))
    if trains and "finetune" in behind:
        models.trained = count_lora(base.config, target.lora_rank)


def _check_start(target: Finetune, base: Weights) -> None:
    start = Path(target.start)
    start_adapter(target.model_copy(update={"revision": base.revision}), start)
    check_adapter(start, target.model, base.config)


def _add_plain(models: Models, setting: str, name: str, revision: str, precision: str) -> None:
    """Add a model that an engine asks, and the copy that it needs of an adapter; a plain model is
    loaded as it is.
    """
    base, adapter = _look(models, setting, name, revision)
    models.precisions[setting] = precision
    if adapter:
        # As the stages do: the reader is rounded as in its training, the generator is not.
        made = read_provenance(adapter) if setting == "verify.reader" else {}
        rounding = (made.get("quantization", "none"), made.get("precision", precision))
        models.copies.append(Copy(base, adapter, *rounding))


def _look(models: Models, setting: str, name: str, revision: str) -> tuple[Weights, Path | None]:
    """Return base model and adapter of a name, and add the base to the models."""
    try:
        model = resolve(name, revision)
        base = find_weights(model.base, model.revision)
        if model.adapter:
            check_adapter(model.adapter, model.base, base.config)
    except PipelineError as error:
        raise PipelineError(f"{setting}: {error}") from error
    models.bases[setting] = base
    return base, model.adapter
