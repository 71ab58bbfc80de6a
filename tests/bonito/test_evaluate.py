"""The evaluation of the generator: every measure moves for the better and for the worse, and the
whole of it runs on a tiny model.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

from bonito.evaluate import compare
from bonito.evaluate import stage as evaluate
from bonito.evaluate.judging import measure_response_losses
from bonito.evaluate.measures import (
    Written,
)
from bonito.evaluate.results import SCORED
from bonito.params import GeneratorEvaluate
from bonito.remix.output import REMIXED
from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.parquet import read_table, write_table
from tasks.core.task_types import TASK_TYPES
from tasks.lm.engine import Completion, Sampling
from tasks.lm.loading import load_model
from tasks.lm.prompts import bonito_output
from tasks.lm.response_trainer import response_loss
from tasks.tracking.registry import Ledger
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


def test_a_store_that_fails_at_the_end_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.exceptions import MlflowException

    def fail(*_: Any) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr(Ledger, "open", fail)
    params = GeneratorEvaluate.model_validate({"generator": "mine"})
    nothing: Any = None
    with pytest.raises(PipelineError, match="connection refused.*: run the same command again"):
        evaluate._log(nothing, params, "key", {})
