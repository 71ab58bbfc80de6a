"""The benches of the data's side at their smallest: made rows, generate, validate, memory; and the
clock that takes a stage apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from benchmarks import chain, generate, made, memory, pipeline, validate
from benchmarks.contenders import chain as steps
from benchmarks.harness import PASSED, ROOT, BenchOptions, ContenderResult, environment
from tasks.core.overlay import overlay
from tasks.core.params import load_params
from tasks.core.rows import PREDICTIONS
from tasks.core.yaml_file import read_yaml
from tasks.lm.models import EMBEDDED, base_path
from tasks.lm.prompts import generator_prompt
from tasks.lm.tokenizers import load_tokenizer

pytestmark = pytest.mark.skipif(
    not (ROOT / "data").is_dir(), reason="data/ has not been fetched: make data"
)


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    return BenchOptions(rounds=1, quick=True, threads=1, work=tmp_path, install=False)


def test_made_predictions_are_the_same_every_time_and_one_in_eight_is_broken(
    tmp_path: Path,
) -> None:
    rows = list(made.predictions(560))
    assert rows == list(made.predictions(560)) and rows != list(made.predictions(560, seed=2))
    assert (
        set(rows[0]) == set(PREDICTIONS.names)
        and len({row["row_id"] for row in rows}) == len({row["context"] for row in rows}) == 560
    )
    # Of the seven ways to be broken, four cannot be parsed, each as often as the other.
    assert Counter(row["reason"] for row in rows) == {
        "": 520,
        "no_pipe": 10,
        "many_pipes": 10,
        "empty_response": 10,
        "empty_instruction": 10,
    }
    written = made.write_predictions(tmp_path / "rows.parquet", 20)
    assert written.is_file() and not list(tmp_path.glob("*.partial"))


def test_a_corpus_is_cut_into_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "_ROWS_A_FILE", 4)
    files = sorted(made.write_corpus(tmp_path, 10).iterdir())
    texts = [json.loads(line)["text"] for file in files for line in file.read_text().splitlines()]
    assert len(files) == 3 and texts == [row["text"] for row in made.passages(10)]


def test_validate_makes_the_pairs_of_the_authors_package(options: BenchOptions) -> None:
    found = validate.run(options)
    assert [row.gate for row in found if row.bench == "parse"] == [PASSED, PASSED]
    rows = {row.peer: row for row in found if row.bench == "validate"}
    assert [rows[peer].gate for peer in ("bonito-llm", "bonito-llm without its process pool")] == [
        PASSED,
        PASSED,
    ]
    assert all(rows[peer].ratio for peer in ("bonito-llm", "bonito-llm without its process pool"))
    assert rows["distilabel"].gate.startswith("not run: the peers' packages")


def outcome(folder: Path, name: str, outputs: dict[str, Any]) -> ContenderResult:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(outputs))
    return ContenderResult(name, seconds=[1.0], units=[1], outputs=path)


def test_the_gate_of_validate_sees_another_pair_and_another_choice(tmp_path: Path) -> None:
    ours, same = (
        outcome(tmp_path, name, {"pairs": ["a", "b"], "kept": ["1"]}) for name in ("ours", "same")
    )
    assert validate._gate(ours, outcome(tmp_path, "peer", {"pairs": ["a", "b"]}), same) == PASSED
    assert "1 differ" in validate._gate(
        ours, outcome(tmp_path, "peer", {"pairs": ["a", "c"]}), same
    )
    assert "2 of ours, 3 of theirs" in validate._gate(
        ours, outcome(tmp_path, "peer", {"pairs": ["a", "b", "c"]}), same
    )
    other = outcome(tmp_path, "other", {"pairs": ["a", "b"], "kept": ["2"]})
    assert (
        validate._gate(ours, outcome(tmp_path, "peer", {"pairs": ["a", "b"]}), other)
        == "ours keeps other rows in batches of another size"
    )


@pytest.mark.slow
def test_generate_runs_against_transformers(options: BenchOptions) -> None:
    rows = {row.peer: row for row in generate.run(options)}
    assert rows["transformers"].gate == PASSED and rows["transformers"].ratio
    assert "4 of 4 rows parsed alike" in rows["transformers"].note
    assert rows["bonito-llm"].gate.startswith("not run:")


def test_the_gate_of_generate_sees_other_prompts_and_other_tasks(tmp_path: Path) -> None:
    texts = [f"{{{{context}}}} Why {number}?\n<|pipe|>\nso" for number in range(20)]
    whole = {"prompts": ["p"] * 20, "texts": texts, "finished": [True] * 20}
    ours = outcome(tmp_path, "ours", whole)
    assert generate._gate(ours, outcome(tmp_path, "peer", whole)) == (
        PASSED,
        "20 of 20 rows parsed alike, 20 of ours usable",
    )
    assert (
        generate._gate(ours, outcome(tmp_path, "peer", {**whole, "texts": ["none", *texts[1:]]}))[0]
        == PASSED
    )
    assert generate._gate(
        ours, outcome(tmp_path, "peer", {**whole, "texts": ["none", "none", *texts[2:]]})
    )[0].startswith("only 18 of 20")
    assert (
        generate._gate(ours, outcome(tmp_path, "peer", {**whole, "prompts": ["q"] * 20}))[0]
        == "the prompts are not the same"
    )


def test_rounded_weights_may_lose_one_usable_row_in_fifty(tmp_path: Path) -> None:
    texts = [f"{{{{context}}}} Why {number}?\n<|pipe|>\nso" for number in range(100)]
    whole = {"prompts": ["p"] * 100, "texts": texts, "finished": [True] * 100}
    ours = outcome(tmp_path, "ours", whole)
    other = outcome(
        tmp_path,
        "rounded",
        {**whole, "texts": ["none", "none", *(text.replace("Why", "How") for text in texts[2:])]},
    )
    assert generate.quality_gate(ours, other) == (
        PASSED,
        "98 rows usable, 100 with bfloat16 weights",
    )
    other = outcome(tmp_path, "rounded", {**whole, "texts": ["none", "none", "none", *texts[3:]]})
    assert generate.quality_gate(ours, other)[0] == "only 97 rows usable, 100 with bfloat16 weights"


def test_the_peers_tokenizer_puts_bos_where_we_put_it(tmp_path: Path, tiny_model: Path) -> None:
    for number, weights in enumerate((tiny_model, Path(base_path(EMBEDDED)))):
        ours = load_tokenizer(str(weights))
        theirs = load_tokenizer(str(generate.with_bos(weights, tmp_path / str(number))))
        prompt = generator_prompt(ours, "The pump failed.", "exqa")
        assert (
            theirs(ours.decode(prompt[1:]))["input_ids"] == prompt
            and prompt[0] == ours.bos_token_id
        )


@pytest.mark.slow
def test_memory_measures_every_stage(options: BenchOptions) -> None:
    rows = memory.run(options)
    assert [(row.peer, row.gate, row.better) for row in rows] == [
        (stage, PASSED, "less") for stage in memory.TARGETS
    ]
    assert all(
        list(row.extra["peaks_mib"]) == ["300"]
        and row.ours == row.theirs
        and row.ours is not None
        and row.ours > 100
        for row in rows
    )


def test_memory_gives_up_a_stage_that_does_not_end(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its processes are gone, and what was measured before stays in the row."""
    measure = memory._measure

    def one_then_none(stage: str, rows: int, given: BenchOptions) -> memory._Measured:
        if rows == 10:
            return memory._Measured(10, 1.0, 300.0)
        monkeypatch.setattr(memory, "_MOST_SECONDS", 0.5)
        return measure(stage, rows, given)

    monkeypatch.setattr(memory, "_measure", one_then_none)
    before = psutil.Process().children(recursive=True)  # of the tests before this one
    row = memory._measure_stage("validate", (10, 20), options)
    assert row.gate == "failed: 20 rows: no end within 0 s" and row.ratio is None
    assert row.extra["peaks_mib"] == {"10": 300.0}
    assert not set(psutil.Process().children(recursive=True)) - set(before)


def test_memory_tells_of_a_stage_that_was_killed_without_a_word(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(command: list[str], folder: Path, *_: Any) -> dict[str, Any]:
        (folder / "log").touch()
        return {"status": -9}

    monkeypatch.setattr(memory, "_run", killed)
    row = memory._measure_stage("validate", (20,), options)
    assert row.gate == "failed: 20 rows: status -9: it said nothing"


def test_memory_compares_the_largest_peak_with_the_smallest() -> None:
    measured = [
        memory._Measured(rows, 1.0, peak)
        for rows, peak in ((10, 100.0), (100, 120.0), (1000, 110.0))
    ]
    row = memory._row("ingest", measured)
    assert (row.ratio, row.ours, row.theirs, row.met) == (1.2, 120, 100, False)
    with pytest.raises(RuntimeError, match="given 100 rows, saw 99"):
        memory._check("ingest", 100, {"rows_in": 99, "rows_kept": 99})


def test_the_peak_is_of_the_command_and_not_of_who_started_it() -> None:
    def peak(megabytes: int) -> float:
        command = [
            sys.executable,
            "-c",
            f"held = bytearray({megabytes} << 20); held[::4096] = b'x' * len(held[::4096])",
        ]
        held = bytearray(200 << 20)
        held[::4096] = b"x" * len(held[::4096])
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.contenders.measured", *command],
            capture_output=True,
            text=True,
            env=environment(1),
            check=True,
        )
        told = json.loads(done.stdout)
        assert told["status"] == 0
        return float(told["peak_bytes"]) / 2**20

    small, large = peak(1), peak(80)
    assert small < 60 and 70 < large - small < 90


def test_a_stage_is_taken_apart_and_its_seconds_add_up(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/__init__.py").touch()
    (tmp_path / "stage/__main__.py").write_text(
        "import time\n\ndef main(rest):\n    import slow_library\n    from "
        "tasks.lm.tokenizers import load_tokenizer\n"
        f"    load_tokenizer({EMBEDDED!r})\n    time.sleep(float(rest[0]))\n    return 3\n"
    )
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(0.3)\n")
    command = [
        sys.executable,
        "-m",
        "benchmarks.contenders.timed_stage",
        str(tmp_path / "times.json"),
        "stage",
        "0.5",
    ]
    done = subprocess.run(
        command, env={**environment(1), "PYTHONPATH": f"{ROOT}:{tmp_path}"}, check=False
    )
    told = json.loads((tmp_path / "times.json").read_text())
    assert done.returncode == 3 and told["loads"] == 1
    assert (
        told["seconds"]["import"] > 0.3
        and told["seconds"]["load"] > 0
        and told["seconds"]["work"] == pytest.approx(0.5, abs=0.2)
    )


def test_the_table_of_seconds_adds_up() -> None:
    stages = {
        name: {"start": 0.5, "import": 1.0, "load": 2.0, "work": 3.0, "wall": 6.5, "loads": 1}
        for name in ("ingest", "generate")
    }
    last = pipeline.table([stages]).splitlines()[3].split()
    assert last == ["all", "1.0", "2.0", "4.0", "6.0", "13.0", "2"]


def chained(seconds: float, **counts: int) -> chain.Round:
    told = {"passages": 3, "kept": 2, "trained": 16, "tokens": 99, "answers": 2, **counts}
    names = [step for name in chain.CHAINS for step in chain.steps_of(name)]
    return chain.Round(dict.fromkeys(names, seconds), {name: told for name in names})


def test_the_pipeline_is_compared_round_by_round_with_the_same_work() -> None:
    kinds = {"start": 0.0, "import": 0.0, "load": 0.0, "work": 2.0, "wall": 2.0, "loads": 0}
    ours = [
        {name: {**kinds, "wall": wall} for name in ("ingest", "validate", *pipeline.SHARED)}
        for wall in (2.0, 20.0)
    ]
    counts = [
        {
            "passages": 3,
            "kept": 3,
            "trained": 16,
            "tokens": 98,
            "base answers": 2,
            "adapted answers": 2,
        }
    ] * 2
    name = next(iter(chain.CHAINS))
    row = pipeline.compared(name, ours, counts, [chained(9.0), chained(60.0)])
    assert (row.gate, row.ratio, row.low, row.high, row.rounds, row.met) == (
        PASSED,
        2.5,
        2.0,
        3.0,
        2,
        True,
    )
    assert (
        row.extra["shared_ratio"] == 3.75 and "3.75 times" in row.note
    )  # 36 s against 8 s, 240 s against 80 s
    for other, told in (
        ({"trained": 8}, "trained: 16 of ours, 8 of theirs"),
        ({"passages": 2}, "passages: 3"),
        ({"answers": 1}, "base answers: 2"),
    ):
        row = pipeline.compared(name, ours, counts, [chained(9.0), chained(60.0, **other)])
        assert row.ratio is None and row.gate.startswith(f"failed: {told}")
    broken = chained(9.0)
    broken.failures["write"] = "write: no engine"
    row = pipeline.compared(name, ours, counts, [broken, chained(60.0)])
    assert row.ratio is None and row.gate == "not run: write: no engine"


def test_the_peers_steps_run_on_what_ours_has_written(tiny_model: Path, tmp_path: Path) -> None:
    """The steps that need no engine and no package of the peers', in this process: the processes of
    a whole chain take minutes.
    """
    params = {
        "finetune": {
            "model": str(tiny_model),
            "max_steps": 2,
            "batch_rows": 2,
            "micro_batch_rows": 2,
        },
        "evaluate": {"max_items": 2, "templates": 1},
    }
    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(overlay(read_yaml(ROOT / "params.yaml"), params))
    )
    rows = [
        {"input": f"Pump {number} failed.\n\nWhy did it fail?", "output": f"seal {number}"}
        for number in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    settings = load_params(tmp_path / "params.yaml").finetune.model_dump(mode="json")
    step = {
        "settings": settings,
        "rows": str(tmp_path / "rows.parquet"),
        "adapter": str(tmp_path / "adapter"),
        "work": str(tmp_path / "work"),
    }
    assert run_step(tmp_path, "train_authors", step)["trained"] == 4
    given = json.loads((tmp_path / "work" / "rows.json").read_text())
    assert given[3] == given[0] and given[1] != given[0]
    question = {"params": str(tmp_path / "params.yaml")}
    assert (
        run_step(tmp_path, "answer", question)["answers"]
        == run_step(tmp_path, "answer", {**question, "adapter": step["adapter"]})["answers"]
        == 2
    )


def run_step(folder: Path, name: str, config: dict[str, Any]) -> Any:
    (folder / "config.json").write_text(
        json.dumps({**config, "counts": str(folder / "counts.json")})
    )
    assert steps.main([name, str(folder / "config.json")]) == 0
    return json.loads((folder / "counts.json").read_text())


def test_a_step_behind_a_failed_one_is_not_run(
    options: BenchOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = {
        name: (name, needs, {})
        for name, needs in (
            ("write", ()),
            ("train_authors", ("write",)),
            ("answer_train_authors", ("train_authors",)),
        )
    }
    monkeypatch.setattr(chain, "_configs", lambda *_: configs)
    found = chain.play(
        tmp_path / "theirs", tmp_path, load_params(ROOT / "params.yaml"), tmp_path, options, {}
    )
    assert found.seconds == {} and set(found.failures) == set(configs)
    assert len(set(found.failures.values())) == 1 and found.failures["write"].startswith(
        "write: KeyError"
    )
