"""register: put the adapter, its F1 and everything that led to it into MLflow, and decide which
version is the champion.

``champion`` moves only if a paired bootstrap says that the new model is better than the one that
holds it (the unadapted model, while nobody does); otherwise the new version is the ``challenger``.
"""

from __future__ import annotations

import csv
import importlib.metadata
import logging
import os
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.files import fingerprint, read_json, sha256_file, write_json
from tasks.core.params import Params
from tasks.core.parquet import read_table
from tasks.core.stage import Stage, run_stage
from tasks.lm.merged import merged_folder
from tasks.register.parity import check_parity
from tasks.register.plots import plot_f1, plot_loss
from tasks.scoring.datasets import load_dataset, load_items
from tasks.scoring.f1 import interval, resample, scored_of
from tasks.tracking.mlflow_store import shown_uri, store_errors
from tasks.tracking.registry import Ledger, tapt_metrics

log = logging.getLogger(__name__)
#: What it takes to load the model with MLflow alone; the versions are those it was made with.
_PACKAGES = ("mlflow", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Verdict:
    """Who the new model was compared with, the F1 difference in points with its 95 % interval, and
    the alias that follows.
    """

    opponent: str
    f1: float
    low: float
    high: float
    #: There is a champion, and it was not asked the same: whatever the figures say, it stays.
    champion_stays: bool = False

    @property
    def alias(self) -> str:
        return "champion" if self.low > 0 and not self.champion_stays else "challenger"


def register(stage: Stage) -> None:
    """Write ``registration.json``: run, model version, alias and why.

    A killed registration continues in the same run.
    """
    with store_errors():
        _register(stage)


def _register(stage: Stage) -> None:
    adapter, evaluation = stage.path("adapter"), stage.path("evaluation")
    metrics, provenance = (
        read_json(evaluation / "scores.json"),
        read_json(adapter / "provenance.json"),
    )
    name = stage.params.register.model_name or default_name(provenance["base"], metrics["dataset"])
    key = fingerprint(
        sha256_file(adapter / "adapter_model.safetensors")
        if provenance["adapter"]
        else provenance["key"],
        metrics,
    )
    ledger = Ledger.open(
        stage.params.register.experiment, key, provenance["key"], run_name(stage.params, metrics)
    )
    log.info("MLflow run %s in %s", ledger.run_id, shown_uri())
    scored_on = _log_run(stage, ledger, metrics, provenance)
    over_tapt = gain_over_tapt(stage, ledger)
    if over_tapt:
        log.info(describe(over_tapt))
        ledger.metrics(
            tapt_metrics(metrics["dataset"], over_tapt.f1, over_tapt.low, over_tapt.high)
        )
    model: dict[str, Any] = {"verdict": "supervise.source none: no model was made"}
    if provenance["adapter"]:
        model = _register_model(stage, ledger, name, provenance, metrics, scored_on)
    ledger.finish()
    where = {
        "tracking_uri": shown_uri(),
        "experiment": stage.params.register.experiment,
        "experiment_id": ledger.experiment_id,
        "run_id": ledger.run_id,
    }
    compared = {"over_tapt": describe(over_tapt)} if over_tapt else {}
    write_json(stage.out / "registration.json", where | model | compared)
    stage.summary(1, 1)


def _register_model(
    stage: Stage,
    ledger: Ledger,
    name: str,
    provenance: dict[str, Any],
    metrics: dict[str, Any],
    scored_on: Any,
) -> dict[str, Any]:
    """Register the adapter, once the trained, the merged and the served model agree, and give it
    its alias.
    """
    parity = check_parity(stage, stage.path("adapter"), stage.path("evaluation"))
    ledger.tags({"parity": parity.describe()})
    uri = _log_model(stage, ledger, provenance)
    ledger.score(uri, metric_table(metrics), scored_on)
    version = ledger.version(name, uri)
    alias, verdict = _settle_alias(stage, ledger, name, version, metrics)
    log.info("%s version %s is %s: %s", name, version.version, alias, verdict)
    return {
        "model_name": name,
        "version": str(version.version),
        "alias": alias,
        "verdict": verdict,
        "parity": vars(parity),
    }


def _settle_alias(
    stage: Stage, ledger: Ledger, name: str, version: Any, metrics: dict[str, Any]
) -> tuple[str, str]:
    """Judge the version and point its alias at it; return the alias and the verdict as a sentence.

    The verdict is written down before the alias moves: a registration that was killed after that
    finds its own version as the champion, and the one it was compared with is no longer known by
    any alias.
    """
    champion, kept = ledger.champion(name), ledger.tag("verdict")
    if kept and champion is not None and str(champion.version) == str(version.version):
        return "champion", kept
    verdict = judge(stage, ledger, name, version, metrics)
    ledger.tags({"alias": verdict.alias, "verdict": describe(verdict)})
    ledger.alias(name, verdict.alias, version.version)
    return verdict.alias, describe(verdict)


def default_name(base: str, dataset: str) -> str:
    """Return ``<target model>-<dataset>`` in characters MLflow takes."""
    return re.sub(
        r"[^A-Za-z0-9._-]+", "-", f"{base.rsplit('/', 1)[-1].rsplit(':', 1)[-1]}-{dataset}"
    )


def run_name(params: Params, metrics: dict[str, Any]) -> str:
    """Name a run for what tells runs apart: dataset, generator, target model, learning rate,
    epochs.
    """
    target = params.finetune.model.rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    source = params.supervise.source
    teacher = Path(params.generate.generator).name if source == "bonito" else source
    return (
        f"{metrics['dataset']} {teacher} > {target} lr{params.finetune.learning_rate:g} "
        f"x{params.finetune.epochs:g}"
    )


def metric_table(metrics: dict[str, Any]) -> dict[str, float]:
    """Return the few, stable metric keys that MLflow compares: F1 in points by dataset, interval,
    zero-shot, gain.
    """
    name, adapted = metrics["dataset"], metrics["adapted"]
    table = {
        f"f1/{name}": adapted["f1"],
        f"f1_low/{name}": adapted["f1_low"],
        f"f1_high/{name}": adapted["f1_high"],
        f"f1_zero_shot/{name}": metrics["zero_shot"]["f1"],
        f"gain/{name}": metrics["gain"]["f1"],
    }
    return table | ({f"f1_majority/{name}": adapted["majority"]} if "majority" in adapted else {})


def _log_run(
    stage: Stage, ledger: Ledger, metrics: dict[str, Any], provenance: dict[str, Any]
) -> tuple[str, str]:
    """Log everything but the model; return name and digest of the evaluation set as MLflow knows
    it.
    """
    adapter, evaluation, instructions = (
        stage.path("adapter"),
        stage.path("evaluation"),
        stage.path("instructions"),
    )
    ledger.params(flatten(stage.params.model_dump(mode="json")))
    losses = [
        (int(row["step"]), float(row["loss"]))
        for row in csv.DictReader((adapter / "loss.csv").open(encoding="utf-8"))
    ]
    ledger.curve("train_loss", losses)
    ledger.metrics(
        metric_table(metrics)
        | {"rows": float(provenance["rows"]), "steps": float(provenance["steps"])}
    )
    pictures = stage.work / "plots"
    pictures.mkdir(exist_ok=True)
    if losses:
        plot_loss(pictures / "loss.png", losses)
        ledger.files([pictures / "loss.png"], "plots")
    plot_f1(pictures / "f1.png", metrics)
    ledger.files([pictures / "f1.png"], "plots")
    ledger.files([evaluation / "scores.json", evaluation / "predictions.parquet"], "evaluation")
    ledger.files([instructions / "report.html"], "validation")
    ledger.files([adapter / "provenance.json"])
    trained_on = stage.path("supervision") / "instructions.parquet"
    if provenance["adapter"]:
        ledger.dataset(
            read_table(trained_on).to_pandas(), "instructions", str(trained_on), "training"
        )
    asked = read_table(evaluation / "predictions.parquet", ["item_id", "template", "prompt"])
    ledger.tags(lineage(stage, provenance))
    return ledger.dataset(
        asked.to_pandas(), metrics["dataset"], stage.params.evaluate.items, "evaluation"
    )


def lineage(stage: Stage, provenance: dict[str, Any]) -> dict[str, str]:
    """Return the tags that lead back: commit, data version, instruction rows, prompt form, Prefect
    run.
    """
    data = Path("data.dvc")
    tags = {
        "git.commit": _git("rev-parse", "HEAD"),
        # DVC writes dvc.lock as the run goes on: that is no edit of the user's.
        "git.dirty": str(
            bool(
                _git(
                    "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock"
                )
            )
        ).lower(),
        "dvc.data": sha256_file(data) if data.is_file() else "",
        "data.items_sha256": sha256_file(Path(stage.params.evaluate.items)),
        "data.instructions_sha256": provenance["instructions_sha256"],
        "prompt.form": provenance["prompt"],
        "scored": (
            f"{provenance['base']} rounded through {provenance['quantization']} + adapter, merged"
        ),
        "prefect.flow_run": os.environ.get("PIPELINE_FLOW_RUN", ""),
    }
    return {name: value for name, value in tags.items() if value}


def _log_model(stage: Stage, ledger: Ledger, provenance: dict[str, Any]) -> str:
    """Log the adapter over the very base weights it was scored on; return its address."""
    base = merged_folder(
        provenance["base"],
        provenance["revision"],
        None,
        provenance["quantization"],
        provenance["precision"],
    )
    first = (
        read_table(stage.path("supervision") / "instructions.parquet", ["instruction", "response"])
        .slice(0, 1)
        .to_pylist()[0]
    )
    example = first["instruction"] or first["response"]
    # MLflow renders the template with str.format: braces of the prompt form itself must be doubled.
    head, _, tail = provenance["prompt_example"].partition("INSTRUCTION")
    template = (
        head.replace("{", "{{").replace("}", "}}")
        + "{prompt}"
        + tail.replace("{", "{{").replace("}", "}}")
    )
    packages = [f"{package}=={importlib.metadata.version(package)}" for package in _PACKAGES]
    return ledger.model(
        base,
        stage.path("adapter"),
        template,
        example,
        stage.params.evaluate.max_new_tokens,
        packages,
    )


def judge(
    stage: Stage, ledger: Ledger, name: str, version: Any, metrics: dict[str, Any]
) -> Verdict:
    """Compare with the champion on the same items and templates; with the unadapted model where
    there is no comparable champion.
    """
    own = read_table(stage.path("evaluation") / "predictions.parquet")
    adapted = _of_model(own, "adapted")
    champion = ledger.champion(name)
    if champion is not None and str(champion.version) != str(version.version):
        theirs = _asked_alike(stage, ledger, champion.run_id, adapted)
        if theirs is not None:
            return _compare(stage, adapted, theirs, f"champion version {champion.version}")
        log.warning(
            (
                "champion version %s was scored on other items or templates: the new version "
                "is compared with the unadapted model"
            ),
            champion.version,
        )
        verdict = _compare(
            stage,
            adapted,
            _of_model(own, "zero_shot"),
            "the unadapted model (the champion's evaluation differs)",
        )
        return replace(verdict, champion_stays=True)
    return _compare(stage, adapted, _of_model(own, "zero_shot"), "the unadapted model")


def gain_over_tapt(stage: Stage, ledger: Ledger) -> Verdict | None:
    """Compare with the experiment's newest TAPT run of the same target model, asked the very same;
    None where there is none.

    That run may have trained on another number of tokens: what is said of equal training comes from
    a matrix (``docs/matrix.md``).
    """
    params = stage.params
    if params.supervise.source in ("tapt", "none"):
        return None
    same = {
        "supervise.source": "tapt",
        "finetune.model": params.finetune.model,
        "finetune.revision": params.finetune.revision,
    }
    run_id = ledger.newest(same, {"data.items_sha256": sha256_file(Path(params.evaluate.items))})
    if not run_id:
        return None
    own = _of_model(read_table(stage.path("evaluation") / "predictions.parquet"), "adapted")
    theirs = _asked_alike(stage, ledger, run_id, own)
    return None if theirs is None else _compare(stage, own, theirs, f"TAPT, run {run_id[:8]}")


def _asked_alike(stage: Stage, ledger: Ledger, run_id: str, own: pa.Table) -> pa.Table | None:
    """Return the answers of another run's adapted model, if they are still there and are to the
    very questions that ``own`` answers.
    """
    kept = ledger.download(run_id, "evaluation/predictions.parquet", stage.work)
    theirs = _of_model(read_table(kept), "adapted") if kept else None
    return theirs if theirs is not None and _questions(theirs) == _questions(own) else None


def _compare(stage: Stage, new: pa.Table, old: pa.Table, opponent: str) -> Verdict:
    params = stage.params.evaluate
    dataset = load_dataset(Path(params.dataset))
    items = load_items(dataset, Path(params.items), params.max_items, params.seed)
    templates = dataset.templates[: params.templates or None]
    weights = resample([item.context for item in items], params.bootstrap, params.seed)
    both = [scored_of(dataset, templates, items, table) for table in (new, old)]
    low, high = interval(both[0].f1(weights).mean(axis=1) - both[1].f1(weights).mean(axis=1))
    difference = float(np.mean(both[0].f1()) - np.mean(both[1].f1()))
    return Verdict(opponent, round(difference, 2), round(low, 2), round(high, 2))


def describe(verdict: Verdict) -> str:
    """Return the verdict as a sentence."""
    return (
        f"{verdict.f1:+.1f} F1 [{verdict.low:+.1f}, {verdict.high:+.1f}] against {verdict.opponent}"
    )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters as ``section.key`` pairs."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {f"{prefix}{name}": value}
        )
    return flat


def _of_model(table: pa.Table, model: str) -> pa.Table:
    return table.filter(pa.compute.equal(table.column("model"), model))


def _questions(table: pa.Table) -> list[tuple[str, str, str]]:
    return sorted(
        (row["template"], row["item_id"], str(row["golds"]))
        for row in table.select(["template", "item_id", "golds"]).to_pylist()
    )


def _git(*arguments: str) -> str:
    """Return git's answer, or nothing outside a checkout."""
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    return run_stage(
        "register", register, ("adapter", "evaluation", "instructions", "supervision"), argv
    )
