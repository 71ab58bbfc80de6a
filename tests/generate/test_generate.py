"""generate: shards cut by the data, nothing generated twice, every prediction kept with its
reason.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from tasks.core.errors import PipelineError
from tasks.core.files import fingerprint, read_json, sha256_file, sha256_folder, write_json
from tasks.core.params import Params
from tasks.core.parquet import read_table, write_table
from tasks.core.rows import PASSAGES
from tasks.generate import shards
from tasks.generate import stage as module
from tasks.generate.plan import cut_shards, plan
from tasks.generate.prompted import read_prompts
from tasks.generate.shards import (
    BonitoForm,
    Generator,
    GeneratorForm,
    bound_prompts,
    measure_confidence,
)
from tasks.lm.engine import Completion
from tasks.lm.tokenizers import load_tokenizer
from tests.conftest import ROOT, Code, assert_pages_are_checked, passage_table
from tests.fakes import FakeEngine


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_params: Any, tiny_model: Path) -> Any:
    """Return a function that runs the stage in a folder of its own with a fake engine, and returns
    (exit status, engine).
    """

    def call(
        folder: str = "a",
        engine: FakeEngine | None = None,
        count: int = 10,
        table: pa.Table | None = None,
        source: str = "bonito",
        **generate: Any,
    ) -> tuple[int, FakeEngine]:
        (tmp_path / folder).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / folder)
        engine = engine or FakeEngine()
        monkeypatch.setattr(shards, "open_engine", lambda *_, **__: engine)
        write_table(Path("passages.parquet"), table or passage_table(count))
        path = make_params(
            supervise={"source": source},
            generate={
                "generator": str(tiny_model),
                "shard_rows": 4,
                "task_types": ["exqa", "ynqa"],
                "samples": 1,
                **generate,
            },
        )
        return module.main(
            ["--params", str(path), "--passages", "passages.parquet", "--out", "artifacts/generate"]
        ), engine

    return call


def _rows(folder: str = ".") -> list[dict[str, Any]]:
    return read_table(Path(folder) / "artifacts/generate/predictions.parquet").to_pylist()


def test_every_prediction_is_kept_and_counted(run: Any) -> None:
    assert run()[0] == 0
    rows, summary = _rows(), read_json(Path("artifacts/generate/summary.json"))
    assert_pages_are_checked(Path("artifacts/generate/predictions.parquet"))
    assert len(rows) == summary["rows_in"] == 20
    assert {row["reason"] for row in rows} == {"", "no_pipe", "truncated"}
    assert (
        summary["rows_kept"]
        == sum(row["parsed"] for row in rows)
        == summary["rows_in"] - sum(summary["dropped"].values())
    )
    assert all(bool(row["instruction"]) == row["parsed"] for row in rows)
    assert summary["by_task_type"]["exqa"]["rows"] == summary["by_task_type"]["ynqa"]["rows"] == 10


def test_a_task_without_an_answer_is_sampled_again_and_marked(run: Any, tmp_path: Path) -> None:
    assert run("once")[0] == 0
    once = {row["row_id"]: row for row in _rows()}
    status, engine = run("thrice", retries=2)
    assert status == 0
    rows, summary = _rows(), read_json(Path("artifacts/generate/summary.json"))
    bad = [row_id for row_id, row in once.items() if not row["parsed"]]
    again = [row for row in rows if row["attempt"]]
    assert len(rows) == 20 and bad, "a fake that never fails tests nothing"
    assert {row["row_id"] for row in again} <= {*bad} and again and summary["sampled_again"]
    assert all(
        row["parsed"]
        and row["max_tokens"] == 2 * once[row["row_id"]]["max_tokens"]
        and row["seed"] != once[row["row_id"]]["seed"]
        for row in again
    )
    for row in rows:
        assert row["attempt"] or row == once[row["row_id"]], "a first attempt stays as it was"
    sent = sum(map(len, engine.batches))
    assert 20 + len(bad) <= sent <= 20 + 2 * len(bad)
    killed = FakeEngine(die_after=3)
    with pytest.raises(KeyboardInterrupt):
        run("killed", killed, retries=2)
    assert run("killed", retries=2)[0] == 0
    assert sha256_file(tmp_path / "killed/artifacts/generate/predictions.parquet") == sha256_file(
        tmp_path / "thrice/artifacts/generate/predictions.parquet"
    )


@pytest.mark.parametrize(
    ("kind", "instruction", "response", "missing"),
    [
        ("exqa", "{{context}} What broke?", "its seal", False),
        ("exqa", "{{context}} What broke?", "the door", True),
        ("exqa", "{{context}} Was it its seal?", "its seal", True),
        ("ynqa", "{{context}} Did it break?", "Yes", False),
        ("summarization", "{{context}} Sum it up.", "{{context}}", True),
    ],
)
def test_which_tasks_have_no_answer(
    kind: str, instruction: str, response: str, missing: bool
) -> None:
    row = {"task_type": kind, "context": "It broke: its seal went.", "parsed": True}
    row |= {"instruction": instruction, "response": response}
    assert shards.has_no_answer(row) == missing
    assert shards.has_no_answer(row | {"parsed": False})


def test_a_killed_run_repeats_nothing_and_ends_with_the_same_bytes(
    run: Any, tmp_path: Path
) -> None:
    whole = len(run("whole")[1].batches)
    with pytest.raises(KeyboardInterrupt):
        run("killed", FakeEngine(die_after=3))
    status, engine = run("killed")
    assert status == 0 and len(engine.batches) == whole - 3 > 0
    assert sha256_file(tmp_path / "whole/artifacts/generate/predictions.parquet") == sha256_file(
        tmp_path / "killed/artifacts/generate/predictions.parquet"
    )


def test_a_damaged_shard_is_done_again(run: Any) -> None:
    run()
    before = sha256_file(Path("artifacts/generate/predictions.parquet"))
    shard = sorted(Path(".work/generate/journal").rglob("shard-*.parquet"))[2]
    shard.write_bytes(shard.read_bytes()[:-40])
    status, engine = run()
    assert status == 0 and len(engine.batches) == 1
    assert sha256_file(Path("artifacts/generate/predictions.parquet")) == before


def test_token_ids_are_made_of_the_shards_that_are_generated_alone(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of the whole corpus before the engine starts, and not again in a run that continues."""
    made: list[str] = []
    prompt = shards.BonitoForm.prompt

    def spy(self: Any, tokenizer: Any, context: str, task_type: str) -> list[int]:
        made.append(context)
        return prompt(self, tokenizer, context, task_type)

    monkeypatch.setattr(shards.BonitoForm, "prompt", spy)
    engine = FakeEngine(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        run(engine=engine)
    assert 0 < len([text for text in made if text]) <= 3 * 4 < 20, "two shards and the third's"
    before = _prompts(engine)
    made.clear()
    status, engine = run(engine=FakeEngine())
    assert status == 0
    assert len([text for text in made if text]) == _prompts(engine) == 20 - before


@pytest.mark.parametrize("kind", ["bonito", "prompted"])
def test_no_prompt_is_longer_than_its_bound(
    kind: str, params: Params, tiny_model: Path, tmp_path: Path
) -> None:
    settings = params.generate.model_copy(update={"generator": str(tiny_model), "max_tokens": 8})
    form: GeneratorForm = BonitoForm()
    if kind == "prompted":
        form = read_prompts(ROOT / "supervision/prompts", ["exqa"])
    generator = Generator(settings, form, "any")
    table = passage_table(3)
    texts = ["x" * 90, "\u2603\U0001f600" * 20, "The pump failed."]
    table = table.set_column(table.column_names.index("text"), "text", pa.array(texts))
    tokenizer = generator.load_tokenizer()
    longest = max(len(form.prompt(tokenizer, text, "exqa")) for text in texts)
    assert longest <= bound_prompts(generator, [table]) < 1024
    # Too few positions for the bound, but not for the prompts: they are measured.
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    config = read_json(copy / "config.json")
    write_json(copy / "config.json", {**config, "max_position_embeddings": longest + 8})
    settings = settings.model_copy(update={"generator": str(copy)})
    assert bound_prompts(Generator(settings, form, "any"), [table]) == longest
    write_json(copy / "config.json", {**config, "max_position_embeddings": longest + 7})
    with pytest.raises(PipelineError, match=rf"{longest} tokens, .* lower ingest.passage_tokens"):
        bound_prompts(Generator(settings, form, "any"), [table])


def test_confidence_is_the_mean_of_the_question_and_that_of_the_answer(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    question, answer = (
        tokenizer.encode(text, add_special_tokens=False)
        for text in ("Why did the pump fail?\n<|pipe|>", "\nits seal broke")
    )
    sure = tuple((token, -0.5) for token in question) + tuple((token, -2.0) for token in answer)
    assert measure_confidence(Completion("", 9, True, sure), tokenizer) == -2.5
    assert measure_confidence(Completion("", 9, True, sure[: len(question)]), tokenizer) is None
    assert measure_confidence(Completion("", 9, True, sure[len(question) :]), tokenizer) is None
    assert measure_confidence(Completion("", 9, True), tokenizer) is None


def test_another_setting_is_another_journal(run: Any) -> None:
    whole = len(run()[1].batches)
    assert len(run(temperature=0.7)[1].batches) == whole
    assert len(run()[1].batches) == 0, "the first journal is still there"


def test_going_back_to_earlier_settings_generates_nothing_again(run: Any) -> None:
    whole = _prompts(run(max_passages=0)[1])
    assert _prompts(run(max_passages=2, shard_rows=2)[1]) > 0
    assert whole and _prompts(run(max_passages=0)[1]) == 0


def test_a_row_depends_on_its_own_key_alone(params: Params) -> None:
    few, many = passage_table(3), passage_table(9)
    settings = params.generate.model_copy(update={"samples": 2})
    seeds = {request.row_id: request.seed for request in plan([many], settings)}
    assert all(seeds[request.row_id] == request.seed for request in plan([few], settings))
    assert len(set(seeds.values())) == len(seeds) == 18
    moved = many.set_column(0, "passage_id", pa.array([f"{n:016x}" for n in range(90, 99)]))
    assert [r.seed for r in plan([moved], settings)] == list(seeds.values()), "not of its place"


def _corpus(texts: dict[str, list[str]]) -> pa.Table:
    """Passages of documents as ingest writes them: each passage's place follows the one before."""
    rows: list[dict[str, Any]] = []
    for document, passages in sorted(texts.items()):
        start = 0
        for text in passages:
            end = start + len(text)
            rows.append(
                {
                    "passage_id": fingerprint(document, start, end, text)[:16],
                    "document": document,
                    "page": 0,
                    "section": "",
                    "start": start,
                    "end": end,
                    "tokens": 12,
                    "sha256": hashlib.sha256(text.encode()).hexdigest(),
                    "in_evaluation": False,
                    "text": text,
                }
            )
            start = end + 2
    return pa.Table.from_pylist(rows, schema=PASSAGES)


def _texts(documents: int, passages: int) -> dict[str, list[str]]:
    return {
        f"{n:03}.md": [f"Pump {n} of hall {p} failed at noon." for p in range(passages)]
        for n in range(documents)
    }


def _prompts(engine: FakeEngine) -> int:
    return sum(map(len, engine.batches))


def test_a_changed_corpus_generates_what_changed(run: Any, tmp_path: Path) -> None:
    """Of 100 documents one is changed, one added, one removed: three of a hundred at most again,
    the rows of a run from nothing, and nothing left of what is gone.
    """
    texts = _texts(100, 4)
    one = {"task_types": ["exqa"], "shard_rows": 64}
    assert _prompts(run("kept", table=_corpus(texts), **one)[1]) == 400
    texts["050.md"] = ["A secret valve was found open in the cellar.", *texts["050.md"][1:]]
    texts["0505.md"] = [f"A new report, part {p}." for p in range(4)]
    gone = texts.pop("020.md")
    status, engine = run("kept", table=_corpus(texts), **one)
    assert status == 0 and 0 < _prompts(engine) <= 12
    run("fresh", table=_corpus(texts), **one)
    kept, fresh = (tmp_path / name / "artifacts/generate" for name in ("kept", "fresh"))
    assert sha256_folder(kept) == sha256_folder(fresh)
    for path in (tmp_path / "kept/.work").rglob("*"):
        told = str(read_table(path)) if path.suffix == ".parquet" else ""
        told += path.read_text(errors="replace") if path.is_file() else ""
        assert gone[0] not in told and gone[3] not in told, path
    # Also where nothing is generated: the document that was shown last may be gone.
    texts.pop("0505.md")
    assert _prompts(run("kept", table=_corpus(texts), **one)[1]) == 0
    assert not (tmp_path / "kept/.work/generate/sample.json").exists()
    kept_shards = list((tmp_path / "kept/.work/generate/journal").rglob("shard-*.parquet"))
    assert len(kept_shards) == len(texts)


def test_a_run_without_a_generator_keeps_nothing_of_a_removed_document(run: Any) -> None:
    texts, one = _texts(6, 2), {"task_types": ["exqa"], "shard_rows": 4}
    assert _prompts(run(table=_corpus(texts), **one)[1]) == 12
    gone = texts.pop("002.md")
    assert run(table=_corpus(texts), source="tapt", **one)[0] == 0
    kept = [path for path in Path(".work").rglob("*") if path.is_file()]
    assert not Path(".work/generate/sample.json").exists()
    told = "".join(str(read_table(path)) for path in kept if path.suffix == ".parquet")
    assert gone[0] not in told and texts["001.md"][0] in told
    assert run(table=_corpus(texts), **one)[1].batches == [], "the others are still there"


@pytest.mark.parametrize("change", ["changed", "added", "removed"])
def test_in_a_long_document_only_the_shards_at_the_change_are_generated(
    run: Any, change: str
) -> None:
    passages = [f"Pump {n} failed at noon." for n in range(600)]
    one = {"task_types": ["exqa"], "shard_rows": 16}
    run(table=_corpus({"a.md": passages}), **one)
    if change == "removed":
        del passages[100]
    else:
        passages[100 : 101 if change == "changed" else 100] = ["A valve leaked."]
    again = _prompts(run(table=_corpus({"a.md": passages}), **one)[1])
    assert 0 < again <= 5 * 16


def test_memory_and_number_of_passages_do_not_throw_shards_away(run: Any) -> None:
    """After a GPU ran out of memory its share is lowered; after a trial more passages are taken."""
    table, one = _corpus(_texts(12, 1)), {"task_types": ["exqa"]}
    assert _prompts(run(table=table, max_passages=5, **one)[1]) == 5
    assert _prompts(run(table=table, **one)[1]) == 7
    assert _prompts(run(table=table, gpu_memory_utilization=0.5, **one)[1]) == 0
    assert len(_rows()) == 12


def test_a_moved_document_is_not_generated_again(run: Any) -> None:
    """Nor one of the same text twice; each has its own places."""
    texts = _texts(3, 5)
    run(table=_corpus(texts))
    moved = {"z/" + name: passages for name, passages in texts.items()}
    status, engine = run(table=_corpus(moved | {"copy.md": texts["001.md"]}))
    assert status == 0 and engine.batches == []
    rows = _rows()
    assert {row["document"] for row in rows} == {*moved, "copy.md"}
    assert len({row["row_id"] for row in rows}) == len(rows) == 4 * 5 * 2


def test_rows_of_a_table_share_shards_and_a_row_more_moves_few(params: Params) -> None:
    settings = params.generate.model_copy(
        update={"task_types": ("exqa",), "samples": 1, "shard_rows": 32}
    )
    texts = {f"rows.jsonl#{n:04}": [f"Row {n} of the log."] for n in range(1000)}
    before = [shard.name for shard in cut_shards([_corpus(texts)], settings)]
    after = [
        shard.name
        for shard in cut_shards([_corpus(texts | {"rows.jsonl#0500a": ["A new row."]})], settings)
    ]
    assert 1000 / 32 <= len(before) <= 1000 / 12
    assert len(set(after) - set(before)) <= 4


def test_max_passages_is_a_seeded_choice_in_file_order(params: Params) -> None:
    chosen = [
        [
            r.passage["passage_id"]
            for r in plan(
                [passage_table(40)],
                params.generate.model_copy(update={"max_passages": 6, "samples": 1, "seed": s}),
            )
        ]
        for s in (1, 1, 2)
    ]
    assert (
        chosen[0] == chosen[1] == sorted(chosen[0])
        and len(chosen[0]) == 6
        and chosen[0] != chosen[2]
    )


def test_no_passages_is_one_clear_line(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(count=0)[0] == 2
    assert "there are no passages to generate from" in capsys.readouterr().err


def test_a_missing_generator_is_one_clear_line(
    run: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(generator="./absent")[0] == 2
    assert "model './absent' is neither a folder here nor a hub name" in capsys.readouterr().err


def test_a_mended_parser_changes_the_rows(
    run: Any, edited_code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of the old parser are not taken from the journal; unrelated code keeps them there."""
    whole = len(run()[1].batches)
    assert not any(row["response"].endswith(".") for row in _rows())
    edited_code.edit("tasks.lm.prompts", "from __future__", "# A comment.\nfrom __future__")
    edited_code.edit(
        "tasks.validate.labels", "import numpy as np\n", "import numpy as np\n\nUNRELATED = 1\n"
    )
    assert len(run()[1].batches) == 0
    edited = edited_code.edit(
        "tasks.lm.prompts",
        "return Task(instruction, response) if",
        "return Task(instruction, response + '.') if",
    )
    monkeypatch.setattr(shards, "parse_prediction", edited.parse_prediction)
    assert len(run()[1].batches) == whole
    assert {row["response"] for row in _rows() if row["parsed"]} == {"its seal broke."}


def test_a_journal_belongs_to_settings_weights_and_form(params: Params) -> None:
    form = BonitoForm()
    first = module._journal_key(Generator(params.generate, form, "digest"))
    elsewhere = params.generate.model_copy(update={"workers": 3})
    assert first == module._journal_key(Generator(elsewhere, form, "digest"))
    other = params.generate.model_copy(update={"temperature": 0.9})
    keys = {
        module._journal_key(Generator(other, form, "digest")),
        module._journal_key(Generator(params.generate, form, "other weights")),
        module._journal_key(
            Generator(params.generate, SimpleNamespace(identity="prompts"), "digest")
        ),
    }
    assert len({first, *keys}) == 4
