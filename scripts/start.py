"""From a folder of documents to a profile: ``make start CORPUS=folder NAME=mine``.

    python scripts/start.py     (CORPUS, NAME and, if wanted, EVALUATION, MODEL, TASK, SET are read
                                 from the environment)

SET has settings of ingest: ``ingest.text_column=body ingest.min_tokens=10``.

Reads a seeded sample of the folder, shows what is in it, and writes ``profiles/<name>.yaml`` and
``datasets/<name>.yaml``. Nothing is overwritten, and after an error nothing is written.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flows.runs.corpus_files import is_inside, tell_unhashable
from flows.runs.request import check_name, machine_profile
from tasks.core.card import card_bytes
from tasks.core.errors import PipelineError
from tasks.core.overlay import DEFAULT, parse_setting, profile_files, read_layers, split_settings
from tasks.core.params import Params, parse_params
from tasks.core.setting_paths import is_address
from tasks.core.stage import WORK, one_line_errors
from tasks.ingest.report import format_counts
from tasks.lm.licence import hub_name, licence_of
from tasks.scoring.datasets import ITEM_FORMS, has_items
from tasks.start.apart import hold_folder
from tasks.start.claims import choose_claims, expect_claims, need_claims
from tasks.start.item_form import HOUSE, ItemForm
from tasks.start.look import Look, look
from tasks.start.proposal import (
    ENGLISH,
    Proposal,
    check_items,
    choose_form,
    items_place,
    need_new,
    propose,
    write,
)
from tasks.start.survey import Survey, short

ROOT = Path(__file__).resolve().parents[1]
#: Names that a line of counts shows.
_SHOWN = 10
#: Names of MODEL for the models of params.yaml.
_EMBEDDED = ("", DEFAULT, "embedded")
#: Settings of ingest that a profile has whatever their value.
_WRITTEN = ("passage_tokens", "min_tokens", "languages")
#: Columns of the printed lines.
_WIDTH, _INDENT = 96, 11


def main() -> int:
    """Survey the corpus, write the two files, print the plan and what to type next."""
    work = ROOT / WORK / "start"
    with one_line_errors("start"), hold_folder(work, "make start"):
        keys = ("CORPUS", "NAME", "EVALUATION", "MODEL", "TASK", "SET")
        asked = {key: os.environ.get(key, "") for key in keys}
        corpus, name = _need_corpus(asked["CORPUS"]), _need_name(asked["NAME"])
        items = _need_items(asked["EVALUATION"], corpus, name)
        model, settings = _choose_model(asked["MODEL"]), _read_settings(asked["SET"])
        profiles = profile_files(ROOT / "profiles", model)
        before, _ = read_layers(ROOT / "params.yaml", profiles)
        values, layers = read_layers(ROOT / "params.yaml", profiles, list(settings.values()))
        params: Params = parse_params(values, layers, settings=list(settings.values()))
        form, why = choose_form(asked["TASK"], items, name)
        ruled, chosen = "constructed" in params.supervise.mix.names, bool(asked["TASK"] or items)
        if ruled and chosen:
            need_claims(form.kind)
        count, told = check_items(name, form, items, work) if items else (0, [])
        # Tokens are counted by the embedded generator, so that a look needs no other model.
        embedded, _ = read_layers(ROOT / "params.yaml")
        tell = partial(_tell_reading, time.monotonic())
        seen = look(corpus, {**embedded, "ingest": values["ingest"]}, work, tell, settings)
        values["ingest"] |= seen.chosen
        if ruled and not chosen:
            kind, why = choose_claims(seen.found)
            form = HOUSE[kind]
        reasons = seen.reasons | {
            key: "as you set it"
            for key in settings
            if key in _WRITTEN or values["ingest"][key] != before["ingest"].get(key)
        }
        gpu = card_bytes() is not None
        stacked = f"{model},{name}" if model else name
        labelled = (items, count) if items else None
        proposal = propose(
            name, stacked, seen.found, values, (form.kind, why), labelled, gpu, reasons
        )
        written = write(proposal, form, ROOT)
        where = "this machine's GPU" if gpu else f"{os.cpu_count()} CPU cores"
        models = (
            f"{model}{_origin(params, gpu)}" if model else f"the embedded one of 135M, on {where}"
        )
        lines = [
            *_describe_corpus(seen, proposal),
            ("", ""),
            *_describe_plan(proposal, models, _licences(params)),
            *_describe_items(proposal, form, told),
            ("wrote", ", ".join(map(_shown, written))),
            ("", ""),
            *_describe_next(seen.found, proposal),
        ]
        print("\n".join(part for name, text in lines for part in _wrap(name, text)))
        return 0
    return 2


def _need_corpus(text: str) -> Path:
    if not text:
        raise PipelineError("no corpus: make start CORPUS=folder NAME=mine")
    corpus = _path("CORPUS", text)
    if is_address(text) and not corpus.is_dir():
        raise PipelineError(
            f"{text} is on another machine, and make start looks at documents of this one: fetch "
            "them into local/, or look at them with make ingest; a run reads them where a file "
            "*.address names them (docs/corpus.md)"
        )
    if not corpus.exists():
        raise PipelineError(f"CORPUS={text} does not exist: name a folder of documents, or a file")
    if corpus.resolve().is_relative_to(ROOT / "data"):
        raise PipelineError(
            f"CORPUS={text}: data/ belongs to the shipped example, and a pull replaces what is in "
            "it: keep your files where they are, or in local/"
        )
    if ROOT.is_relative_to(corpus.resolve()):
        raise PipelineError(
            f"CORPUS={text} holds this checkout, so a run would read what runs write as documents: "
            "name the folder of your documents alone"
        )
    return corpus


def _need_items(text: str, corpus: Path, name: str) -> Path | None:
    place = items_place(name, corpus)
    if not text and (ROOT / place).is_file() and has_items(ROOT / place):
        raise PipelineError(
            f"{place} has labelled items already: EVALUATION={place} measures on them; else move "
            "it away, or choose another NAME"
        )
    items = _path("EVALUATION", text) if text else None
    if items and is_inside(items, corpus):
        raise PipelineError(
            f"EVALUATION={items} is in the corpus {corpus}, so a run would read the answers as "
            "documents: move it out of the folder"
        )
    return items


def _path(variable: str, text: str) -> Path:
    """Return the path of a variable; bash alone replaces a ``~`` behind the ``=``."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(
            f"{variable}={text!r}: its name is not UTF-8, so no profile can hold it: rename it"
        ) from error
    return Path(os.path.expanduser(text))  # leaves the ~ of an unknown user


def _need_name(name: str) -> str:
    if not name:
        raise PipelineError("no name: make start CORPUS=folder NAME=mine")
    check_name(name)
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,40}", name):
        raise PipelineError(f"NAME={name}: at most 40 characters, it becomes part of other names")
    need_new(name, ROOT)
    return name


def _choose_model(asked: str) -> str:
    """Return the profile whose models are used; empty: those of params.yaml."""
    model = asked or machine_profile(ROOT)
    return "" if model in _EMBEDDED else model


def _read_settings(text: str) -> dict[str, str]:
    """Return the settings of ``SET`` by their key in the section ingest."""
    settings: dict[str, str] = {}
    for setting in split_settings(text):
        path, _ = parse_setting(setting)
        if path[0] != "ingest" or len(path) != 2:
            raise PipelineError(
                f"SET={setting}: make start takes settings of ingest alone, such as "
                "SET=ingest.text_column=body; write others into the profile that it makes"
            )
        if path[1] == "corpus":
            raise PipelineError(f"SET={setting}: name the corpus with CORPUS=folder")
        if path[1] == "drop_evaluation_overlap":
            raise PipelineError(
                f"SET={setting}: a look does not compare with the items; write it into the profile"
            )
        settings[path[1]] = setting
    return settings


def _shown(path: Path) -> str:
    """Return a written file's name, and whether it is empty as yet."""
    return f"{path.relative_to(ROOT)}{'' if path.stat().st_size else ' (empty)'}"


def _tell_reading(began: float, what: str) -> None:
    seconds = time.monotonic() - began
    after = f"after {seconds:.0f} s: " if seconds > 5 else ""
    print(f"reading    {after}{_without_controls(what)}", flush=True)


def _origin(params: Params, gpu: bool) -> str:
    """Return which models come from the hub, and what they need; it is not asked here."""
    named = [params.generate.generator] if params.supervise.mix.generator else []
    named = [name for name in (*named, params.finetune.model) if hub_name(name) == name]
    if not named:
        return ""
    needs = "" if gpu else ". Large ones need an NVIDIA GPU, and there is none here (docs/gpu.md)"
    return (
        f": {' and '.join(named)} from the Hugging Face hub. make plan and make run say how large "
        f"they are before they are downloaded{needs}"
    )


def _licences(params: Params) -> str:
    """Return what the cards of the used adapters on this machine say; a hub's are not asked."""
    asked = {"start": params.finetune.start}
    if params.supervise.mix.generator:
        asked = {"generator": params.generate.generator, **asked}
    found: dict[str, list[str]] = {}
    for part, name in asked.items():
        if Path(name).is_dir():
            found.setdefault(licence_of(name), []).append(part)
    cards = [f"{name}/README.md" for name in asked.values() if Path(name).is_dir()]
    told = "; ".join(f"{licence} ({', '.join(parts)})" for licence, parts in found.items())
    return f"{told}, as their cards say: {', '.join(cards)}" if told else ""


#: Names and texts of the printed lines.
_Lines = list[tuple[str, str]]


def _describe_corpus(seen: Look, proposal: Proposal) -> _Lines:
    """Return what was found."""
    found = seen.found
    megabytes = found.total / 2**20
    read = "all looked at" if found.whole else f"a sample of {found.sampled_files:,} looked at"
    lines = [
        ("corpus", f"{found.corpus}: {found.files:,} files, {megabytes:.1f} MB, {read}"),
        ("formats", _counts(found.formats)),
        *(("", note) for note in _notes(seen)),
        ("languages", f"{_counts(found.languages)} ({_looked_at(found)})"),
        ("tokens", f"{found.tokens:,} in {len(found.passages):,} passages{_whole(found)}"),
        ("not read", _counts(found.unread) or "none"),
        ("dropped", _counts(found.dropped) or "none"),
        ("", f"why, file by file: {short(ROOT / WORK / 'start' / 'ingest' / 'report.html')}"),
    ]
    if told := tell_unhashable(found.corpus):
        lines.append(("", told))
    other = 1 - found.share(ENGLISH)
    if proposal.languages == (ENGLISH,) and other:
        left_out = (
            f"{max(other, 0.01):.0%} of the passages are not in English and are left out, as the "
            f"{proposal.writer} English alone; a chat model may write for them: supervise.source "
            "prompted (docs/matrix.md)"
        )
        lines.append(("", left_out))
    return lines


def _describe_plan(proposal: Proposal, models: str, licences: str) -> _Lines:
    task = f"{proposal.kind} on {proposal.passages:,} passages of at most"
    lines = [("plan", f"{task} {proposal.passage_tokens} tokens ({proposal.kind_why})")]
    if proposal.max_passages:
        limit = f"generate.max_passages {proposal.max_passages}, {proposal.passages_why}"
        lines.append(("", f"{limit} (profiles/{proposal.name}.yaml)"))
    lines.append(("model", models))
    return [*lines, ("licence", licences)] if licences else lines


def _describe_items(proposal: Proposal, form: ItemForm, told: list[str]) -> _Lines:
    """Return how many items there are and what is odd about them, and their columns where
    docs/datasets.md has others.
    """
    items = (
        f"{proposal.labelled} labelled, in {proposal.items}"
        if proposal.labelled
        else f"none yet, so no F1: make label PROFILE={proposal.stacked} helps you write them, "
        f"into {proposal.items}; or do it by hand, one a line:"
    )
    lines = [("items", items), *(("", text) for text in told)]
    if form != HOUSE[form.kind]:
        lines.append(("columns", form.describe()))
    return lines if proposal.labelled else [*lines, ("", ITEM_FORMS[proposal.kind])]


def _describe_next(found: Survey, proposal: Proposal) -> _Lines:
    """Return the next commands; with that which trains on claims made by rules, where they make
    enough of them.
    """
    lines = [
        ("next", f"make plan PROFILE={proposal.stacked}    # what it will give and cost"),
        ("", f"make run PROFILE={proposal.stacked}"),
    ]
    rows = expect_claims(found, proposal.kind)
    if rows and not proposal.ruled:
        told = f"about {rows:,} rows by rules: docs/claims.md"
        lines.append(("or", f"make run PROFILE={proposal.stacked},constructed    # {told}"))
    return lines


def _notes(seen: Look) -> list[str]:
    """Return lines on what was chosen for the corpus, and what the figures leave out."""
    notes = [f"ingest.{key} {value}: {seen.reasons[key]}" for key, value in seen.chosen.items()]
    if seen.found.left_out:
        notes.append(
            f"{seen.found.left_out:,} large files are too large for a look: a run reads them, but "
            "the figures here do not count them"
        )
    return [*notes, *seen.notes]


def _wrap(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        _without_controls(text),
        _WIDTH,
        initial_indent=name.ljust(_INDENT),
        subsequent_indent=" " * _INDENT,
        break_on_hyphens=False,
        break_long_words=False,
        replace_whitespace=False,
    ) or [""]


def _without_controls(text: str) -> str:
    """Return what a terminal does not obey: names of files, and ids of items, may hold anything."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _whole(found: Survey) -> str:
    if found.whole:
        return ""
    return f"; about {found.tokens * found.times:,.0f} in {found.expected_passages:,} in all"


def _looked_at(found: Survey) -> str:
    """Return what the counts of languages are of: all passages, or those that were looked at."""
    count = sum(found.languages.values())
    return "passages" if count == len(found.passages) else f"{count:,} passages looked at"


def _counts(counts: dict[str, int]) -> str:
    return format_counts(counts, _SHOWN)


if __name__ == "__main__":
    sys.exit(main())
