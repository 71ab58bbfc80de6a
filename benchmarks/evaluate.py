"""evaluate: ranked choices, examples a second, against the authors' way and lm-evaluation-harness.

Every contender gets the same texts, weights, dtype, threads and rows a batch, and scores every
choice by the sum of its tokens' log-probabilities, the end mark included. Gate: where float32 tells
the best two choices apart by more than ``MARGIN``, ours ranks the same one first. How often a peer
does not is said in its row; it loses nothing by it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.harness import PASSED, BenchOptions, Contender, ContenderResult, race
from benchmarks.inputs import model_folder, prompter_of, questions
from benchmarks.peers import interpreter
from benchmarks.roofline import Need, roofline
from benchmarks.rows import ResultRow, compare
from tasks.core.files import fingerprint, sha256_file, write_text
from tasks.scoring.ranking import margin

NAMES = ("evaluate",)
TARGETS = {"authors": 3.5, "lm-eval": 2.5}
MARGIN = 1e-3
DATASETS = ("contracts", "privacy")
#: Rows a batch, the default of evaluate.batch_rows.
BATCH_ROWS = 16

Scores = list[list[float]]


def run(options: BenchOptions) -> list[ResultRow]:
    """Return a row for each peer."""
    folder, work = model_folder(options), options.work / "evaluate"
    asked = [question for name in DATASETS for question in questions(name, 1)]
    asked = asked[:: 10 if options.quick else 1]
    write_text(work / "questions.json", json.dumps(asked))
    config: dict[str, Any] = {
        "model": folder,
        "questions": str(work / "questions.json"),
        "batch_rows": BATCH_ROWS,
        "form": prompter_of(folder).form,
    }
    python, missing = interpreter(options.work, options.install)
    contenders = [
        Contender("ours", "benchmarks.contenders.evaluate_ours", config),
        Contender("authors", "benchmarks.contenders.evaluate_authors", config),
        Contender("lm-eval", "benchmarks.contenders.evaluate_lm_eval", config, python, missing),
    ]
    reference = _reference(folder, asked, config["form"], options)
    done = race(contenders, options, work)
    facts = done["ours"].facts
    need = Need(facts.get("tokens", 0), facts.get("scored", 0), passes=-(-len(asked) // BATCH_ROWS))
    extra = {"examples": len(reference), **roofline(done["ours"], need, folder, options)}
    return [
        _row(done["ours"], done[peer], reference, target, extra) for peer, target in TARGETS.items()
    ]


def _row(
    ours: ContenderResult,
    theirs: ContenderResult,
    reference: Scores,
    target: float,
    extra: dict[str, Any],
) -> ResultRow:
    gate, note = PASSED, ""
    if not ours.failure and not theirs.failure:
        own, other = ours.read(), theirs.read()
        gate = (
            "the contenders did not score the same tokens"
            if own["tokens"] != other["tokens"]
            else ranking_gate(reference, own["scores"])
        )
        note = (
            f"against float32, ours ranks {len(parted(reference, own['scores']))} of "
            f"{len(reference)} prompts otherwise, {theirs.name} "
        )
        note += str(len(parted(reference, other["scores"])))
    return compare(
        NAMES[0], ours, theirs, gate, unit="examples/s", target=target, note=note, extra=extra
    )


def ranking_gate(reference: Scores, scores: Scores) -> str:
    """Return ``passed``, or on how many prompts the first choice is not float32's though the best
    two are ``MARGIN`` apart.
    """
    if len(scores) != len(reference):
        return f"{len(scores)} prompts were scored, not {len(reference)}"
    wrong = [index for index in parted(reference, scores) if margin(reference[index]) > MARGIN]
    return (
        PASSED
        if not wrong
        else (
            f"{len(wrong)} of {len(reference)} prompts are ranked otherwise than in float32, "
            f"the first is {wrong[0]}"
        )
    )


def parted(reference: Scores, scores: Scores) -> list[int]:
    """Return the prompts where another choice comes first."""
    return [
        index
        for index, (one, other) in enumerate(zip(reference, scores, strict=True))
        if one.index(max(one)) != other.index(max(other))
    ]


def _reference(
    folder: str, asked: list[dict[str, Any]], form: str, options: BenchOptions
) -> Scores:
    """Return float32 scores, one sequence at a time without padding; kept beside the outputs, as
    they take longer than the race.
    """
    weights = [sha256_file(path) for path in sorted(Path(folder).glob("*.safetensors"))] or [folder]
    kept = options.work / "evaluate" / f"reference-{fingerprint(asked, form, weights)[:16]}.json"
    if not kept.is_file():
        import torch

        torch.set_num_threads(options.threads)
        write_text(kept, json.dumps(float32_scores(folder, asked)))
    scores: Scores = json.loads(kept.read_text(encoding="utf-8"))
    return scores


def float32_scores(folder: str, asked: list[dict[str, Any]]) -> Scores:
    """Return each question's scores in float32, one sequence at a time without padding."""
    import torch

    from tasks.lm.loading import load_model

    model, prompter = load_model(folder, precision="float32").eval(), prompter_of(folder)

    @torch.inference_mode()
    def score(prompt: list[int], choice: list[int]) -> float:
        logits = model(
            input_ids=torch.tensor([prompt + choice], device=model.device),
            logits_to_keep=len(choice) + 1,
        ).logits[0, :-1]
        return sum(
            float(row[token])
            for row, token in zip(torch.log_softmax(logits, dim=-1), choice, strict=True)
        )

    return [
        [
            score(prompter.prompt(one["instruction"]), prompter.response(choice))
            for choice in one["choices"]
        ]
        for one in asked
    ]
