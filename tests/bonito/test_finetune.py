"""The generator's training rows: mixture, balance, lengths, and the same prompt bytes as generate
sends.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from bonito.finetune.stage import build_examples, draw_mixture, main
from bonito.params import GeneratorFinetune, GeneratorParams
from bonito.settings import merge_settings
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, row_seed, sha256_folder
from tasks.core.overlay import overlay
from tasks.core.params import parse_params
from tasks.core.parquet import Batches, write_table
from tasks.core.yaml_file import read_yaml
from tasks.lm.prompts import generator_prompt
from tasks.lm.tokenizers import load_tokenizer
from tests.conftest import ROOT


def _settings(**changes: Any) -> GeneratorFinetune:
    values = overlay(
        read_yaml(ROOT / "bonito/params.yaml"), read_yaml(ROOT / "bonito/profiles/embedded.yaml")
    )
    params: GeneratorParams = parse_params(
        overlay(values, {"finetune": {**changes}}), "bonito", GeneratorParams
    )
    assert params.finetune is not None
    return params.finetune.model_copy(update=changes)


def _rows(count: int) -> pa.Table:
    rows = [
        {
            "row_id": str(n),
            "dataset": "ropes" if n % 3 else "squad",
            "template": "why",
            "task_type": "exqa" if n % 2 else "ynqa",
            "context": "A passage. " * (1 + n % 4),
            "instruction": "{{context}} Why?",
            "response": "Yes" if n % 5 else "No",
        }
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows)


def test_every_row_is_drawn_or_counted() -> None:
    chosen, dropped = draw_mixture(
        [_rows(50), _rows(120).slice(50)],
        _settings(
            mixture={"exqa/squad": 5, "exqa": 10, "ynqa": 8}, balance=("ynqa",), max_context_chars=0
        ),
    )
    assert len(chosen) == 23 and dropped["not_in_mixture"] == 97
    assert sum(row["dataset"] == "squad" and row["task_type"] == "exqa" for row in chosen) == 5
    assert (
        sorted(row["response"] for row in chosen if row["task_type"] == "ynqa")
        == ["No"] * 4 + ["Yes"] * 4
    )


def test_rows_with_long_passages_have_their_own_reason() -> None:
    chosen, dropped = draw_mixture(
        [_rows(80)], _settings(mixture={"exqa": 10}, balance=(), max_context_chars=40)
    )
    assert len(chosen) == 10 and dropped == {"context_too_long": 20, "not_in_mixture": 50}


def test_balance_is_over_templates_and_their_responses() -> None:
    """A hundred true or false from two templates and forty yes or no from eight: each wording is
    drawn as often as any other.
    """
    answers = [("true_or_false", n, ("True", "False")[n % 2]) for n in range(100)] + [
        (f"yes_or_no_{n % 4}", n, "Yes" if n % 3 else "No") for n in range(80)
    ]
    rows = [
        {
            "row_id": f"{name}-{n}",
            "dataset": "boolq",
            "template": name,
            "task_type": "ynqa",
            "context": "A.",
            "instruction": "{{context}}",
            "response": said,
        }
        for name, n, said in answers
    ]
    chosen, _ = draw_mixture(
        [pa.Table.from_pylist(rows)],
        _settings(mixture={"ynqa": 40}, balance=("ynqa",), max_context_chars=0),
    )
    assert Counter((row["template"], row["response"]) for row in chosen) == Counter(
        {(name, said): 4 for name, _, said in answers}
    )


def test_the_draw_does_not_depend_on_the_order_of_the_rows() -> None:
    settings, rows = _settings(mixture={"exqa": 10}, max_context_chars=0), _rows(60)
    assert draw_mixture([rows], settings) == draw_mixture(
        [rows.take(list(reversed(range(60))))], settings
    )


def _draw_in_memory(table: pa.Table, params: GeneratorFinetune) -> list[dict[str, Any]]:
    """Draw as :func:`draw_mixture` says it, from a list of all rows."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(table.to_pylist(), key=lambda row: row_seed(params.seed, row["row_id"])):
        if not params.max_context_chars or len(row["context"]) <= params.max_context_chars:
            specific = f"{row['task_type']}/{row['dataset']}"
            groups[specific if specific in params.mixture else row["task_type"]].append(row)
    chosen = [row for rows in groups.values() for row in rows]
    if params.mixture:
        chosen = []
        for name, most in params.mixture.items():
            rows = groups[name]
            if name.split("/")[0] in params.balance:
                turns = Counter[tuple[str, str]]()
                order = []
                for place, row in enumerate(rows):
                    answer = (row["template"], row["response"].strip(" .").lower())
                    order.append((turns[answer], place))
                    turns[answer] += 1
                rows = [rows[place] for _, place in sorted(order)]
            chosen += rows[:most]
    return sorted(chosen, key=lambda row: row_seed(params.seed, "order", row["row_id"]))


@pytest.mark.parametrize("longest", [0, 40])
@pytest.mark.parametrize("balance", [(), ("ynqa",)])
@pytest.mark.parametrize("mixture", [{}, {"exqa/squad": 30, "exqa": 80, "ynqa": 90}])
def test_the_draw_is_that_from_a_list_of_all_rows(
    mixture: dict[str, int], balance: tuple[str, ...], longest: int
) -> None:
    settings = _settings(mixture=mixture, balance=balance, max_context_chars=longest)
    rows = _rows(600)
    drawn, _ = draw_mixture(rows.to_batches(100), settings)
    assert drawn == _draw_in_memory(rows, settings)


def test_of_many_rows_those_that_are_drawn_are_held(tmp_path: Path, bounded_arrow: Any) -> None:
    """A row is 2 kB: all of them as Python objects were 50 MB."""
    rows = _rows(20_000)
    long = pa.array(["A passage. " * 180] * 20_000)
    path = tmp_path / "rows.parquet"
    write_table(path, rows.set_column(rows.schema.get_field_index("context"), "context", long))
    batches = Batches(path, rows.schema)
    del rows, long
    settings = _settings(mixture={"exqa": 500, "ynqa": 500}, max_context_chars=0)
    with bounded_arrow(30e6):
        tracemalloc.start()
        drawn, _ = draw_mixture(batches, settings)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(drawn) == 1000 and peak < 20e6


def test_a_mixture_of_what_is_not_there_is_named() -> None:
    with pytest.raises(PipelineError, match="asks for 'wsd'"):
        draw_mixture([_rows(20)], _settings(mixture={"wsd": 3}))


def test_long_rows_are_left_out_not_cut(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    rows = _rows(8).to_pylist()
    prompt = generator_prompt(tokenizer, rows[0]["context"], rows[0]["task_type"])
    built = build_examples(rows, tokenizer, len(prompt), 4096)
    kept = built.examples
    assert len(kept) + built.dropped["input_too_long"] == 8 and 0 < len(kept) < 8
    assert [rows[place]["context"] for place in built.places] == [rows[0]["context"]] * len(kept)
    assert kept[0].prompt == prompt and kept[0].response[-1] == tokenizer.eos_token_id


def test_a_mixture_names_known_task_types() -> None:
    with pytest.raises(PipelineError, match="unknown task type 'exq'"):
        _settings(mixture={"exq/squad": 3})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"balance": ["sentimant"]}, "unknown task type 'sentimant' .*did you mean 'sentiment'"),
        (
            {"mixture": {"wsd": 3, "word sense disambiguation": 5}},
            "names a type twice: wsd",
        ),
    ],
)
def test_a_name_that_would_change_nothing_is_refused(changes: dict[str, Any], said: str) -> None:
    """A misspelt type to balance was taken for one without rows, the first of two numbers lost."""
    with pytest.raises(PipelineError, match=said):
        _settings(**changes)


def test_a_type_to_balance_may_have_its_full_name() -> None:
    settings = overlay(
        read_yaml(ROOT / "bonito/params.yaml"),
        {"finetune": {"balance": ["natural language inference"]}},
    )
    params: GeneratorParams = parse_params(settings, "bonito", GeneratorParams)
    assert params.finetune is not None and params.finetune.balance == ("nli",)


def test_a_generator_goes_on_from_another(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As one extends a trained generator by rows of one's own; it says from which weights it went
    on.
    """
    monkeypatch.chdir(tmp_path)
    pq.write_table(_rows(24), tmp_path / "rows.parquet")

    def trained(name: str, *more: str) -> int:
        settings = [
            f"finetune.model={tiny_model}",
            "finetune.mixture={}",
            "finetune.balance=[]",
            "finetune.precision=float32",
            "finetune.learning_rate=0.02",
            "finetune.batch_rows=4",
            "finetune.micro_batch_rows=4",
            "finetune.max_prompt_tokens=800",
            *more,
        ]
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(merge_settings("embedded", settings)))
        return main(["--params", f"{name}.yaml", "--rows", "rows.parquet", "--out", f"out/{name}"])

    assert trained("first") == 0
    checkpoints = tmp_path / ".work/bonito/finetune/checkpoints"
    (first_checkpoints,) = checkpoints.iterdir()
    small = "finetune.checkpoints_gb=0.00001"  # 10 kB
    assert trained("second", "finetune.start=out/first", small) == 0
    assert first_checkpoints.name and not list(checkpoints.iterdir()), "both have ended"
    losses = {
        name: [
            float(line.split(",")[1])
            for line in (tmp_path / f"out/{name}/loss.csv").read_text().split()[1:]
        ]
        for name in ("first", "second")
    }
    assert (
        losses["first"][-1] < losses["first"][0] - 0.1
        and losses["second"][0] < losses["first"][0] - 0.1
    ), "it did not go on from where the first ended"
    first, second = (
        read_json(tmp_path / f"out/{name}/provenance.json") for name in ("first", "second")
    )
    assert (first["start"], first["start_provenance"]) == ("", {})
    assert (
        second["start"] == sha256_folder(tmp_path / "out/first")
        and second["start_provenance"] == first
    )
    capsys.readouterr()
    assert trained("third", "finetune.start=out/first", "finetune.lora_rank=8") != 0
    assert (
        "out/first was trained with lora_rank 16, but finetune.lora_rank is 8"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out/third").exists()


def test_the_provenance_counts_the_rows_that_were_trained_on(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those that were drawn: a step of four of 24 rows was told as the training on 24."""
    monkeypatch.chdir(tmp_path)
    pq.write_table(_rows(24), tmp_path / "rows.parquet")
    settings = [f"finetune.model={tiny_model}", "finetune.mixture={}", "finetune.balance=[]"]
    settings += ["finetune.batch_rows=4", "finetune.micro_batch_rows=4", "finetune.max_steps=1"]
    settings += ["finetune.precision=float32", "finetune.max_prompt_tokens=800"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge_settings("embedded", settings)))
    assert main(["--params", "params.yaml", "--rows", "rows.parquet", "--out", "out"]) == 0
    told = read_json(tmp_path / "out/provenance.json")
    assert told["rows"] == 4 == sum(told["rows_by_type_and_dataset"].values())


def test_rows_of_which_none_can_be_trained_on_are_told_with_their_reasons(
    tmp_path: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(_rows(4), tmp_path / "rows.parquet")
    settings = [f"finetune.model={tiny_model}", "finetune.mixture={}", "finetune.balance=[]"]
    settings += ["finetune.max_prompt_tokens=3"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(merge_settings("embedded", settings)))
    assert main(["--params", "params.yaml", "--rows", "rows.parquet", "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert "no row of rows.parquet can be trained on (4 input_too_long): raise" in told
