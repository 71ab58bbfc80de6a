"""``make ask``: a question, the passages of the last run that share its words, and what the
registered model answers from them, beside the unadapted one.

    python -m flows.review.ask [--profile NAME] [--model models:/NAME@champion]

The question comes from ``QUESTION`` of the environment. Without one a page on loopback asks.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.review.place import Place, make_parser, one_line, say, where
from flows.review.search import find, open_index
from flows.review.server import serve
from flows.runs import CODE
from tasks.core.card import give_cards_back, take_cards
from tasks.core.errors import PipelineError
from tasks.core.files import read_json
from tasks.core.log_lines import set_up_logging
from tasks.core.page import Page
from tasks.core.ports import read_port
from tasks.core.privacy import cache_folder
from tasks.core.progress import Progress
from tasks.core.rows import MODEL_NAMES
from tasks.core.spans import find_span
from tasks.core.stage import one_line_errors
from tasks.lm.prompts import prompt_form
from tasks.lm.tokenizers import load_tokenizer
from tasks.scoring.datasets import Dataset, Item, Template, asked_columns, load_dataset
from tasks.scoring.predict import answer
from tasks.scoring.questions import Questions
from tasks.scoring.scoreable import Scoreable
from tasks.tracking.fetch_model import fetch_model, find_version

log = logging.getLogger(__name__)
PORT, VARIABLE = 4302, "ASK_PORT"
SCRIPT = "/scripts/ask.js"
#: Passages that the models are asked about, each in a prompt of its own, as they were trained.
PASSAGES = 3
#: Characters of a question.
_MOST = 2000
#: For a dataset whose questions have several columns.
_PLAIN = Dataset(
    name="question",
    task_type="qa",
    answers="answer",
    labels=(),
    label="",
    templates=(Template(name="question", instruction="{{ context }}\n\n{{ question }}"),),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Answer a question, or serve the page; return 2 after an error that the user can fix."""
    parser = make_parser("flows.review.ask", "Ask the model of the last run.", PORT)
    parser.add_argument("--model", default="", help="models:/NAME@champion or models:/NAME/3")
    arguments = parser.parse_args(argv)
    question = os.environ.get("QUESTION", "")
    set_up_logging("ask")
    with one_line_errors("ask"):
        port = read_port(arguments.port, VARIABLE)
        if question and not question.strip():
            raise PipelineError("the question is empty: make ask QUESTION='...'")
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{CODE / 'mlflow.db'}")
        place = Place(CODE, arguments.profile, arguments.settings)
        lead = "Answers from the passages of the last run, by its model and zero-shot."
        with place.run.reading():
            desk = open_desk(place, arguments.model)
            if question:
                show(desk.answer(question))
            else:
                serve(desk, Page("Ask", lead, script=SCRIPT), port, VARIABLE)
        return 0
    return 2


def open_desk(place: Place, uri: str = "") -> AskDesk:
    """Return the desk of a run, and of the model that it registered unless ``uri`` names one.

    A model that is not in the registry is an error here, before the first question.
    """
    passages = place.artifact("ingest/passages.parquet")
    dataset = load_dataset(place.user_file("evaluate", "dataset"))
    uri = uri or _last_version(place)
    find_version(uri)
    return AskDesk(place, uri, dataset, open_index(passages, place.run.path / ".work/ask"))


def _last_version(place: Place) -> str:
    told = read_json(place.artifact("register/registration.json"))
    if "version" not in told:
        raise PipelineError(
            f"the last run registered no model ({told.get('verdict', 'not known why')}): name one, "
            f"{place.command('ask', MODEL='models:/NAME@champion')}"
        )
    return f"models:/{told['model_name']}/{told['version']}"


@dataclass
class AskDesk:
    """A run's passages and a registered model. Questions are answered one at a time."""

    place: Place
    uri: str
    dataset: Dataset
    index: Path

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return what the page shows before a question."""
        return {"model": self.uri, "profile": self.place.profile}

    def save(self, change: dict[str, Any]) -> dict[str, Any]:
        """Answer the ``question`` of a page; nothing is kept."""
        return self.answer(str(change.get("question", "")))

    def answer(self, question: str) -> dict[str, Any]:
        """Return ``question``, ``model``, the ``choices`` that a model has where the dataset has
        labels, and ``answers``: one for each of the best passages, the best first, with its place,
        both models' answers and the span of the adapted model's.
        """
        question = " ".join(question.split())
        if not question:
            raise PipelineError("the question is empty: make ask QUESTION='...'")
        if len(question) > _MOST:
            raise PipelineError(f"the question has {len(question):,} characters: at most {_MOST:,}")
        found = find(self.index, question, PASSAGES)
        if not found:
            raise PipelineError(
                "no passage shares a word with the question: ask with words of the documents"
            )
        with self._lock:
            name, version, models = load_models(self.uri)
            take_cards()
            try:
                adapted, zero_shot = self._ask(models, question, found)
            finally:
                give_cards_back()  # a page may wait for hours for the next question
        return {
            "question": question,
            "model": f"models:/{name}/{version}",
            "choices": list(make_questions(self.dataset, question, []).templates[0].choices),
            "answers": [
                {
                    **row,
                    "adapted": told,
                    "zero_shot": plain,
                    "span": find_span(row["text"], told.strip().rstrip(".")),
                }
                for row, told, plain in zip(found, adapted, zero_shot, strict=True)
            ],
        }

    def _ask(
        self, models: Sequence[Scoreable], question: str, found: list[dict[str, Any]]
    ) -> list[list[str]]:
        """Return each model's answers, one a passage; a model is freed before the next is loaded.

        A question is asked as evaluate asks it under the dataset's first template.
        """
        asked = make_questions(self.dataset, question, [row["text"] for row in found])
        params = self.place.params.evaluate.model_copy(update={"engine": "transformers"})
        with tempfile.TemporaryDirectory(prefix="bonito-ask-") as name:
            folder = Path(name)

            def meter(total: int, unit: str) -> Progress:
                return Progress(folder / "progress.json", "ask", total, unit)

            told = []
            for model in models:
                name = MODEL_NAMES[model.name]
                log.info("asking the model (%s) about %d passages", name, len(found))
                told.append(answer(model, asked, params, folder, meter))
        return [table["prediction"].to_pylist() for table in told]


def load_models(uri: str) -> tuple[str, str, tuple[Scoreable, Scoreable]]:
    """Fetch a registered model; return its name, its version, and it and the unadapted model, as
    evaluate scores them. Weights are loaded when the model is asked.
    """
    name, version, adapter, told = fetch_model(uri, cache_folder() / "served")
    base = (told["base"], told["revision"], told["quantization"], told["precision"])
    asked = str(told["settings"]["prompt"])
    form = prompt_form(load_tokenizer(told["base"], told["revision"]), asked, adapted=False)
    return (
        name,
        version,
        (
            Scoreable("adapted", *base, adapter, told["prompt"]),
            Scoreable("zero_shot", *base, None, form),
        ),
    )


def make_questions(dataset: Dataset, question: str, passages: Sequence[str]) -> Questions:
    """Return the question about each passage, under the dataset's first template where its
    templates show one column beside the passage; else passage and question alone.
    """
    columns = asked_columns(dataset)
    if len(columns) != 1:
        dataset, columns = _PLAIN, ("question",)
    items = [
        Item(id=str(n), context=text, golds=("",), gold=0, columns={columns[0]: question})
        for n, text in enumerate(passages)
    ]
    return Questions(dataset, dataset.templates[:1], items)


def show(found: dict[str, Any]) -> None:
    """Print the answers for a person."""
    first, *others = found["answers"]
    say(question=one_line(found["question"], 0), **_told(first))
    if found["choices"]:
        say(choices=f"{', '.join(found['choices'])}: it answers nothing else")
    say(
        model=found["model"],
        passage=one_line(_mark(first), 0),
        place=where(first["document"], first),
    )
    if first["section"]:
        say(section=one_line(first["section"]))
    for row in others:
        print()
        say(**_told(row), passage=one_line(_mark(row)), place=where(row["document"], row))


def _told(row: dict[str, Any]) -> dict[str, str]:
    names = {"answer": "adapted", MODEL_NAMES["zero_shot"]: "zero_shot"}
    return {name: one_line(row[model] or "(nothing)", 0) for name, model in names.items()}


def _mark(row: dict[str, Any]) -> str:
    if row["span"] is None:
        return str(row["text"])
    start, end = row["span"]
    text = row["text"]
    return f"{text[:start]}>>{text[start:end]}<<{text[end:]}"


if __name__ == "__main__":
    sys.exit(main())
