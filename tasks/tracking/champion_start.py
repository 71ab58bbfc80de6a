"""``python -m tasks.tracking.champion_start``: put the champion where the graph reads it.

Where ``finetune.start`` is ``champion``, the folder of that name beside the parameter file is an
input of the stages, like any other file. Here it is written, before the graph runs: no stage asks
MLflow which version is the champion.

The first run on a corpus fixes its champion: ``--store`` keeps one for each state of the corpus. So
the same command does nothing when it is done again, though the run may have made a new champion,
and runs with other settings begin at the same one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import (
    fingerprint,
    read_json,
    sha256_file,
    sha256_folder,
    staged_folder,
    write_json,
)
from tasks.core.listing import digest_listing, list_files
from tasks.core.log_lines import set_up_logging
from tasks.core.params import Params, load_params
from tasks.core.rows import ADAPTER_FILES, CHAMPION_FILE, TRAINED_FILE
from tasks.core.sections.finetune import CHAMPION
from tasks.core.stage import WORK, one_line_errors
from tasks.core.store import is_whole, keep_newest, seal_folder
from tasks.core.yaml_file import read_yaml
from tasks.tracking.fetch_model import NotRegistered, default_name, fetch_artifact, fetch_model

#: Champions of earlier corpora that are kept, some megabytes each.
_KEPT = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Write the folder ``champion`` beside the parameter file, if it asks for one.

    Return 0, or 2 after an error of one line: there is no champion, it has another base or rank, or
    the digests of its rows are gone.
    """
    parser = argparse.ArgumentParser(
        prog="python -m tasks.tracking.champion_start", allow_abbrev=False
    )
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--store", type=Path, default=WORK / CHAMPION)
    arguments = parser.parse_args(argv)
    set_up_logging(CHAMPION)
    with one_line_errors(CHAMPION):
        params: Params = load_params(arguments.params)
        if params.finetune.start == CHAMPION:
            folder = arguments.params.parent / CHAMPION
            told = place_champion(params, arguments.params.parent, arguments.store, folder)
            print(f"{told['name']} version {told['version']} is the start: {folder}")
        return 0
    return 2


def place_champion(params: Params, home: Path, store: Path, folder: Path) -> dict[str, Any]:
    """Write the champion of this corpus to ``folder``; return its ``champion.json``.

    ``home`` is the folder that the settings' paths start from. The folder is replaced as a whole,
    and left as it is if it holds the right one.
    """
    name = model_name(params, home)
    corpus = digest_listing(list_files(home / params.ingest.corpus))
    kept = store / fingerprint(name, corpus)[:24]
    if not is_whole(kept):
        _fetch(name, kept)
        keep_newest(store, _KEPT, keep=kept)
    _check(params, kept)
    if not is_whole(folder) or sha256_folder(folder) != sha256_folder(kept):
        with staged_folder(folder, home / WORK / f"{CHAMPION}.partial") as out:
            shutil.copytree(kept, out, dirs_exist_ok=True)
    return dict(read_json(folder / CHAMPION_FILE))


def model_name(params: Params, home: Path) -> str:
    """Return the name that register gives the model of these settings."""
    if params.register.model_name:
        return params.register.model_name
    dataset = read_yaml(home / params.evaluate.dataset).get("name", "")
    return default_name(params.finetune.model, str(dataset))


def _fetch(name: str, kept: Path) -> None:
    """Fetch the present champion of ``name`` from MLflow into ``kept``."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as place:
        try:
            _, version, adapter, provenance = fetch_model(f"models:/{name}@{CHAMPION}", Path(place))
        except NotRegistered as error:
            raise PipelineError(
                f"finetune.start is champion, but {name} has none ({error}): run once with another "
                "finetune.start, such as that of finetune.restart"
            ) from error
        trained = fetch_artifact(name, version, TRAINED_FILE, Path(place))
        if trained is None:
            raise PipelineError(
                f"{name} version {version} has no {TRAINED_FILE} in its MLflow run, which tells "
                "its rows from new ones: it is lost, or the version was made before there was "
                "one. Run once with another finetune.start"
            )
        with staged_folder(kept, Path(place) / "whole") as out:
            for file in (*(adapter / file for file in ADAPTER_FILES), trained):
                shutil.copy(file, out / file.name)
            write_json(out / "provenance.json", provenance)
            write_json(
                out / CHAMPION_FILE,
                {
                    "name": name,
                    "version": version,
                    "adapter_sha256": sha256_file(out / ADAPTER_FILES[0]),
                    "trained_sha256": sha256_file(out / TRAINED_FILE),
                },
            )
            seal_folder(out)


def _check(params: Params, folder: Path) -> None:
    """Refuse a champion of another base or rank before the run, not after generation."""
    from tasks.lm.adapters import start_adapter  # seconds, and only where there is a champion
    from tasks.lm.pins import pin

    start_adapter(pin(params.finetune), folder)


if __name__ == "__main__":
    sys.exit(main())
