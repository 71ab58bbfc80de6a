"""``make label``: a person makes labelled items of passages, which ingest then holds out for good.

    python -m flows.review.label [--profile NAME] [--port 4301]

An item says in ``held_out`` which passage it is about. From the next run on ingest drops passages
that share its words (reason ``held_out``), so that no model is trained on what it is asked.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from flows.review.drafts import RULES, RUN, draw_passages, find_passages, make_drafts
from flows.review.label_desk import LabelDesk, read_items
from flows.review.lines_file import LinesFile
from flows.review.place import Place, make_parser, say
from flows.review.server import serve
from flows.runs import CODE
from tasks.core.errors import PipelineError
from tasks.core.log_lines import set_up_logging
from tasks.core.page import Page
from tasks.core.ports import read_port
from tasks.core.setting_paths import is_nothing
from tasks.core.stage import one_line_errors
from tasks.scoring.datasets import load_dataset
from tasks.scoring.intervals import measured_spread

PORT, VARIABLE = 4301, "LABEL_PORT"
SCRIPT = "/scripts/label.js"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C; return 2 after an error that the user can fix."""
    parser = make_parser("flows.review.label", "Make labelled items of held-out passages.", PORT)
    arguments = parser.parse_args(argv)
    set_up_logging("label")
    with one_line_errors("label"):
        port = read_port(arguments.port, VARIABLE)
        place = Place(CODE, arguments.profile, arguments.settings)
        lead = "Questions to measure the model with. Their passages are never trained on."
        with place.run.reading():
            serve(open_desk(place), Page("Label", lead, script=SCRIPT), port, VARIABLE)
        return 0
    return 2


def open_desk(place: Place) -> LabelDesk:
    """Return the desk of a profile, and print what it is about."""
    for key, example in (("items", "local/mine/items.jsonl"), ("dataset", "datasets/mine.yaml")):
        place.need_own("evaluate", key, example)
    path = place.user_file("evaluate", "items")
    if is_nothing(path):
        name = place.profile.rpartition(",")[2]
        raise PipelineError(
            f"profile {place.profile} names no file for labelled items: in its section evaluate "
            f"write items: local/{name}/items.jsonl in place of {place.shown(path)}"
        )
    if path.suffix != ".jsonl":
        raise PipelineError(
            f"evaluate.items is {place.shown(path)}: items are written as JSON Lines only, name a "
            ".jsonl file"
        )
    dataset = load_dataset(place.user_file("evaluate", "dataset"))
    file = LinesFile(path, place.main)
    known = read_items(dataset, path)
    passages = find_passages(place)
    written = place.run.path / "artifacts/validate/instructions.parquet"
    seed = place.params.evaluate.seed
    drafts = make_drafts(dataset, draw_passages(passages, seed), written, seed)
    desk = LabelDesk(
        dataset,
        drafts,
        file,
        LinesFile(rejected_path(path), place.main),
        measured_spread(place.run.path),
    )
    desk.state()  # reads the file of rejections: if an edit by hand broke it, this says so
    origins = Counter(draft["origin"] for draft in drafts)
    say(
        items=f"{len(known)} in {place.shown(path)}",
        drafts=f"{origins[RUN]:,} of the last run, {origins[RULES]:,} by rules, and "
        f"{origins['']:,} empty forms, for the passages of {place.shown(passages)}",
    )
    if not origins[RUN] and place.params.supervise.mix.generator:
        say(note=f"{place.command('run')} writes drafts of its passages; they then come first")
    if path.is_relative_to(place.main / "data"):
        say(note="data/ is the shipped example's: `dvc add data` records your items for a run")
    return desk


def rejected_path(items: Path) -> Path:
    """Return the file of rejected drafts: beside the items, so that they do not come again."""
    return items.with_suffix(".rejected.jsonl")


if __name__ == "__main__":
    sys.exit(main())
