"""The engine that runs everywhere: transformers' generate, in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from tasks.lm.engine import Completion, OnDone, Sampling
from tasks.lm.loading import load_model
from tasks.lm.memory import free, full_card
from tasks.lm.tokenizers import load_tokenizer

#: Most tokens of a batch: 2 GB of keys and values of Mistral-7B.
_BATCH_TOKENS = 16_384


class TransformersEngine:
    """transformers' generate in batches: slower than vLLM, but runs everywhere.

    A batch holds prompts of similar length, padded on the left. A row draws from its own seed, see
    :class:`_Draw`: its batch changes no more than the low bits of its probabilities.
    """

    def __init__(self, folder: str, precision: str) -> None:
        self._model = load_model(folder, precision=precision).eval()
        self._tokenizer = load_tokenizer(folder)

    def generate(
        self,
        prompts: Sequence[list[int]],
        sampling: Sampling,
        seeds: Sequence[int],
        on_done: OnDone | None = None,
    ) -> list[Completion]:
        """See :meth:`Engine.generate`."""
        completions: dict[int, Completion] = {}
        for batch in _batches([len(prompt) for prompt in prompts], sampling.max_tokens):
            rows = self._complete(
                [prompts[index] for index in batch], sampling, [seeds[index] for index in batch]
            )
            completions.update(zip(batch, rows, strict=True))
            if on_done:
                on_done(len(batch))
        return [completions[index] for index in range(len(prompts))]

    def close(self) -> None:
        """See :meth:`Engine.close`."""
        free(self._model)

    def _complete(
        self, prompts: list[list[int]], sampling: Sampling, seeds: list[int]
    ) -> list[Completion]:
        length, pad = max(map(len, prompts)), self._tokenizer.pad_token_id
        padding = [length - len(prompt) for prompt in prompts]
        rows = zip(prompts, padding, strict=True)
        ids = torch.tensor([[pad] * size + prompt for prompt, size in rows])
        seen = torch.tensor([[0] * size + [1] * (length - size) for size in padding])
        draw = [_Draw(sampling, seeds)] if sampling.temperature > 0 else []
        chances = [_Chances()] if sampling.logprobs else []
        remedy = "or take a larger card"
        with torch.inference_mode(), full_card("writing with the model", remedy):
            output = self._model.generate(
                input_ids=ids.to(self._model.device),
                attention_mask=seen.to(self._model.device),
                max_new_tokens=sampling.max_tokens,
                pad_token_id=pad,
                eos_token_id=self._tokenizer.eos_token_id,
                do_sample=False,
                logits_processor=LogitsProcessorList([*chances, *draw]),
            )
        written = output[:, length:].tolist()
        told = chances[0].finish(output) if chances else [[] for _ in written]
        return [self._completion(*row) for row in zip(written, told, strict=True)]

    def _completion(self, new: list[int], chances: list[float]) -> Completion:
        """Return a row's completion; what follows its end mark is padding."""
        end = self._tokenizer.eos_token_id
        finished = end in new
        new = new[: new.index(end) + 1] if finished else new
        text = self._tokenizer.decode(new, skip_special_tokens=True)
        return Completion(text, len(new), finished, tuple(zip(new, chances, strict=False)))


class _Chances(LogitsProcessor):
    """Notes the log-probability of every row's token, which the next step shows."""

    def __init__(self) -> None:
        self._last: torch.Tensor | None = None
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return ``scores`` [rows, vocabulary] as they are."""
        self._note(input_ids)
        self._last = scores.float().log_softmax(-1)
        return scores

    def finish(self, output: torch.Tensor) -> list[list[float]]:
        """Return each row's log-probabilities; ``output`` [rows, tokens] has the last ones."""
        self._note(output)
        rows: list[list[float]] = torch.cat(self._steps, dim=1).tolist()
        return rows

    def _note(self, ids: torch.Tensor) -> None:
        if self._last is not None:
            self._steps.append(self._last.gather(-1, ids[:, -1:].to(self._last.device)))


class _Draw(LogitsProcessor):
    """Draws every row's next token with one random number of the row's own generator.

    It leaves the drawn token alone, which generate's greedy choice then takes. transformers' own
    sampling has one generator for a batch: a row's numbers would depend on its neighbours.
    """

    def __init__(self, sampling: Sampling, seeds: Sequence[int]) -> None:
        self._sampling = sampling
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return ``scores`` [rows, vocabulary], minus infinity for all but the drawn tokens."""
        shares, tokens = (
            (scores.double() / self._sampling.temperature)
            .softmax(-1)
            .sort(descending=True, stable=True)
        )
        sums = shares.cumsum(-1)
        # top_p keeps the likeliest tokens, up to the one that reaches it.
        last = ((sums - shares) < self._sampling.top_p).sum(-1, keepdim=True).clamp(min=1) - 1
        chances = [torch.rand(1, generator=one, dtype=sums.dtype) for one in self._generators]
        drawn = torch.searchsorted(
            sums, torch.stack(chances).to(sums.device) * sums.gather(-1, last), right=True
        )
        chosen = tokens.gather(-1, drawn.minimum(last))
        return torch.full_like(scores, -torch.inf).scatter(-1, chosen, 0.0)


def _batches(lengths: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Yield the indices of prompts of these lengths, the longest first, in batches that hold at
    most ``_BATCH_TOKENS`` tokens with their padding and answers, or one prompt.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * (lengths[batch[0]] + max_tokens) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
