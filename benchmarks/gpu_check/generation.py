"""The paths of scoring and generation: ranked choices, both engines, and whether they agree."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import torch

from benchmarks.evaluate import BATCH_ROWS, float32_scores, ranking_gate
from benchmarks.gpu_check.outcome import Figures, NotRun
from benchmarks.gpu_check.setting import Setting
from benchmarks.harness import PASSED
from benchmarks.inputs import prompter_of
from benchmarks.roofline import Need, read_weights
from tasks.lm.engine import Completion, Engine, Sampling, open_engine
from tasks.lm.memory import freed_after
from tasks.lm.models import load_model
from tasks.scoring.ranking import rank

_QUESTIONS = 48
#: Logits of float32 that are no further apart are a tie, which each engine may break its way.
_TIE = {"bfloat16": 0.25, "float32": 1e-3}


def rank_like_float32(setting: Setting) -> Figures:
    """Rank choices on the cut, and compare with float32 without padding or shared prompts."""
    asked = [*setting.questions(15), setting.long_question()]
    reference = float32_scores(str(setting.cut), asked)
    scores, *_ = _rank(setting, setting.cut, asked)
    off = max(
        abs(one - other)
        for row, others in zip(reference, scores, strict=True)
        for one, other in zip(row, others, strict=True)
    )
    return Figures(ranking_gate(reference, scores), f"scores off by {off:.2g} at most")


def rank_speed(setting: Setting) -> Figures:
    """Rank choices on the merged model."""
    folder = setting.merged()
    asked = setting.questions(min(_QUESTIONS, setting.shape.prompts))
    scores, tokens, scored, seconds = _rank(setting, folder, asked)
    finite = bool(torch.tensor(scores).isfinite().all())
    need = Need(tokens, scored, passes=-(-len(asked) // BATCH_ROWS))
    return Figures(
        PASSED if finite else "the scores are not finite",
        "near ties are scored again in float32",
        tokens,
        seconds,
        need,
        read_weights(str(folder)),
    )


def _rank(
    setting: Setting, folder: Path, asked: list[dict[str, list[str]]]
) -> tuple[list[list[float]], int, int, float]:
    """Return the scores, the tokens, the scored ones among them, and the seconds."""
    prompter = prompter_of(str(folder))
    prompts = [prompter.prompt(str(one["instruction"])) for one in asked]
    choices = [[prompter.response(choice) for choice in one["choices"]] for one in asked]
    with freed_after(load_model(str(folder), precision=setting.shape.precision).eval()) as model:
        rank(model, prompts[:2], choices[:2], BATCH_ROWS, setting.pad_token)  # the warm-up
        start = time.perf_counter()
        scores = rank(model, prompts, choices, BATCH_ROWS, setting.pad_token)
        seconds = time.perf_counter() - start
    scored = sum(len(choice) for row in choices for choice in row)
    return scores, sum(map(len, prompts)) + scored, scored, seconds


def generate_with(setting: Setting, kind: str) -> Figures:
    """Sample on the merged model, twice: the same call is to give the same completions."""
    _need(kind)
    folder, shape = setting.merged(), setting.shape
    prompts = [*setting.prompts(shape.prompts), setting.long_prompt()]
    sampling, seeds = Sampling(0.5, 0.95, shape.new_tokens), list(range(len(prompts)))
    with freed_after(_engine(setting, kind, folder, prompts)) as engine:
        first = engine.generate(prompts, sampling, seeds)  # also the warm-up
        start = time.perf_counter()
        second = engine.generate(prompts, sampling, seeds)
        seconds = time.perf_counter() - start
    new = sum(one.tokens for one in second)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    gate = PASSED if same == len(prompts) else f"{same} of {len(prompts)} completions came again"
    # A step reads the weights once, however many rows it serves; speed counts the new tokens.
    need = Need(sum(map(len, prompts)) + new, new, passes=max(one.tokens for one in second))
    note = f"{len(prompts)} prompts, {new} new tokens"
    return Figures(gate, note, new, seconds, need, read_weights(str(folder)))


def same_greedy_answers(setting: Setting) -> Figures:
    """Answer greedily on the cut with both engines; where they part, float32 must see a tie."""
    _need("vllm")
    prompts = [*setting.prompts(min(8, setting.shape.prompts)), setting.long_prompt()]
    sampling = Sampling(0.0, 1.0, setting.shape.new_tokens)
    answers: list[list[list[int]]] = []
    for kind in ("transformers", "vllm"):
        with freed_after(_engine(setting, kind, setting.cut, prompts)) as engine:
            done = engine.generate(prompts, sampling, [0] * len(prompts))
        answers.append([_tokens(setting, one) for one in done])
    parted = [
        (prompt, one, other)
        for prompt, one, other in zip(prompts, *answers, strict=True)
        if one != other
    ]
    gaps = _gaps(setting.cut, parted)
    widest = max(gaps, default=0.0)
    gate = PASSED if widest <= _TIE[setting.shape.precision] else "they part where float32 does not"
    note = f"{len(prompts) - len(parted)} of {len(prompts)} answers alike"
    return Figures(gate, note + (f"; apart by {widest:.2g} logits at most" if parted else ""))


def _gaps(folder: Path, parted: list[tuple[list[int], list[int], list[int]]]) -> list[float]:
    """Return how far apart float32 sees the two tokens where two answers part."""
    gaps = []
    with freed_after(load_model(str(folder), precision="float32").eval()) as model:
        for prompt, one, other in parted:
            pairs = enumerate(zip(one, other, strict=False))
            place = next(place for place, (a, b) in pairs if a != b)
            ids = torch.tensor([prompt + one[:place]], device=model.device)
            with torch.inference_mode():
                logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1]
            gaps.append(abs(float(logits[one[place]] - logits[other[place]])))
    return gaps


def _tokens(setting: Setting, completion: Completion) -> list[int]:
    """Return an answer's tokens: the tokenizer has one for each word."""
    tokenizer = setting.prompter.tokenizer
    tokens = list(tokenizer.encode(completion.text, add_special_tokens=False))
    return [*tokens, tokenizer.eos_token_id] if completion.finished else tokens


def _engine(setting: Setting, kind: str, folder: Path, prompts: list[list[int]]) -> Engine:
    longest = max(map(len, prompts)) + setting.shape.new_tokens
    return open_engine(kind, folder, precision=setting.shape.precision, max_length=longest)


def _need(kind: str) -> None:
    if kind == "vllm" and importlib.util.find_spec("vllm") is None:
        raise NotRun("vLLM has no build for this platform")
