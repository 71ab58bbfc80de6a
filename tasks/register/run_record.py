"""What an MLflow run shows beside its model: name, parameters, metrics, plots, files, lineage."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from tasks.core.files import fingerprint, read_json, sha256_file
from tasks.core.params import Params
from tasks.core.parquet import read_table
from tasks.core.quality import RowQuality
from tasks.core.rows import TRAINED_FILE
from tasks.core.stage import Stage
from tasks.register.plots import plot_f1, plot_loss
from tasks.tracking.registry import Ledger, gain_metrics

#: Parameters that change no result.
_IDLE = re.compile(r"run\.|[a-z]+\.(ray_|workers$)")


def run_name(params: Params, scores: dict[str, Any]) -> str:
    """Name a run by what tells runs apart: dataset, generator, target model, learning rate,
    epochs.
    """
    target = params.finetune.model.rsplit("/", 1)[-1].rsplit(":", 1)[-1]
    source = params.supervise.source
    teacher = Path(params.generate.generator).name if source == "bonito" else source
    return (
        f"{scores['dataset']} {teacher} > {target} lr{params.finetune.learning_rate:g} "
        f"x{params.finetune.epochs:g}"
    )


def log_run(
    stage: Stage, ledger: Ledger, scores: dict[str, Any], provenance: dict[str, Any]
) -> tuple[str, str]:
    """Log everything but the model; return MLflow's name and digest of the evaluation set."""
    adapter, evaluation = stage.path("finetune"), stage.path("evaluate")
    losses = _read_losses(adapter / "loss.csv")
    judged = (stage.path(name) for name in ("validate", "verify", "supervise"))
    quality = RowQuality.read(*judged)
    # The commit that was trained on, where the setting names a branch of the hub.
    ledger.params(logged_params(stage.params) | {"finetune.revision": provenance["revision"]})
    ledger.curve("train_loss", losses)
    ledger.metrics(
        metric_table(scores)
        | quality.metrics()
        | {"rows": float(provenance["rows"]), "steps": float(provenance["steps"])}
    )
    ledger.files(_draw_plots(stage.work / "plots", losses, scores), "plots")
    evaluated = ("scores.json", "predictions.parquet", "calibration.json", "report.html")
    ledger.files([evaluation / name for name in evaluated], "evaluation")
    ledger.files([stage.path("validate") / "report.html"], "validation")
    ledger.files([stage.path("verify") / "report.html"], "verification")
    # A version's adapter has the digests of its rows, which finetune.start: champion needs.
    kept = ("provenance.json", TRAINED_FILE)
    ledger.files([adapter / name for name in kept if (adapter / name).is_file()])
    ledger.tags(keep_commit(ledger, lineage(stage, provenance)))
    ledger.tags({"rows.quality": quality.describe()})
    return _log_datasets(stage, ledger, scores, provenance)


def metric_table(scores: dict[str, Any]) -> dict[str, float]:
    """Return the few, stable metric keys that MLflow compares: F1 in points by dataset, interval,
    zero-shot, gain; the start alone and the gain over it where there is a start. A run without
    labelled items has its agreement with held-out rows alone.
    """
    if "agreement" in scores:
        found = scores["agreement"]["adapted"]
        return {f"{bound}/{scores['dataset']}": value for bound, value in found.items()}
    name, adapted = scores["dataset"], scores["adapted"]
    table = {
        f"f1/{name}": adapted["f1"],
        f"f1_low/{name}": adapted["f1_low"],
        f"f1_high/{name}": adapted["f1_high"],
        f"f1_zero_shot/{name}": scores["zero_shot"]["f1"],
        f"gain/{name}": scores["gain"]["f1"],
    }
    if "majority" in adapted:
        table[f"f1_majority/{name}"] = adapted["majority"]
    if "calibrated" in scores:
        table[f"f1_calibrated/{name}"] = scores["calibrated"]["adapted"]["f1"]
    if "start" in scores:
        gain = scores["gain_over_start"]
        bounds = (gain[bound] for bound in ("f1", "f1_low", "f1_high"))
        table[f"f1_start/{name}"] = scores["start"]["f1"]
        table |= gain_metrics("start", name, *bounds)
    return table


def logged_params(params: Params) -> dict[str, Any]:
    """Return the parameters that a run shows, as ``section.key`` pairs."""
    return flatten(params.model_dump(mode="json"))


def digest_settings(params: Params) -> str:
    """Return a digest of those parameters, but for those that change no result: the limits of the
    run, and who does its work. With others a killed registration continues.
    """
    settings = logged_params(params).items()
    return fingerprint({name: value for name, value in settings if not _IDLE.search(name)})


def keep_commit(ledger: Ledger, tags: dict[str, str]) -> dict[str, str]:
    """Return the tags, without the commit where the run's version exists: it was made by the commit
    that the run names.
    """
    if not ledger.has_version():
        return tags
    return {name: value for name, value in tags.items() if not name.startswith("git.")}


def lineage(stage: Stage, provenance: dict[str, Any]) -> dict[str, str]:
    """Return the tags that lead back to commit, data version, models that made the rows, rows,
    prompt form and Prefect run.
    """
    data = Path("data.dvc")
    generated = read_json(stage.path("generate"))
    verified = read_json(stage.path("verify") / "summary.json")
    # DVC writes dvc.lock during the run, and a run with a profile writes its params.yaml: those are
    # no edits of the user's.
    written = ["dvc.lock", *(["params.yaml"] if Path.cwd().parent.name == ".runs" else [])]
    tracked = ("--untracked-files=no", "--", ".", *(f":(exclude){name}" for name in written))
    commit = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain", *tracked))
    tags = {
        "git.commit": commit,
        "git.dirty": str(changed).lower() if commit else "",
        "dvc.data": sha256_file(data) if data.is_file() else "",
        "data.items_sha256": sha256_file(Path(stage.params.evaluate.items)),
        "data.instructions_sha256": provenance["instructions_sha256"],
        "rows.generator": generated["generator"],
        "rows.readers": ", ".join(verified["readers"]),
        "prompt.form": provenance["prompt"],
        "scored": describe_scored(provenance),
        "prefect.flow_run": os.environ.get("PIPELINE_FLOW_RUN", ""),
    }
    return {name: value for name, value in tags.items() if value}


def describe_scored(provenance: dict[str, Any]) -> str:
    """Say which weights gave the scores of an adapter's provenance."""
    rounding = provenance["quantization"]
    rounded = "" if rounding == "none" else f" rounded through {rounding}"
    return provenance["base"] + rounded + (" + adapter, merged" if provenance["adapter"] else "")


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters as ``section.key`` pairs."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        flat |= flatten(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return flat


def _read_losses(path: Path) -> list[tuple[int, float]]:
    with path.open(encoding="utf-8") as stream:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(stream)]


def _draw_plots(
    folder: Path, losses: list[tuple[int, float]], scores: dict[str, Any]
) -> list[Path]:
    folder.mkdir(exist_ok=True)
    drawn = []
    if losses:
        plot_loss(folder / "loss.png", losses)
        drawn.append(folder / "loss.png")
    if "adapted" in scores:
        plot_f1(folder / "f1.png", scores)
        drawn.append(folder / "f1.png")
    return drawn


def _log_datasets(
    stage: Stage, ledger: Ledger, scores: dict[str, Any], provenance: dict[str, Any]
) -> tuple[str, str]:
    """Log the training rows and the evaluation questions; return name and digest of the latter."""
    if provenance["adapter"]:
        path = stage.path("supervise") / "instructions.parquet"
        ledger.dataset(read_table(path).to_pandas(), "instructions", str(path), "training")
    path = stage.path("evaluate") / "predictions.parquet"
    questions = read_table(path, ["item_id", "template", "prompt"])
    items = stage.params.evaluate.items
    return ledger.dataset(questions.to_pandas(), scores["dataset"], items, "evaluation")


def _git(*arguments: str) -> str:
    """Return git's output, or nothing outside a checkout."""
    try:
        return subprocess.run(
            ["git", *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
