"""Finding passages for a question, and asking as evaluate asks."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from flows.review import ask, search
from flows.review.place import Place
from tasks.core.errors import PipelineError
from tasks.core.parquet import write_table
from tasks.core.rows import PASSAGES
from tasks.scoring.datasets import load_dataset, render
from tests.conftest import ROOT, passage_table
from tests.registered import register_names


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    path = tmp_path / "passages.parquet"
    write_table(path, passage_table(20))
    return path


def test_the_passage_that_shares_the_rarest_words_comes_first(
    passages: Path, tmp_path: Path
) -> None:
    index = search.open_index(passages, tmp_path / "ask")
    found = search.find(index, "Why did pump P-7 fail?", 3)
    assert len(found) == 3 and "P-7 failed" in found[0]["text"], "fail finds failed"
    assert found[0]["document"] == "report-1.md" and found[0]["end"] == 30
    assert search.find(index, "What is the zebra?", 3) == []


def test_letters_whose_accents_are_apart_are_found(tmp_path: Path) -> None:
    """Names of files of macOS are written so: the words of a question ended at each accent."""
    path = tmp_path / "passages.parquet"
    rows = passage_table(1).to_pylist()
    texts = ("Le réservoir était vide.", "Le re\u0301servoir était vide.")
    rows = [rows[0] | {"passage_id": text, "text": text} for text in texts]
    write_table(path, pa.Table.from_pylist(rows, schema=PASSAGES))
    index = search.open_index(path, tmp_path / "ask")
    for word in ("réservoir", "re\u0301servoir"):
        assert len(search.find(index, word, 3)) == 2


def test_words_without_spaces_between_them_are_found(tmp_path: Path) -> None:
    """A whole sentence of Chinese was one word, which no question had."""
    path = tmp_path / "passages.parquet"
    texts = ("3号泵在北站因轴承过热而停止。", "会议在星期二举行。", "ポンプP-7は停止した。")
    row = passage_table(1).to_pylist()[0]
    rows = [row | {"passage_id": text, "text": text} for text in texts]
    write_table(path, pa.Table.from_pylist(rows, schema=PASSAGES))
    index = search.open_index(path, tmp_path / "ask")
    for question, place in (("轴承为什么过热？", 0), ("会议几时举行", 1), ("ポンプは？ P-7", 2)):
        found = search.find(index, question, 1)
        assert [one["text"] for one in found] == [texts[place]]
    assert search.find(index, "天气", 1) == []


_HOSTILE = (
    *('"', 'pump" OR *', "NEAR(a b)", "text:pump", "-pump ^a", "'; DROP TABLE passages; --", "\0"),
    *("", "?!", "²", "\ud800 pump", "a " * 5000, "x" * 100_000, "passages MATCH", "{a} + b"),
)


@pytest.mark.parametrize("question", _HOSTILE, ids=range(len(_HOSTILE)))
def test_no_question_is_an_error(passages: Path, tmp_path: Path, question: str) -> None:
    index = search.open_index(passages, tmp_path / "ask")
    before = index.read_bytes()
    assert isinstance(search.find(index, question, 3), list)
    assert index.read_bytes() == before


def test_an_index_is_kept_until_the_passages_change(passages: Path, tmp_path: Path) -> None:
    first = search.open_index(passages, tmp_path / "ask")
    stamp = first.stat().st_mtime_ns
    assert search.open_index(passages, tmp_path / "ask").stat().st_mtime_ns == stamp
    write_table(passages, passage_table(3))
    second = search.open_index(passages, tmp_path / "ask")
    assert [path.name for path in (tmp_path / "ask").iterdir()] == [second.name] != [first.name]
    assert len(search.find(second, "pump", 9)) == 3
    second.write_bytes(b"damaged")
    with pytest.raises(PipelineError, match="cannot be read .*: delete it and ask again"):
        search.find(second, "pump", 9)


def test_two_that_make_the_index_at_once_both_get_it(
    passages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one removed what the first one was writing, as if a killed one had left it."""
    write = search._write

    def slowly(*told: Any) -> None:
        write(*told)
        time.sleep(1.0)

    monkeypatch.setattr(search, "_write", slowly)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(search.open_index, passages, tmp_path / "ask")]
        while not list(tmp_path.glob("ask/.passages-*")):
            time.sleep(0.02)
        made.append(pool.submit(search.open_index, passages, tmp_path / "ask"))
        assert len({one.result() for one in made}) == 1


def test_a_question_is_asked_in_the_wording_of_the_first_template() -> None:
    dataset = load_dataset(ROOT / "datasets/incidents.yaml")
    asked = ask.make_questions(dataset, "Why?", ["The seal broke.", "It rained."])
    assert [render(asked.templates[0], item) for item in asked.items] == [
        "The seal broke.\n\nQ: Why?\n\nA:",
        "It rained.\n\nQ: Why?\n\nA:",
    ]
    two = dataset.model_copy(
        update={
            "templates": (
                dataset.templates[0].model_copy(
                    update={"instruction": "{{ context }} {{ question }} {{ hint }}"}
                ),
            )
        }
    )
    asked = ask.make_questions(two, "Why?", ["The seal broke."])
    assert render(asked.templates[0], asked.items[0]) == "The seal broke.\n\nWhy?"


def test_a_wrong_model_is_told_before_the_page_is_open(
    passages: Path, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page opened, and the error came with the answer to the first question."""
    main = tmp_path / "main"
    (main / "profiles").mkdir(parents=True)
    (main / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (main / "profiles/mine.yaml").write_text(
        f"evaluate: {{dataset: '{ROOT / 'datasets/incidents.yaml'}'}}\n"
    )
    (main / ".runs/mine/artifacts/ingest").mkdir(parents=True)
    passages.rename(main / ".runs/mine/artifacts/ingest/passages.parquet")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", register_names(tmp_path, empty_store))
    with pytest.raises(PipelineError, match="no model is called 'contract' .did you mean 'contra"):
        ask.open_desk(Place(main, "mine"), "models:/contract/1")
    with pytest.raises(PipelineError, match="no alias 'nosuch'; it has versions 2, 1 and aliases"):
        ask.open_desk(Place(main, "mine"), "models:/incidents-qa@nosuch")


def test_a_model_that_chooses_says_among_what(capsys: pytest.CaptureFixture[str]) -> None:
    """A question for a name was answered with Yes, and nothing said why."""
    asked = ask.make_questions(load_dataset(ROOT / "datasets/privacy.yaml"), "Who?", [])
    row = {"adapted": "Yes", "zero_shot": "No", "span": None, "text": "The clerk.", "section": ""}
    place = {"document": "a.md", "page": 0, "start": 0, "end": 10}
    found = {"question": "Who?", "model": "models:/m/1", "answers": [row | place]}
    ask.show({**found, "choices": list(asked.templates[0].choices)})
    assert "choices   Yes, No: it answers nothing else" in capsys.readouterr().out
    ask.show({**found, "choices": []})
    assert "choices" not in capsys.readouterr().out
