"""The peers' chain, each step a process of its own: ``python -m benchmarks.contenders.chain STEP
CONFIG.json``, from passages that are given.

Steps: the authors' package on vLLM, whose own post-processing is all the validation there is;
Q-LoRA by TRL or by the authors' recipe; answers the paper's way (extraction: greedy, 25 new tokens)
by transformers in padded batches, the adapter merged into its base. Each step prints its counts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tasks.core.params import load_params
from tasks.lm.loading import load_model
from tasks.lm.prompts import Prompter, prompt_form
from tasks.lm.tokenizers import load_tokenizer


def write(config: dict[str, Any]) -> dict[str, Any]:
    """Passages into rows with ``input`` and ``output``, in ``config["rows"]``: what the authors'
    package keeps of what it generates.
    """
    from datasets import concatenate_datasets

    if config["vllm"]:
        from benchmarks.contenders import generate_bonito_llm as authors

        state = authors.load(config)
        made = [authors.tasks_of({**state, "task_type": kind}) for kind in config["task_types"]]
    else:
        made = [
            _by_transformers({**config, "full_task_type": full})
            for full in config["full_task_types"]
        ]
    rows = concatenate_datasets(made)
    rows.to_parquet(config["rows"])
    return {"passages": pq.read_metadata(config["passages"]).num_rows, "kept": len(rows)}


def _by_transformers(config: dict[str, Any]) -> Any:
    """Where vLLM's start would take longer than all else: transformers' answers through the
    authors' post-processing.
    """
    from benchmarks.contenders import generate_transformers
    from benchmarks.contenders.authors_package import load
    from datasets import Dataset

    state = generate_transformers.load({**config, "continuous": False})
    said = generate_transformers.play(state).outputs["texts"]
    pairs = [
        {"context": text, "prediction": one.strip()}
        for text, one in zip(state["texts"], said, strict=True)
    ]
    return (
        load("abstract")
        .AbstractBonito()
        ._postprocess_dataset(Dataset.from_list(pairs), context_col="context")
    )


def train_trl(config: dict[str, Any]) -> dict[str, Any]:
    """TRL's SFTTrainer at its defaults."""
    from benchmarks.contenders import finetune_trl

    state, counts = _train(finetune_trl.load, finetune_trl.play, {**config, "tuned": False})
    state["trainer"].save_model(config["adapter"])
    return counts


def train_authors(config: dict[str, Any]) -> dict[str, Any]:
    """The authors' recipe."""
    from benchmarks.contenders import finetune_authors

    state, counts = _train(finetune_authors.load, finetune_authors.play, config)
    state["weights"].save_pretrained(config["adapter"])
    return counts


def _train(
    load: Callable[..., Any], play: Callable[..., Any], config: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Train on ``max_steps`` x ``batch_rows`` of the rows that were kept, from the first one again
    where they are fewer.
    """
    settings = config["settings"]
    tokenizer = load_tokenizer(settings["model"])
    prompter = Prompter(tokenizer, prompt_form(tokenizer, settings["prompt"], adapted=True))
    rows = [
        {
            "prompt": prompter.prompt(row["input"], settings["max_prompt_tokens"]),
            "response": prompter.response(row["output"]),
        }
        for row in pq.read_table(config["rows"]).to_pylist()
    ]
    rows = [row for row in rows if len(row["response"]) <= settings["max_response_tokens"]]
    if not rows:
        raise ValueError("no row is left to train on")
    given = list(islice(cycle(rows), settings["max_steps"] * settings["batch_rows"]))
    path = Path(config["work"]) / "rows.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(given), encoding="utf-8")
    state = load({**config, "rows": str(path)})
    done = play(state)
    return state, {"trained": len(given), "tokens": done.units, "loss": done.outputs["loss"]}


def answer(config: dict[str, Any]) -> dict[str, Any]:
    """Answer every item under every template, before adaptation or with ``config["adapter"]``; mean
    SQuAD F1 in points.
    """
    from transformers import GenerationConfig

    from benchmarks.contenders.generate_transformers import padded
    from tasks.scoring.datasets import render
    from tasks.scoring.f1 import squad_f1
    from tasks.scoring.questions import Questions

    params = load_params(Path(config["params"]))
    asked = Questions.read(params.evaluate, Path(params.evaluate.items))
    if asked.dataset.classifies:
        raise ValueError("the chain is written for extraction")
    model, adapter = params.finetune.model, config.get("adapter")
    net = load_model(model).eval()
    if adapter:
        from peft import PeftModel

        net = PeftModel.from_pretrained(net, adapter).merge_and_unload()
    tokenizer = load_tokenizer(model)
    tokenizer.padding_side = "left"
    prompter = Prompter(
        tokenizer, prompt_form(tokenizer, params.finetune.prompt, adapted=bool(adapter))
    )
    pairs = [(template, item) for template in asked.templates for item in asked.items]
    sampling = GenerationConfig(
        do_sample=False,
        max_new_tokens=params.evaluate.max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompts = [prompter.prompt(render(template, item)) for template, item in pairs]
    said = [
        text.strip()
        for text in tokenizer.batch_decode(
            padded(net, tokenizer, prompts, params.evaluate.batch_rows, sampling),
            skip_special_tokens=True,
        )
    ]
    scores = [squad_f1(text, item.golds) for text, (_, item) in zip(said, pairs, strict=True)]
    return {"answers": len(said), "f1": round(100 * sum(scores) / len(scores), 2)}


_STEPS = {"write": write, "train_trl": train_trl, "train_authors": train_authors, "answer": answer}


def main(arguments: list[str]) -> int:
    """Run a step; its counts go to the file that its configuration names."""
    step, path = arguments
    config = json.loads(Path(path).read_text(encoding="utf-8"))
    Path(config["counts"]).write_text(json.dumps(_STEPS[step](config)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
