"""bonito-llm's own class on the same vLLM: same weights, same engine settings, same sampling, its
own prompts and post-processing.
"""

from __future__ import annotations

import os
from typing import Any

import pyarrow.parquet as pq

from benchmarks.contenders.authors_package import load as authors
from benchmarks.worker import Done, serve


def load(config: dict[str, Any]) -> dict[str, Any]:
    """Start it; on a CPU in this process, as ours does."""
    os.environ.update(config["environment"])
    bonito: Any = authors().Bonito
    from vllm import SamplingParams

    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()

    class Remembering(bonito):
        """Keeps what the engine said: the package itself drops what does not parse."""

        def generate(self, *args: Any, **kwargs: Any) -> Any:
            self.said = super().generate(*args, **kwargs, use_tqdm=False)
            return self.said

    texts = Dataset.from_dict(
        {"text": pq.read_table(config["passages"], columns=["text"])["text"].to_pylist()}
    )
    sampling = SamplingParams(
        temperature=config.get("temperature", 0.0),
        top_p=config["top_p"],
        max_tokens=config["max_tokens"],
        n=config.get("samples", 1),
    )
    return {
        **config,
        "bonito": Remembering(model=config["model"], **config["engine"]),
        "texts": texts,
        "sampling": sampling,
    }


def tasks_of(state: dict[str, Any]) -> Any:
    """Passages into tasks, in one call, as its README shows."""
    return state["bonito"].generate_tasks(
        state["texts"],
        context_col="text",
        task_type=state["task_type"],
        sampling_params=state["sampling"],
    )


def play(state: dict[str, Any]) -> Done:
    """Make the tasks."""
    bonito, texts = state["bonito"], state["texts"]
    bonito.reset_prefix_cache()  # as ours does: a round must not profit from the one before
    tasks = tasks_of(state)
    said = [output.outputs[0] for output in bonito.said]
    return Done(
        len(texts),
        lambda: _outputs(state, said),
        {"output_tokens": sum(len(one.token_ids) for one in said), "parsed": len(tasks)},
    )


def _outputs(state: dict[str, Any], said: list[Any]) -> dict[str, Any]:
    prompts = state["bonito"]._prepare_bonito_input(state["texts"], state["task_type"], "text")[
        "input"
    ]
    return {
        "prompts": list(prompts),
        "texts": [one.text for one in said],
        "finished": [one.finish_reason == "stop" for one in said],
    }


if __name__ == "__main__":
    serve(load, play)
