"""The evaluation of the generator: every measure moves for the better and for the worse, and the
whole of it runs on a tiny model.
"""

from __future__ import annotations

import re
import shutil
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

from bonito.evaluate import compare
from bonito.evaluate import stage as evaluate
from bonito.evaluate.adherence import adheres
from bonito.evaluate.judging import measure_response_losses, read_choices
from bonito.evaluate.measures import (
    Written,
    check_forms,
    check_tasks,
    make_suites,
    measure_balance,
    measure_diversity,
    measure_tasks,
)
from bonito.evaluate.results import SCORED
from bonito.params import GeneratorEvaluate
from bonito.remix.output import REMIXED
from tasks.core.files import read_json, row_seed, write_json
from tasks.core.parquet import Batches, TableWriter, read_table, write_table
from tasks.core.task_types import TASK_TYPES
from tasks.lm.engine import Completion, Sampling
from tasks.lm.loading import load_model
from tasks.lm.prompts import bonito_output
from tasks.lm.response_trainer import response_loss
from tests.conftest import Code

PASSAGE = (
    "The lighthouse at Corran Point was built in 1874 from local granite. Its lamp burned "
    "colza oil until 1931."
)
#: One human-made task a type.
TASKS: dict[str, tuple[str, str]] = {
    "exqa": ("{{context}}\n\nQ: What did the lamp burn until 1931?\n\nA:", "colza oil"),
    "mcqa": (
        "{{context}}\nWhat was it built from?\nOptions:\n- wood\n- granite\n- steel",
        "granite",
    ),
    "qg": ("{{context}}\n\nGenerate a question from the above passage:", "What did the lamp burn?"),
    "qa": (
        (
            "Read the following context and answer the question.\nContext: {{context}}\nQuestion: "
            "Why was it built?\nAnswer:"
        ),
        "To warn ships of the rocks",
    ),
    "ynqa": (
        "{{context}}\nBased on the previous passage, was the lighthouse built from granite?",
        "Yes",
    ),
    "coref": ('{{context}} Here, does "its" stand for the lighthouse? Yes or no?', "Yes"),
    "paraphrase": (
        "Paraphrase the following sentence: {{context}}",
        "In 1874 the lighthouse at Corran Point was made of granite from nearby.",
    ),
    "paraphrase_id": (
        (
            "Sentence 1: {{context}}\nSentence 2: It was built of wood.\nQuestion: Does Sentence "
            "1 paraphrase Sentence 2? Yes or No?"
        ),
        "No",
    ),
    "sent_comp": (
        "{{context}} so...\nChoose between:\n- It was dark.\n- It needed no oil.",
        "It needed no oil.",
    ),
    "sentiment": ("{{context}} Did the reviewer find this movie good or bad?", "good"),
    "summarization": ("Summarize: {{context}}", "An old lighthouse burned oil until 1931."),
    "text_gen": ("Write an article with the given title: Corran Point", "{{context}}"),
    "topic_class": (
        (
            "{{context}}\nIs this a piece of news regarding world politics, sports, business, or "
            "science and technology?"
        ),
        "Science and technology",
    ),
    "wsd": (
        (
            "{{context}}\nThe lamp is lit.\nDetermine if the word 'lamp' is used in the same way "
            "in the two sentences below."
        ),
        "Yes",
    ),
    "te": ('{{context}} Can we infer that "The lighthouse is old."? Yes or no?', "Yes"),
    "nli": (
        (
            '{{context}} Based on that information, is the claim: "The lamp was electric" true, '
            "false, or inconclusive?"
        ),
        "False",
    ),
}


def human(kind: str, number: int = 0, passage: str = PASSAGE) -> Written:
    return Written(f"{kind}-{number}", kind, passage, *TASKS[kind])


def fits(kind: str, instruction: str, response: str) -> bool:
    return adheres(kind, [PASSAGE], [instruction], [response])[0]


@pytest.mark.parametrize("kind", TASK_TYPES)
def test_a_task_has_the_form_of_its_type_and_of_few_others(kind: str) -> None:
    assert fits(kind, *TASKS[kind])
    assert sum(fits(other, *TASKS[kind]) for other in TASK_TYPES) <= 3
    wrong = {"exqa": "Yes", "qg": "granite", "summarization": "Yes"}.get(kind, "What is it?")
    assert not fits(kind, TASKS[kind][0], wrong)


def test_every_form_can_fail_on_wording_alone() -> None:
    """The same response under an instruction that asks for nothing of the kind."""
    for kind, (_, response) in TASKS.items():
        assert not fits(kind, "{{context}} Lorem ipsum dolor sit amet.", response), kind


def test_the_check_of_forms_reports_on_itself() -> None:
    found = check_forms([human(kind) for kind in TASK_TYPES])
    assert set(found) == set(TASK_TYPES)
    assert all(own["own"] == 1.0 for own in found.values())
    assert found["nli"]["worst_type"] == "te"
    relabelled = check_forms([Written("a", "wsd", PASSAGE, *TASKS["exqa"]), human("exqa")])
    assert relabelled["wsd"]["own"] == 0.0


def test_scores_of_good_and_bad_tasks(tmp_path: Path) -> None:
    expected = make_suites(4000, 600, tmp_path)
    good = [human("exqa"), human("ynqa")]
    found = measure_tasks(good, check_tasks(good, expected))
    assert (
        found["parse_yield"],
        found["adherence"],
        found["valid"],
        found["answer_in_passage"],
    ) == (1.0, 1.0, 1.0, 1.0)
    bad = [
        Written("a", "exqa", PASSAGE, reason="no_pipe"),
        Written("b", "exqa", PASSAGE, TASKS["exqa"][0], "tallow"),
        Written("c", "ynqa", PASSAGE, TASKS["exqa"][0], "Yes"),
        human("exqa", 1),
        human("exqa", 2),
    ]
    found = measure_tasks(bad, check_tasks(bad, expected))
    assert (found["rows"], found["parsed"], found["parse_yield"], found["unparsed"]) == (
        5,
        4,
        0.8,
        {"no_pipe": 1},
    )
    assert found["adherence"] == pytest.approx(2 / 5)
    assert found["valid"] == pytest.approx(1 / 5)  # the last one is a copy
    assert found["answer_in_passage"] == pytest.approx(2 / 3)
    assert (
        found["failed"]["answer_in_passage"] == 1
        and found["failed"]["question_closed"] == 1
        and found["failed"]["unique"] == 1
    )
    nothing = [Written("a", "exqa", PASSAGE, reason="no_pipe")]
    assert measure_tasks(nothing, check_tasks(nothing, expected))["answer_in_passage"] is None


def test_label_balance_is_within_a_family() -> None:
    even = measure_balance(
        [("yes/no", "yes"), ("yes/no", "no"), ("true/false", "true"), ("true/false", "false")]
    )
    assert (even["largest_label_share"], even["label_entropy"]) == (0.5, pytest.approx(1.0))
    # As many yes as false: balanced over all labels, and within each family always the same answer.
    skewed = measure_balance(
        [("yes/no", "yes"), ("yes/no", "yes"), ("true/false", "false"), ("true/false", "false")]
    )
    assert (skewed["largest_label_share"], skewed["label_entropy"]) == (1.0, 0.0)
    assert skewed["labels"] == {"true/false": {"false": 2}, "yes/no": {"yes": 2}}
    assert measure_balance([])["label_entropy"] is None


def test_diversity_counts_grams_and_near_duplicates_without_the_passage() -> None:
    tasks = [
        Written(
            str(n), "exqa", f"p{n}", f"{{{{context}}}} What did the lamp burn until {year}?", "oil"
        )
        for n, year in enumerate(("1931", "1931", "1932"))
    ]
    found = measure_diversity(tasks)
    assert found["distinct_1"] == pytest.approx(8 / 21)
    assert found["near_duplicates"] == pytest.approx(1 / 3)
    assert measure_diversity([human("exqa"), human("ynqa")])["near_duplicates"] == 0.0


@pytest.mark.parametrize(
    ("kind", "instruction", "response", "offered"),
    [
        (
            "nli",
            "{{context}} Is it true? Always, sometimes, or never?",
            "Never",
            ["Always", "never", "sometimes"],
        ),
        ("mcqa", "{{context}} Why?\nA. oil ran out\nB. power came", "B", ["A", "B"]),
        (
            "mcqa",
            "{{context}} Why?\nOptions:\n- Oil ran out\n- power came",
            "power came",
            ["Oil ran out", "power came"],
        ),
        ("paraphrase_id", "{{context}} Do they mean the same?", "yes", ["no", "yes"]),
        ("ynqa", "{{context}} Was it so?", "granite", []),
        ("exqa", "{{context}} Yes or no?", "Yes", []),
    ],
)
def test_choices_are_those_of_the_instruction(
    kind: str, instruction: str, response: str, offered: list[str]
) -> None:
    assert read_choices(Written("a", kind, PASSAGE, instruction, response)) == offered


def test_losses_by_row_sum_to_the_training_loss(tiny_model: Path) -> None:
    model = load_model(str(tiny_model), precision="float32").eval()
    examples = [([3, 4, 5, 6], [7, 8, 1]), ([9, 3], [4, 1]), ([5] * 20, [6, 7, 8, 9, 1])]
    own = measure_response_losses(model, examples, 1)
    for (prompt, output), loss in zip(examples, own, strict=True):
        ids, labels = [*prompt, *output], [-100] * len(prompt) + output
        with torch.no_grad():
            alone = response_loss(
                model, {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}, 1
            )
        assert loss == pytest.approx(float(alone), rel=1e-5)


def held_out(path: Path, types: Sequence[str] = tuple(TASKS), passages: int = 3) -> Path:
    rows = [
        {
            "row_id": f"{kind}-{n}",
            "dataset": "toy",
            "config": "",
            "template": "t",
            "task_type": kind,
            "context": f"{PASSAGE} Ship {n}.",
        }
        | dict(zip(("instruction", "response"), TASKS[kind], strict=True))
        for kind in types
        for n in range(passages)
    ]
    write_table(path, pa.Table.from_pylist(rows, REMIXED))
    return path


@pytest.fixture
def home(workplace: Path, tiny_model: Path) -> Path:
    settings = {
        "judge": str(tiny_model),
        "engine": "transformers",
        "precision": "float32",
        "rows_per_type": 2,
        "max_tokens": 20,
        "judge_tokens": 4,
    }
    remix = {"datasets": ["a"], "task_types": ["b"], "seed": 1}
    Path("bonito.yaml").write_text(yaml.safe_dump({"remix": remix, "evaluate": settings}))
    held_out(workplace / "heldout.parquet")
    return workplace


def run(generator: Path, out: str = "out") -> int:
    return evaluate.main(
        [
            "--params",
            "bonito.yaml",
            "--rows",
            "heldout.parquet",
            "--generator",
            str(generator),
            "--out",
            out,
        ]
    )


class Scripted:
    """Writes the human-made task of the type it is asked for, as the prompt names it; for every
    third row something unusable.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.calls = tokenizer, 0

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        self.calls += 1
        texts = [self.tokenizer.decode(prompt) for prompt in prompts]
        return [self._write(text, number) for number, text in enumerate(texts)]

    def _write(self, text: str, number: int) -> Completion:
        full = re.search(r"<\|tasktype\|>\n(.*)\n<\|context\|>", text)
        if full is None:  # the judge's question
            return Completion("colza oil", 2, True)
        if number % 3 == 2:
            return Completion("no mark", 2, True)
        kind = next(short for short, kind in TASK_TYPES.items() if kind.full_name == full[1])
        return Completion(bonito_output(*TASKS[kind]), 9, True)


def test_the_whole_evaluation(
    home: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    edited_code: Code,
) -> None:
    from tasks.lm.tokenizers import load_tokenizer

    engine = Scripted(load_tokenizer(str(tiny_model)))
    monkeypatch.setattr("bonito.evaluate.judging.open_engine", lambda *_: engine)
    assert run(tiny_model) == 0, capsys.readouterr().err
    facts, table, summary = (
        read_json(Path("out/scores.json")),
        read_table(Path("out/predictions.parquet")),
        read_json(Path("out/summary.json")),
    )
    assert (
        set(facts["generated"]) == {"overall", *TASK_TYPES}
        and facts["generated"]["exqa"]["rows"] == 2
    )
    overall = facts["generated"]["overall"]
    assert (
        overall["rows"] == len(table) == summary["rows_in"] == 32
        and summary["dropped"] == {"no_pipe": 10}
        and summary["rows_kept"] == 22
    )
    assert overall["parse_yield"] == overall["adherence"] == pytest.approx(22 / 32, abs=1e-5)
    assert table.column("prediction").to_pylist().count("no mark") == 10
    assert overall["answer_in_passage"] == 1.0 and overall["answer_f1"] == 1.0
    assert (
        facts["human"]["overall"]["adherence"] == 1.0
        and facts["human"]["overall"]["answer_f1"] == 1.0
    )
    assert (
        overall["judged"] > 0
        and 0 <= overall["judge_agreement"] <= 1
        and 0.1 < overall["judge_chance"] <= 0.5
    )
    tokens, losses = (
        sum(table.column("loss_tokens").to_pylist()),
        sum(table.column("loss").to_pylist()),
    )
    assert overall["held_out_loss"] == pytest.approx(losses / tokens, abs=1e-4)
    assert 4 < overall["held_out_loss"] < 8  # a random model over some 400 tokens: about ln 400
    _logged(overall, tiny_model)
    assert "| exqa | 2 |" in Path("out/scores.md").read_text()
    asked = engine.calls
    assert run(tiny_model, "again") == 0
    assert engine.calls == asked, "what a run has finished is not done again"
    for name in ("scores.json", "scores.md", "predictions.parquet"):
        assert Path("again", name).read_bytes() == Path("out", name).read_bytes()
    edited_code.edit("bonito.evaluate.scores_table", "from __future__", "# Why.\nfrom __future__")
    assert run(tiny_model, "again") == 0 and engine.calls == asked
    edited_code.edit("tasks.lm.engine", "import torch\n", "import torch\n\nX = 1\n")
    assert run(tiny_model, "again") == 0 and engine.calls == 2 * asked


def _logged(overall: dict[str, Any], generator: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{Path('mlflow.db').absolute()}")
    (experiment,) = client.search_experiments(filter_string="name = 'bonito-generator'")
    (logged,) = client.search_runs([experiment.experiment_id])
    assert logged.info.status == "FINISHED" and logged.data.tags["generator"] == str(generator)
    assert logged.data.metrics["parse_yield"] == pytest.approx(overall["parse_yield"], abs=1e-4)
    assert {path.path for path in client.list_artifacts(logged.info.run_id)} >= {
        "scores.json",
        "scores.md",
    }


def test_a_random_model_scores_nothing_and_two_runs_compare(
    home: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real engine on real weights that know nothing: the measures must say so."""
    Path("bonito.yaml").write_text(
        Path("bonito.yaml").read_text().replace(f"judge: {tiny_model}", "judge: ''")
    )
    held_out(home / "heldout.parquet", ("exqa", "ynqa"))
    assert run(tiny_model) == 0
    facts = read_json(Path("out/scores.json"))
    assert (
        facts["generated"]["overall"]["parse_yield"] == 0.0
        and facts["generated"]["overall"]["judge_agreement"] is None
    )
    assert set(facts["generated"]["overall"]["unparsed"]) <= {"truncated", "no_pipe"}
    capsys.readouterr()
    assert compare.main(["out/scores.json", "out/scores.json", "--out", "both.md"]) == 0
    printed = capsys.readouterr().out
    assert printed == Path("both.md").read_text()
    assert "| parsed (points) | +0.0 | +0.0 to +0.0 |" in printed
    assert "| held-out loss (nats a token) | +0.000 | +0.000 to +0.000 |" in printed


def _scores(folder: Path, generator: str, unparsed: int, key: str = "k") -> Path:
    """Write an evaluation of 60 passages, the first ``unparsed`` of which gave nothing that can be
    parsed.
    """
    rows = [
        {
            "row_id": str(n),
            "context": f"passage {n}",
            "reason": "no_pipe" if n < unparsed else "",
            "adheres": n >= unparsed,
            "failed": [],
            "loss": 6.0,
            "loss_tokens": 3,
        }
        for n in range(60)
    ]
    write_table(folder / "predictions.parquet", pa.Table.from_pylist(rows, SCORED))
    group = {"rows": 60, "parse_yield": 1 - unparsed / 60, "held_out_loss": 2.0}
    write_json(
        folder / "scores.json",
        {"generator": generator, "rows_key": key, "generated": {"overall": group, "exqa": group}},
    )
    return folder / "scores.json"


def test_a_difference_has_an_interval(tmp_path: Path) -> None:
    bad, good = _scores(tmp_path / "bad", "old", 24), _scores(tmp_path / "good", "new", 6)
    text = compare.compare([bad, good])
    assert "| parsed | 60.0% | 90.0% |" in text and "| exqa | 60.0% | 90.0% |" in text
    line = next(line for line in text.splitlines() if line.startswith("| parsed (points)"))
    difference, low, high = (float(number) for number in re.findall(r"[+-]\d+\.\d", line))
    assert difference == 30.0 and 10 < low < difference < high < 50
    assert "| held-out loss (nats a token) | +0.000 |" in text
    other = compare.compare([bad, _scores(tmp_path / "other", "new", 6, key="other rows")])
    assert "Not the same passages" in other and "95 % interval" not in other


def test_another_judge_under_the_same_name_is_asked_again(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, asked = tmp_path / "judge", []
    shutil.copytree(tiny_model, judge)

    def answer(tasks: Sequence[Written], params: GeneratorEvaluate) -> list[None]:
        asked.extend([len(tasks)] if tasks else [])
        return [None] * len(tasks)

    monkeypatch.setattr(evaluate, "judge_tasks", answer)
    params = GeneratorEvaluate.model_validate({"judge": str(judge)})

    def ask() -> None:
        evaluate._opinions(tmp_path / "journal", [human("exqa")], [human("exqa", 1)], params)

    ask()
    ask()
    assert asked == [2], "what it said is kept"
    (judge / "generation_config.json").write_text("{}")
    ask()
    assert asked == [2, 2]


def _rows_to_draw(count: int) -> list[dict[str, Any]]:
    """Rows of two types, a passage in four of them; the later ones are longer."""
    return [
        {
            "row_id": f"{n}",
            "dataset": "made",
            "task_type": ("exqa", "nli")[n % 2],
            "context": f"passage {n // 4} " * (1 + n // 4),
            "instruction": "Why?",
            "response": "A seal.",
        }
        for n in range(count)
    ]


def _draw(rows: Any, **given: Any) -> list[dict[str, Any]]:
    values = {"rows_per_type": 6, "max_context_chars": 300} | given
    batches = (
        rows
        if isinstance(rows, Batches)
        else [pa.Table.from_pylist(rows[:7]), pa.Table.from_pylist(rows[7:])]
    )
    return evaluate.draw_rows(batches, GeneratorEvaluate.model_validate(values))


def test_the_same_rows_are_drawn_for_every_generator_and_no_passage_twice() -> None:
    rows = _rows_to_draw(80)
    drawn = _draw(rows)
    for kind in ("exqa", "nli"):
        contexts = [row["context"] for row in drawn if row["task_type"] == kind]
        assert len(contexts) == 6 == len(set(contexts)) and max(map(len, contexts)) <= 300
    assert _draw(rows[::-1]) == drawn and _draw(rows, seed=2) != drawn


def test_the_draw_is_that_from_a_list_of_all_rows() -> None:
    rows = _rows_to_draw(300)
    wanted = []
    for kind in ("nli", "exqa"):
        of_kind = [row for row in rows if row["task_type"] == kind and len(row["context"]) <= 300]
        passages: dict[str, dict[str, Any]] = {}
        for row in sorted(
            of_kind, key=lambda row: (row_seed(1, kind, row["row_id"]), row["row_id"])
        ):
            passages.setdefault(row["context"], row)
        wanted += list(passages.values())[:6]
    order = [kind for kind in TASK_TYPES if kind in ("exqa", "nli")]
    assert _draw(rows, seed=1) == sorted(wanted, key=lambda row: order.index(row["task_type"]))


def test_of_many_rows_the_drawn_ones_are_held(tmp_path: Path, bounded_arrow: Any) -> None:
    """A row is 2 kB: all of them as Python objects were 20 MB."""
    schema = pa.schema([(name, pa.string()) for name in _rows_to_draw(1)[0]])
    path = tmp_path / "rows.parquet"
    with TableWriter(path, schema) as writer:
        for number in range(8_000):
            row = _rows_to_draw(1)[0] | {"row_id": f"{number}"}
            writer.add(row | {"context": f"passage {number} " * 130})
    with bounded_arrow(30e6):
        tracemalloc.start()
        drawn = _draw(Batches(path, schema), max_context_chars=0)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(drawn) == 6 and peak < 14e6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rows", "heldout.parquet"], "there is no generator to evaluate"),
        (
            ["--rows", "heldout.parquet", "--generator", "./gone"],
            "neither a folder here nor a hub name",
        ),
        (["--rows", "gone.parquet", "--generator", "x/y"], "--rows gone.parquet does not exist"),
    ],
)
def test_what_is_missing_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert evaluate.main(["--params", "bonito.yaml", *arguments, "--out", "out"]) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not Path("out").exists()


def test_compare_refuses_what_is_no_scores_file(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("other.json").write_text("{}")
    assert compare.main(["other.json"]) == 2
    assert (
        capsys.readouterr().err
        == "error: compare: other.json is no scores.json of bonito.evaluate.stage\n"
    )
