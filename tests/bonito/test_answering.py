"""The rows an answering model learns from: passages in their place, cut around the answer, claims
beside them.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bonito.answering.stage import Params, main, shortened
from bonito.remix.output import REMIXED
from tasks.claims.passages import passages_of
from tasks.core.files import read_json
from tasks.core.params import load_params
from tasks.core.rows import INSTRUCTIONS, PASSAGES
from tests.claims.test_construct import corpus

ROOT = Path(__file__).parents[2]


def remixed() -> pa.Table:
    """Two rows a passage: a span and a label."""
    rows = []
    for number, passage in enumerate(corpus(60)):
        year = str(1900 + number)
        for kind, instruction, response in (
            ("exqa", "{{context}}\n\nQ: In what year was the work done?\n\nA:", year),
            ("ynqa", "{{context}} Was it sold? Yes or no?", ("Yes", "No")[number % 2]),
        ):
            row = dict.fromkeys(REMIXED.names, "")
            row |= {"row_id": f"{kind}{number}", "dataset": "squad", "template": kind}
            row |= {"task_type": kind, "context": passage.text}
            rows.append(row | {"instruction": instruction, "response": response})
    return pa.Table.from_pylist(rows, schema=REMIXED)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "bonito/answering/params.yaml").read_text().split("finetune:")[1]
    (tmp_path / "params.yaml").write_text(
        "answering:\n  mixture: {exqa: 20, ynqa: 20}\n  balance: [ynqa]\n  claims: 40\n"
        "  claim_sources: [squad]\n  max_passage_chars: 120\n  seed: 1\nfinetune:" + text
    )
    pq.write_table(remixed(), tmp_path / "train.parquet")
    return tmp_path


def make(out: str) -> list[dict[str, str]]:
    assert main(["--params", "params.yaml", "--rows", "train.parquet", "--out", out]) == 0
    table = pq.read_table(f"{out}/instructions.parquet")
    assert table.schema.names == INSTRUCTIONS.names
    return list(table.to_pylist())


def test_rows_of_people_and_claims_stand_side_by_side(home: Path) -> None:
    rows = make("one")
    people = [row for row in rows if row["row_id"].startswith(("exqa", "ynqa"))]
    claims = [row for row in rows if row not in people]
    assert len(people) == 40 and 0 < len(claims) <= 40
    assert {row["task_type"] for row in claims} <= {"nli", "te", "ynqa"}
    for row in rows:
        assert row["context"] in row["instruction"] and "{{" not in row["instruction"]
        if row["task_type"] == "exqa":
            assert row["response"] in row["context"]
    yes = [row["response"] for row in people if row["task_type"] == "ynqa"]
    assert yes.count("Yes") == yes.count("No")
    assert make("two") == rows


def test_a_passage_is_cut_around_its_answer() -> None:
    text = "One stands here. Two stands there. Three stands on a hill. Four stands by the sea."
    for seed in range(8):
        cut = shortened(text, "Three", 45, seed)
        assert "Three stands on a hill." in cut and len(cut) <= 45 and cut in text
    assert shortened(text, "Five", 45, 1) == text


def test_a_misspelt_type_to_balance_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("params.yaml").read_text().replace("balance: [ynqa]", "balance: [ynqe]")
    Path("params.yaml").write_text(text)
    assert main(["--params", "params.yaml", "--rows", "train.parquet", "--out", "out"]) == 2
    assert "unknown task type 'ynqe'" in capsys.readouterr().err


def test_the_shipped_settings_can_be_read() -> None:
    first, second = (
        load_params(ROOT / "bonito/answering" / name, Params)
        for name in ("params.yaml", "second_pass.yaml")
    )
    assert first.finetune.lora_rank == first.finetune.lora_alpha == 16
    assert {"exqa/squad", "nli", "ynqa"} <= set(first.answering.mixture)
    # An adapter that is trained on keeps its shape.
    assert second.finetune.lora_rank == second.finetune.lora_alpha == 16
    provenance = read_json(ROOT / "models/smollm2-135m-answering/provenance.json")
    assert provenance["settings"]["start"] == second.finetune.start
    assert provenance["settings"]["learning_rate"] == second.finetune.learning_rate


def test_passages_take_the_questions_that_are_answered_in_them() -> None:
    passage = dict.fromkeys(PASSAGES.names) | {
        "passage_id": "p",
        "document": "d",
        "text": "Why? Ann came.",
    }
    row = dict.fromkeys(INSTRUCTIONS.names, "") | {"passage_id": "p", "context": "Why? Ann came."}
    row |= {"task_type": "exqa", "instruction": "Why? Ann came.\n\nWho came?", "response": "Ann"}
    found = passages_of(
        pa.Table.from_pylist([passage], schema=PASSAGES),
        pa.Table.from_pylist([row], schema=INSTRUCTIONS),
    )
    assert found[0].answered == (("Who came?", "Ann"),)
