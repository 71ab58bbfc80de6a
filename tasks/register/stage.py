"""register: log the run, its F1 and its model to MLflow, and decide which version is the champion.

The alias ``champion`` moves only on evidence (:mod:`tasks.register.champion`); any other new
version is the ``challenger``.
"""

from __future__ import annotations

import importlib.metadata
import logging
from typing import Any

from tasks.core.card import take_cards
from tasks.core.files import (
    fingerprint,
    read_json,
    sha256_file,
    temporary_files_in,
    write_json,
)
from tasks.core.parquet import read_table
from tasks.core.rows import ADAPTER_FILES
from tasks.core.stage import Stage, run_stage
from tasks.lm.merged import scored_folder
from tasks.register.card import make_card
from tasks.register.champion import (
    QUESTIONS,
    choose_alias,
    compare_with_start,
    compare_with_tapt,
    leave_unjudged,
    load_questions,
)
from tasks.register.gate import Exam, describe_leak
from tasks.register.parity import Parity, check_parity
from tasks.register.run_record import digest_settings, log_run, metric_table, run_name
from tasks.tracking.fetch_model import default_name
from tasks.tracking.kept_answers import NAME as KEPT_ANSWERS
from tasks.tracking.mlflow_store import refuse_scratch_store, shown_uri, store_errors
from tasks.tracking.registry import Ledger, gain_metrics

log = logging.getLogger(__name__)
#: Packages that load the model with MLflow alone, recorded at the versions that made it.
_PACKAGES = ("mlflow", "torch", "transformers", "peft", "accelerate")


def register(stage: Stage) -> None:
    """Write ``registration.json`` (run, model version, alias and verdict), the version's card,
    ``README.md``, and ``parity.json``, some of its answers.

    A killed registration continues in the same run.
    """
    refuse_scratch_store()
    with store_errors():
        _register(stage)


def _register(stage: Stage) -> None:
    scores = read_json(stage.path("evaluate") / "scores.json")
    provenance = read_json(stage.path("finetune") / "provenance.json")
    ledger = _open_ledger(stage, scores, provenance)
    log.info("MLflow run %s in %s", ledger.run_id, shown_uri())
    scored_on = log_run(stage, ledger, scores, provenance)
    asked = load_questions(stage)
    if asked is not None:
        ledger.tags({QUESTIONS: asked.digest})
    registration = {
        "tracking_uri": shown_uri(),
        "experiment": stage.params.register.experiment,
        "experiment_id": ledger.experiment_id,
        "run_id": ledger.run_id,
        **_log_gain_over_tapt(stage, ledger, scores, asked, provenance["revision"]),
        **_tell_leak(stage, ledger),
    }
    if provenance["adapter"]:
        registration |= _register_model(
            stage, ledger, provenance, scores, scored_on, asked, registration
        )
    else:
        registration["verdict"] = "supervise.source none: no model was made"
    ledger.finish()
    write_json(stage.out / "registration.json", registration)
    stage.summary(1, 1)


def _open_ledger(stage: Stage, scores: dict[str, Any], provenance: dict[str, Any]) -> Ledger:
    """Open the MLflow run of this adapter, these scores and these settings; it is continued where
    there is one.
    """
    model = (
        sha256_file(stage.path("finetune") / "adapter_model.safetensors")
        if provenance["adapter"]
        else provenance["key"]
    )
    return Ledger.open(
        stage.params.register.experiment,
        fingerprint(model, scores, digest_settings(stage.params)),
        provenance["key"],
        run_name(stage.params, scores),
    )


def _log_gain_over_tapt(
    stage: Stage, ledger: Ledger, scores: dict[str, Any], asked: Exam | None, revision: str
) -> dict[str, str]:
    comparison = compare_with_tapt(stage, ledger, asked, revision)
    if comparison is None:
        return {}
    log.info(comparison.describe())
    bounds = (comparison.f1, comparison.low, comparison.high)
    ledger.metrics(gain_metrics("tapt", scores["dataset"], *bounds))
    return {"over_tapt": comparison.describe()}


def _tell_leak(stage: Stage, ledger: Ledger) -> dict[str, str]:
    """Say in the log, on the run's page and in the closing table what was trained on that is in the
    evaluation set too.
    """
    text = describe_leak(read_json(stage.path("ingest")))
    if not text:
        return {}
    log.warning(text)
    ledger.tags({"in_evaluation": text})
    return {"in_evaluation": text}


def _register_model(
    stage: Stage,
    ledger: Ledger,
    provenance: dict[str, Any],
    scores: dict[str, Any],
    scored_on: tuple[str, str],
    asked: Exam | None,
    known: dict[str, Any],
) -> dict[str, Any]:
    """Register the adapter once trained, merged and served model agree; choose its alias, and give
    it its card. ``known`` is what registration.json says of the run.
    """
    name = stage.params.register.model_name or default_name(provenance["base"], scores["dataset"])
    take_cards()
    parity = check_parity(stage)
    ledger.tags({"parity": parity.describe()})
    if parity.items:
        ledger.files([stage.out / KEPT_ANSWERS])
    with temporary_files_in(stage.work / "temporary"):  # MLflow writes the model there first
        uri = _log_model(stage, ledger, provenance)
    # As they were trained, to the byte: MLflow writes the same values in float32.
    for file in ADAPTER_FILES:
        ledger.add_to_model(uri, stage.path("finetune") / file)
    ledger.score(uri, metric_table(scores), scored_on)
    version = ledger.version(name, uri)
    alias, verdict = (
        leave_unjudged(ledger, name, version)
        if asked is None
        else choose_alias(stage, ledger, name, version, asked)
    )
    log.info("%s version %s is %s: %s", name, version.version, alias, verdict)
    told: dict[str, Any] = {
        "model_name": name,
        "version": str(version.version),
        "alias": alias,
        "verdict": verdict,
        "parity": vars(parity),
        **_say_parity(parity),
        **_say_gain_over_start(version, scores),
    }
    card = make_card(stage, provenance, scores, known | told)
    path = card.write(stage.out)
    ledger.files([path])
    ledger.add_to_model(uri, path)
    lead = f"{card.lead}\n\n{told['over_start']}" if "over_start" in told else card.lead
    ledger.describe(name, version.version, lead)
    return told


def _say_parity(parity: Parity) -> dict[str, str]:
    """Say in the closing table, on the run's page and in the card where the models differ."""
    return {} if parity.all_three == parity.items else {"served": parity.describe()}


def _say_gain_over_start(version: Any, scores: dict[str, Any]) -> dict[str, str]:
    """Say in the log what the run adds to its start; the version's page says it too.

    A version that adds nothing measurable can still be the champion, if it is not below its start.
    """
    comparison = compare_with_start(scores)
    if comparison is None:
        return {}
    text = f"version {version.version}: {comparison.describe()}"
    if comparison.low > 0:
        log.info(text)
    else:
        text += ": not above zero"
        log.warning(text)
    return {"over_start": text}


def _log_model(stage: Stage, ledger: Ledger, provenance: dict[str, Any]) -> str:
    """Log the adapter over the base weights it was scored on; return the model's URI."""
    return ledger.model(
        scored_folder(provenance, None),
        stage.path("finetune"),
        _mlflow_template(provenance["prompt_example"]),
        _example_prompt(stage),
        stage.params.evaluate.max_new_tokens,
        [f"{package}=={importlib.metadata.version(package)}" for package in _PACKAGES],
    )


def _mlflow_template(prompt_example: str) -> str:
    """Return the prompt form as MLflow's template.

    MLflow renders it with str.format, so the prompt form's own braces are doubled.
    """
    head, _, tail = prompt_example.replace("{", "{{").replace("}", "}}").partition("INSTRUCTION")
    return f"{head}{{prompt}}{tail}"


def _example_prompt(stage: Stage) -> str:
    path = stage.path("supervise") / "instructions.parquet"
    first = read_table(path, ["instruction", "response"]).slice(0, 1).to_pylist()[0]
    return str(first["instruction"] or first["response"])


def main(argv: list[str] | None = None) -> int:
    """Command line of the stage."""
    inputs = ("ingest", "generate", "validate", "verify", "supervise", "finetune", "evaluate")
    return run_stage("register", register, inputs, argv)
