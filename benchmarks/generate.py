"""generate: passages a second, against the authors' package on the same vLLM and transformers."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import made
from benchmarks.harness import PASSED, ROOT, BenchOptions, Contender, ContenderResult, race
from benchmarks.inputs import model_folder
from benchmarks.machine import has_gpu
from benchmarks.roofline import Need, roofline
from benchmarks.rows import ResultRow, compare
from tasks.core.overlay import overlay
from tasks.core.parquet import write_table
from tasks.core.rows import PASSAGES
from tasks.core.task_types import TASK_TYPES
from tasks.lm.merged import merged_folder
from tasks.lm.models import EMBEDDED, resolve
from tasks.lm.prompts import Task, generator_prompt, parse_prediction
from tasks.lm.tokenizers import load_tokenizer
from tasks.lm.vllm_settings import vllm_environment, vllm_settings

NAMES = ("generate", "generate-fp8")
TARGETS = {"bonito-llm": 1.1, "transformers": 3.0, "transformers continuous batching": 3.0}
#: On a GPU: ours with the weights rounded to eight bits, against bonito-llm as it is. At most so
#: large a share of the usable rows may be lost by it.
_FP8, _FP8_TARGET, _LOST = "ours in fp8", 1.5, 0.02
#: Contenders whose kernels are not ours.
_TRANSFORMERS = ("transformers", "transformers continuous batching")
_PASSAGES, _QUICK_PASSAGES, _MAX_TOKENS, _TASK_TYPE, _BATCH = 40, 4, 64, "exqa", 16
_GENERATOR = ROOT / "models" / "bonito-smollm2-135m"
#: Share of the rows that must be parsed to the same instruction and response: the kernels round
#: differently, so a near-tie may fall otherwise.
_ALIKE = 0.95


def run(options: BenchOptions) -> list[ResultRow]:
    """Return one row a peer.

    A quick run has transformers on both sides: vLLM's start takes longer than the whole test.
    """
    folder = options.work / "generate"
    contenders = _contenders(options, folder)
    done = _raced(contenders, options, folder)
    exact = _in_float32(contenders, options, folder / "float32")
    note = (
        f"{_PASSAGES} passages, {_TASK_TYPE}, greedy, at most {_MAX_TOKENS} tokens; one "
        "checkpoint for all, the adapter merged into its base"
    )
    facts = done["ours"].facts
    outputs = facts.get("output_tokens", 0)
    # Decoding reads every weight for every token of the longest answer at least, and once for the
    # prompts.
    need = Need(
        facts.get("prompt_tokens", 0) + outputs, outputs, passes=1 + facts.get("longest", 0)
    )
    limits = roofline(done["ours"], need, str(_weights(options)), options)
    rows = []
    for peer, target in TARGETS.items():
        gated = exact if peer in exact and not done[peer].failure else done
        gate, alike = _gate(gated["ours"], gated[peer])
        written = {
            "ours": done["ours"].facts.get("output_tokens"),
            "theirs": done[peer].facts.get("output_tokens"),
        }
        rows.append(
            compare(
                NAMES[0],
                done["ours"],
                done[peer],
                gate,
                unit="passages/s",
                target=target,
                note=f"{note}; {alike}" if alike else note,
                extra={**limits, "output_tokens": written},
            )
        )
    if _FP8 in done:
        gate, kept = quality_gate(done["ours"], done[_FP8])
        rows.append(
            compare(
                NAMES[1],
                done[_FP8],
                done["bonito-llm"],
                gate,
                unit="passages/s",
                target=_FP8_TARGET,
                note=f"{note}; {kept}",
            )
        )
    return rows


def quality_gate(ours: ContenderResult, rounded: ContenderResult) -> tuple[str, str]:
    """Return the gate of rounded weights, and what was found: nearly as many of their rows must be
    usable, whatever they say.
    """
    if ours.failure or rounded.failure:
        return PASSED, ""  # the failure is reported
    usable, left = (sum(not task.reason for task in _parsed(one.read())) for one in (ours, rounded))
    found = f"{left} rows usable, {usable} with bfloat16 weights"
    return (PASSED if left >= (1 - _LOST) * usable else f"only {found}"), found


def _raced(
    contenders: list[Contender], options: BenchOptions, folder: Path
) -> dict[str, ContenderResult]:
    """On a GPU one contender after the other, as each engine takes the memory for itself; otherwise
    interleaved.
    """
    if not has_gpu():
        return race(contenders, options, folder)
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: outcome
        for one in contenders
        for name, outcome in race([one], options, folder).items()
    }


def _in_float32(
    contenders: list[Contender], options: BenchOptions, folder: Path
) -> dict[str, ContenderResult]:
    """Return what ours and transformers write in float32, where bfloat16 is raced: in that two sets
    of kernels soon differ by a token, in float32 hardly.
    """
    if options.quick or vllm_settings("auto", 1)["dtype"] == "float32":
        return {}
    ours, *others = (one for one in contenders if one.name in ("ours", *_TRANSFORMERS))
    exact = {"generate": {"generator": others[0].config["model"], "precision": "float32"}}
    ours = replace(ours, config=overlay(ours.config, exact | {"folder": str(folder / "ours")}))
    others = [
        replace(one, config=overlay(one.config, {"engine": {"dtype": "float32"}})) for one in others
    ]
    return _raced([ours, *others], replace(options, rounds=1), folder)


def _contenders(options: BenchOptions, folder: Path) -> list[Contender]:
    weights = _weights(options)
    passages = folder / "passages.parquet"
    write_table(
        passages,
        pa.Table.from_pylist(
            made.contexts(_QUICK_PASSAGES if options.quick else _PASSAGES), schema=PASSAGES
        ),
    )
    tokenizer = load_tokenizer(str(weights))
    longest = _MAX_TOKENS + max(
        len(generator_prompt(tokenizer, row["text"], _TASK_TYPE))
        for row in made.contexts(_PASSAGES)
    )
    # By its own name: what tells it from another generator is a digest of the adapter, not of the
    # whole checkpoint.
    named = str(_GENERATOR) if options.model == EMBEDDED and not options.quick else str(weights)
    settings = {
        "generator": named,
        "task_types": [_TASK_TYPE],
        "samples": 1,
        "temperature": 0.0,
        "top_p": 0.95,
        "max_tokens": _MAX_TOKENS,
    }
    ours = {
        "passages": str(passages),
        "folder": str(folder / "ours"),
        "longest": longest,
        "generate": settings,
    }
    if options.quick:
        ours["generate"] = {**settings, "engine": "transformers", "precision": "float32"}
    theirs: dict[str, Any] = {
        "passages": str(passages),
        "model": str(with_bos(weights, folder / "weights")),
        "engine": vllm_settings("float32" if options.quick else "auto", longest),
        "task_type": _TASK_TYPE,
        "full_task_type": TASK_TYPES[_TASK_TYPE].full_name,
        "max_tokens": _MAX_TOKENS,
        "top_p": 0.95,
        "batch": _BATCH,
        "environment": vllm_environment(has_gpu()),
    }
    quick = "a quick run has transformers' generate alone" if options.quick else ""
    transformers = "benchmarks.contenders.generate_transformers"
    rounded = {
        **ours,
        "generate": {**settings, "precision": "fp8"},
        "folder": str(folder / "ours-fp8"),
    }
    return [
        Contender("ours", "benchmarks.contenders.generate_ours", ours),
        *(
            [Contender(_FP8, "benchmarks.contenders.generate_ours", rounded)]
            if has_gpu() and not options.quick
            else []
        ),
        Contender("bonito-llm", "benchmarks.contenders.generate_bonito_llm", theirs, missing=quick),
        Contender("transformers", transformers, {**theirs, "continuous": False}),
        Contender(
            "transformers continuous batching",
            transformers,
            {**theirs, "continuous": True},
            missing="a quick run leaves it out" if options.quick else "",
        ),
    ]


def _weights(options: BenchOptions) -> Path:
    """Return one plain checkpoint: the embedded generator's adapter merged into its base, or what
    ``--model`` names.
    """
    if options.model == EMBEDDED and not options.quick:
        return merged_generator()
    return Path(model_folder(options))


def merged_generator() -> Path:
    """Return the embedded generator's adapter merged into its base, as stage generate serves it."""
    generator = resolve(str(_GENERATOR))
    return merged_folder(generator.base, generator.revision, generator.adapter, "none")


def with_bos(weights: Path, folder: Path) -> Path:
    """Return the same checkpoint with a tokenizer that puts BOS in front by itself.

    Bonito is trained with it; the tokenizers of Mistral and Llama do so, the embedded model's does
    not, and bonito-llm hands on plain text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in weights.iterdir():
        link = folder / file.name
        link.unlink(missing_ok=True)
        os.symlink(file.resolve(), link)
    tokenizer = load_tokenizer(str(weights))
    if tokenizer.bos_token_id is None or tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        return folder
    described = json.loads((weights / "tokenizer.json").read_text(encoding="utf-8"))
    bos, number = tokenizer.bos_token, tokenizer.bos_token_id
    single = [
        {"SpecialToken": {"id": bos, "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {bos: {"id": bos, "ids": [number], "tokens": [bos]}},
    }
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def _gate(ours: ContenderResult, theirs: ContenderResult) -> tuple[str, str]:
    """Return the gate and a note: prompts must be equal, and nearly all parsed rows alike."""
    if ours.failure or theirs.failure:
        return PASSED, ""  # the failure is reported
    mine, other = ours.read(), theirs.read()
    if mine["prompts"] != other["prompts"]:
        return "the prompts are not the same", ""
    pairs = list(zip(_parsed(mine), _parsed(other), strict=True))
    alike = sum(one == two for one, two in pairs)
    found = (
        f"{alike} of {len(pairs)} rows parsed alike, "
        f"{sum(not one.reason for one, _ in pairs)} of ours usable"
    )
    return (PASSED if alike >= _ALIKE * len(pairs) else f"only {found}"), found


def _parsed(outputs: dict[str, Any]) -> list[Task]:
    return [
        parse_prediction(text.strip(), finished)
        for text, finished in zip(outputs["texts"], outputs["finished"], strict=True)
    ]
