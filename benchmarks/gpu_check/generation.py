"""The paths of generation: both engines, batches against single rows, and whether the engines'
greedy answers agree.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu_check.outcome import Figures, NotRun
from benchmarks.gpu_check.setting import Answers, Setting
from benchmarks.harness import PASSED
from benchmarks.roofline import Need, read_weights
from tasks.lm.engine import Engine, Sampling, open_engine
from tasks.lm.loading import load_model
from tasks.lm.memory import freed_after
from tasks.scoring.float32 import compute_in_float32

#: Logits of float32 that are no further apart are a tie, which each computation may break its way.
#: In bfloat16 the difference of two scores of the 135M model was off by 0.31 at most
#: (tasks/scoring/ranking.py); another model's tokens are several apart.
TIE = {"bfloat16": 0.5, "float32": 1e-3}
#: Rows that are also generated one at a time, and how many times faster batches are to be on a GPU
#: where the rows fill this share of their budget: a batch waits for its longest row.
_ALONE, _LEAST_FACTOR, _FULL = 4, 10.0, 0.9


def generate_with(setting: Setting, kind: str) -> Figures:
    """Sample on the merged model, twice: the same call is to give the same completions.

    Its greedy answers are kept for the paths that compare them.
    """
    need_engine(kind)
    folder, shape = setting.merged(), setting.shape
    prompts, asked = setting.tasks(shape.prompts), setting.asked()
    sampling, seeds = Sampling(0.5, 0.95, shape.new_tokens), list(range(len(prompts)))
    with freed_after(_engine(setting, kind, folder, [*prompts, *asked])) as engine:
        first = engine.generate(prompts, sampling, seeds)  # also the warm-up
        start = time.perf_counter()
        second = engine.generate(prompts, sampling, seeds)
        seconds = time.perf_counter() - start
        alone = _one_at_a_time(engine, prompts, sampling) if kind == "transformers" else 0.0
        greedy = Sampling(0.0, 1.0, shape.new_tokens, logprobs=True)
        answers = engine.generate(asked, greedy, [0] * len(asked))
    setting.keep(kind, [[token for token, _ in one.scored] for one in answers])
    new = sum(one.tokens for one in second)
    same = sum(one == other for one, other in zip(first, second, strict=True))
    gate = PASSED if same == len(prompts) else f"{same} of {len(prompts)} completions came again"
    note = f"{len(prompts)} prompts, {new} new tokens"
    if alone:
        factor = new / seconds / alone
        note += f"; {factor:.1f} times one row at a time ({alone:,.1f} tokens/s)"
        full = torch.cuda.is_available() and new >= _FULL * len(prompts) * shape.new_tokens
        if gate == PASSED and full and factor < _LEAST_FACTOR:
            gate = f"batches are {factor:.1f} times as fast as one row at a time"
    # A step reads the weights once, however many rows it serves; speed counts the new tokens.
    need = Need(sum(map(len, prompts)) + new, new, passes=max(one.tokens for one in second))
    return Figures(gate, note, new, seconds, need, read_weights(str(folder)))


def _one_at_a_time(engine: Engine, prompts: list[list[int]], sampling: Sampling) -> float:
    """Return the new tokens a second of some of the prompts, each in a call of its own."""
    some = prompts[:: -(-len(prompts) // _ALONE)]
    start = time.perf_counter()
    new = sum(engine.generate([prompt], sampling, [0])[0].tokens for prompt in some)
    return new / (time.perf_counter() - start)


def same_greedy_answers(setting: Setting) -> Figures:
    """Compare both engines' greedy answers; where they part, float32 must see a tie."""
    need_engine("vllm")
    answers = [setting.kept(kind) for kind in ("transformers", "vllm")]
    return compare_answers(setting, *answers)


def compare_answers(setting: Setting, ours: Answers, others: Answers) -> Figures:
    """Compare two computations' greedy answers to the prompts that :meth:`Setting.asked` gives.

    It passes if the merged model in float32 sees a tie where two answers part.
    """
    pairs = zip(setting.asked(), ours, others, strict=True)
    parted = [(prompt, one, other) for prompt, one, other in pairs if one != other]
    widest = max(_gaps(setting, setting.merged(), parted), default=0.0)
    gate = PASSED if widest <= TIE[setting.shape.precision] else "they part where float32 does not"
    note = f"{len(ours) - len(parted)} of {len(ours)} answers alike"
    return Figures(gate, note + (f"; apart by {widest:.2g} logits at most" if parted else ""))


def _gaps(
    setting: Setting, folder: Path, parted: Sequence[tuple[list[int], list[int], list[int]]]
) -> list[float]:
    """Return how far apart float32 sees the two tokens where two answers part."""
    gaps: list[float] = []
    if not parted:
        return gaps
    with (
        freed_after(load_model(str(folder), precision=setting.shape.precision).eval()) as model,
        torch.inference_mode(),
        compute_in_float32(model),
    ):
        for prompt, one, other in parted:
            pairs = enumerate(zip(one, other, strict=False))
            place = next(place for place, (a, b) in pairs if a != b)
            ids = torch.tensor([prompt + one[:place]], device=model.device)
            logits = model(input_ids=ids, logits_to_keep=1).logits[0, -1]
            gaps.append(abs(float(logits[one[place]] - logits[other[place]])))
    return gaps


def _engine(setting: Setting, kind: str, folder: Path, prompts: list[list[int]]) -> Engine:
    longest = max(map(len, prompts)) + setting.shape.new_tokens
    return open_engine(kind, folder, precision=setting.shape.precision, max_length=longest)


def need_engine(kind: str) -> None:
    """Raise :class:`NotRun` where vLLM is asked for and is not installed."""
    if kind == "vllm" and importlib.util.find_spec("vllm") is None:
        raise NotRun("vLLM has no build for this platform")
