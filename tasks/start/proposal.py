"""The profile and the dataset file that ``make start`` writes, from what a survey found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import PipelineError
from tasks.core.files import atomic_path
from tasks.core.mix import Mix, parse_mix
from tasks.core.task_types import task_type
from tasks.scoring.datasets import (
    Dataset,
    Item,
    find_misplaced,
    find_missing_labels,
    load_dataset,
    load_items,
)
from tasks.start.item_form import HOUSE, ItemForm, recognise
from tasks.start.launch import ROOT
from tasks.start.survey import Survey, short

_TEMPLATES = Path(__file__).parent / "templates"
#: The language that the generators with weights of their own were trained on.
ENGLISH = "en"
#: Less text in English than this share is what the detector takes for English by mistake.
_LEAST_SHARE = 0.05
#: Passages of a first look on CPU cores (docs/datasets.md); a GPU takes all of them.
_FIRST_LOOK = 200
#: Ids of items that a line shows.
_SHOWN_IDS = 5


@dataclass(frozen=True)
class Proposal:
    """What was chosen, each with its reason, as the profile's comments say it."""

    name: str
    #: ``PROFILE`` of the next commands: the profile alone, or stacked on a model's.
    stacked: str
    corpus: str
    kind: str
    kind_why: str
    passage_tokens: int
    passage_why: str
    min_tokens: int
    min_why: str
    languages: tuple[str, ...]
    language_why: str
    #: What makes rows of English alone, with its verb; empty where nothing does.
    writer: str
    #: Whether rules make claims of it.
    ruled: bool
    #: Other settings of ingest: name, value as YAML, reason.
    more: tuple[tuple[str, str, str], ...]
    max_passages: int
    passages_why: str
    #: How many passages a run will use.
    passages: int
    items: str
    items_why: str
    #: How many labelled items there are.
    labelled: int

    def profile(self) -> str:
        """Return the text of the profile."""
        paths = {name: _quote(getattr(self, name)) for name in ("corpus", "items")}
        languages = [_quote(name) for name in self.languages]
        return _render("profile.jinja", {**vars(self), **paths, "languages": languages})


def choose_form(task: str, items: Path | None, name: str) -> tuple[ItemForm, str]:
    """Return the form of the items and the reason for its task type: the user's own, that of the
    items, or extraction.
    """
    asked = task_type(task) if task else ""
    if asked and asked not in HOUSE:
        raise PipelineError(
            f"TASK={task}: make start writes dataset files for {', '.join(HOUSE)}; write those of "
            "other types by hand: docs/datasets.md"
        )
    if items:
        return recognise(items, name, asked), "as the items have it; others: docs/datasets.md"
    return HOUSE[asked or "exqa"], (
        "as you chose"
        if asked
        else "questions whose answer is copied from the passage; others: docs/datasets.md"
    )


def check_items(name: str, form: ItemForm, items: Path, folder: Path) -> tuple[int, list[str]]:
    """Return how many labelled items there are, read as evaluate reads them, and what is odd about
    them, a sentence each.
    """
    draft = folder / f"{name}.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    draft.write_text(dataset_text(name, form), encoding="utf-8")
    dataset = load_dataset(draft)
    found = load_items(dataset, items)
    return len(found), [*_tell_misplaced(dataset, found), *_tell_missing(dataset, found)]


def _tell_misplaced(dataset: Dataset, items: Sequence[Item]) -> list[str]:
    misplaced = find_misplaced(dataset, items)
    if not misplaced:
        return []
    shown = ", ".join(misplaced[:_SHOWN_IDS]) + (" ..." if len(misplaced) > _SHOWN_IDS else "")
    if len(misplaced) * 2 <= len(items):
        return [f"{len(misplaced)} of them have no answer in their passage: {shown}"]
    return [
        f"{len(misplaced)} of them, more than half, have no answer in their passage ({shown}): "
        "extraction copies the answer from the passage, so F1 will be low whatever the model "
        "learns; are these items of another task type?"
    ]


def _tell_missing(dataset: Dataset, items: Sequence[Item]) -> list[str]:
    missing = ", ".join(find_missing_labels(dataset, items))
    if not missing:
        return []
    return [
        f"no item has the label {missing}: if none will have it, take it and its choices out of "
        f"datasets/{dataset.name}.yaml"
    ]


def propose(
    name: str,
    stacked: str,
    found: Survey,
    values: Mapping[str, Any],
    kind: tuple[str, str],
    items: tuple[Path, int] | None,
    gpu: bool,
    reasons: Mapping[str, str],
) -> Proposal:
    """Choose the settings of a first run; ``values`` are those that the survey was made with, and
    ``reasons`` say why a setting of ingest is not that of params.yaml or the model's profile.
    """
    mix = parse_mix(values["supervise"]["source"])
    writer = english_writer(mix)
    english = bool(writer)
    if english:
        _need_english(found, writer)
    ingest = values["ingest"]
    other = english and found.share(ENGLISH) < 1 and "languages" not in reasons
    expected = round(found.expected_passages * (found.share(ENGLISH) if other else 1))
    about = f"about {expected:,}{' in English' if other else ''}"
    # Not to leave out a few; rules take no time.
    limited = bool(mix.generator) and not gpu and expected > 2 * _FIRST_LOOK
    return Proposal(
        name=name,
        stacked=stacked,
        corpus=short(found.corpus),
        kind=kind[0],
        kind_why=kind[1],
        passage_tokens=ingest["passage_tokens"],
        passage_why=reasons.get(
            "passage_tokens", "most tokens of a passage, as the model's own setting has it"
        ),
        min_tokens=ingest["min_tokens"],
        min_why=reasons.get("min_tokens", "least tokens of a passage"),
        languages=(ENGLISH,) if other else tuple(ingest.get("languages", ())),
        language_why=reasons.get(
            "languages",
            f"the {writer} English alone"
            if other
            else "all: it is English; else [en]"
            if english
            else "all: a chat model writes the tasks (supervise.source prompted)"
            if mix.generator
            else "all",
        ),
        writer=writer,
        ruled="constructed" in mix.names,
        more=tuple(
            (key, _as_yaml(ingest[key]), " ".join(why.split()))
            for key, why in reasons.items()
            if key not in ("passage_tokens", "min_tokens", "languages")
        ),
        max_passages=_FIRST_LOOK if limited else 0,
        passages_why=(
            f"of {about}: a first look in minutes; 0: all" if limited else f"all, {about}"
        ),
        passages=_FIRST_LOOK if limited else expected,
        items=short(items[0]) if items else items_place(name, found.corpus),
        items_why=(
            f"{items[1]} labelled items, never trained on"
            if items
            else f"for make label PROFILE={stacked}; while it is empty there is no F1"
        ),
        labelled=items[1] if items else 0,
    )


def english_writer(mix: Mix) -> str:
    """Return what makes rows of English alone, with its verb; empty where nothing does."""
    if mix.generator == "bonito":
        return "generator writes"
    return "rules make claims of" if "constructed" in mix.names and not mix.generator else ""


def items_place(name: str, corpus: Path) -> str:
    """Return where labelled items may go: not into the corpus."""
    inside = corpus.resolve() == (ROOT / "local" / name).resolve()
    return f"local/{name}-items.jsonl" if inside else f"local/{name}/items.jsonl"


def write(proposal: Proposal, form: ItemForm, root: Path) -> tuple[Path, ...]:
    """Write profile and dataset file, and return them and what else was made, in this order;
    neither may be there already.

    The file of verdicts that the profile names is made empty, and that of labelled items where
    there are none; one that is there stays.
    """
    profile, dataset = need_new(proposal.name, root)
    texts = {dataset: dataset_text(proposal.name, form), profile: proposal.profile()}
    empty = [root / "reviews" / f"{proposal.name}.jsonl"]
    empty += [] if proposal.labelled else [root / proposal.items]
    made = [path for path in empty if not path.exists()]
    # The profile last: with it a second call is refused.
    for path, text in [*((path, "") for path in made), *texts.items()]:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as draft:
            draft.write_text(text, encoding="utf-8")
    return profile, dataset, *made


def need_new(name: str, root: Path) -> tuple[Path, Path]:
    """Return the two files' paths; an error where one exists: nothing is overwritten."""
    paths = root / "profiles" / f"{name}.yaml", root / "datasets" / f"{name}.yaml"
    for path in paths:
        if path.exists():
            raise PipelineError(
                f"{path.relative_to(root)} exists and is not overwritten: choose another NAME, or "
                f"remove {' and '.join(str(each.relative_to(root)) for each in paths)} where they "
                f"are yours (make run PROFILE={name} runs what is there, on its own documents)"
            )
    return paths


def _need_english(found: Survey, writer: str) -> None:
    if found.share(ENGLISH) >= _LEAST_SHARE:
        return
    shown = ", ".join(f"{name} {count:,}" for name, count in islice(found.languages.items(), 5))
    share = 100 * found.share(ENGLISH)
    little = f"only {share:.0f} %" if share >= 1 else "less than 1 %"
    told = f": {little} of its text is in English" if share else " has no text in English"
    raise PipelineError(
        f"{found.corpus}{told} (passages: {shown}), the only language that the {writer}: a "
        "chat model can write tasks in other languages (docs/matrix.md, supervise.source prompted, "
        "with prompts of your own)"
    )


def dataset_text(name: str, form: ItemForm) -> str:
    """Return the text of the dataset file for items of a form."""
    house = HOUSE[form.kind]
    columns = {
        key: _quote(value)
        for key in ("id", "context", "document", "answers", "label")
        if (value := getattr(form, key)) != getattr(ItemForm, key)
    }
    if form.labels:
        columns["labels"] = json.dumps(form.labels, ensure_ascii=False)

    def choices(**words: str) -> str:
        return json.dumps([words[name] for name in form.classes])

    def offered(**words: str) -> str:
        *most, last = [word for name, word in words.items() if name in form.classes]
        return f"{', '.join(most)}{',' if len(most) > 1 else ''} or {last}"

    values = {
        "name": _quote(name),
        "is_house": form == house,
        "asked": form.asked,
        "labels": form.labels,
        "columns": "\n".join(f"{key}: {value}" for key, value in columns.items()),
        "choices": choices,
        "offered": offered,
    }
    # The file keeps the {{ }} of its own templates.
    marks = {"variable_start_string": "<<", "variable_end_string": ">>"}
    marks |= {"block_start_string": "<%", "block_end_string": "%>"}
    return _render(f"dataset-{form.kind}.jinja", values, **marks)


def _render(template: str, values: Mapping[str, Any], **marks: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - YAML, not HTML
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        **marks,
    )
    return environment.get_template(template).render(values)


def _as_yaml(value: Any) -> str:
    """Return a value on one line of YAML, of the same type when it is read again."""
    return _quote(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _quote(text: str) -> str:
    """Return text as one YAML scalar on one line, bare where YAML reads it as that text."""
    try:
        bare = yaml.safe_load(f"a: {text} # b") == {"a": text}
    except yaml.YAMLError:
        bare = False
    if bare:
        return text
    # JSON leaves what YAML takes for the end of a line, or does not allow.
    quoted = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=math.inf)
    return str(quoted).removesuffix("\n")
