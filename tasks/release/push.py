"""Send a registered model's adapter and card to the hub: ``python -m tasks.release.push --model
models:/NAME@champion --repo owner/name``.

Without ``--yes 1`` it only shows what it would send. It sends the files of :data:`SENT` and nothing
else: no rows, no passages, no answers. The repository is made private where there is none.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.errors import PipelineError
from tasks.core.files import read_json, write_json
from tasks.core.log_lines import set_up_logging
from tasks.core.privacy import cache_folder
from tasks.core.secrets import hub_token
from tasks.core.stage import one_line_errors
from tasks.lm.licence import hub_name
from tasks.tracking.fetch_model import REGISTER_AGAIN, fetch_model

CARD = "README.md"
#: All that is ever sent.
SENT = (CARD, "adapter_config.json", "adapter_model.safetensors")
_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def main(argv: Sequence[str] | None = None) -> int:
    """Show or send a model; return 2 after an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m tasks.release.push", allow_abbrev=False)
    parser.add_argument("--model", default="", help="models:/NAME@champion or models:/NAME/3")
    parser.add_argument("--repo", default="", help="owner/name on the hub")
    parser.add_argument("--yes", default="", help="1: send")
    arguments = parser.parse_args(argv)
    set_up_logging("push")
    with one_line_errors("push"):
        push(arguments.model, arguments.repo, arguments.yes == "1")
        return 0
    return 2


def push(uri: str, repo: str, send: bool) -> None:
    """Print what goes to a repository of the hub, and send it where ``send`` says so."""
    if not _REPO.fullmatch(repo):
        raise PipelineError(f"{repo!r} is no repository of the hub: write REPO=owner/name")
    if send:
        _need_way_out()
    name, version, adapter, told = fetch_model(uri, cache_folder() / "served")
    with tempfile.TemporaryDirectory(prefix="bonito-push-") as temporary:
        folder = Path(temporary)
        stage_files(adapter, told, folder)
        print(f"model     models:/{name}/{version}, to https://huggingface.co/{repo}")
        for file in SENT:
            print(f"file      {file:<30} {(folder / file).stat().st_size:>12,} bytes")
        if not send:
            print("\n" + (folder / CARD).read_text(encoding="utf-8"))
            print("nothing was sent: read the card, then the same command with YES=1")
            return
        _send(folder, repo, f"{name} version {version}")
    print(f"sent      {len(SENT)} files")


def stage_files(adapter: Path, told: dict[str, Any], folder: Path) -> None:
    """Put copies of the files that are sent into a folder; ``told`` is the model's provenance.

    The adapter's configuration names its base as the hub does, and no folder of this machine.
    """
    for file in SENT:
        if not (adapter / file).is_file():
            raise PipelineError(f"the model has no {file}: {REGISTER_AGAIN}")
        shutil.copyfile(adapter / file, folder / file)
    if "\n## Made by\n" not in (folder / CARD).read_text(encoding="utf-8"):
        raise PipelineError(f"the model was registered without a card: {REGISTER_AGAIN}")
    config = read_json(folder / "adapter_config.json")
    config["base_model_name_or_path"] = hub_name(told["base"])
    config["revision"] = told["revision"] if hub_name(told["base"]) == told["base"] else None
    write_json(folder / "adapter_config.json", config)


def _need_way_out() -> None:
    if any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in _OFFLINE):
        raise PipelineError("HF_HUB_OFFLINE is set: nothing is sent. Unset it to send")
    if not hub_token():
        raise PipelineError("HF_TOKEN is not set: nothing is sent without a token that may write")


def _send(folder: Path, repo: str, message: str) -> None:
    from httpx2 import HTTPError
    from huggingface_hub import HfApi

    api = HfApi(token=hub_token())
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, allow_patterns=list(SENT), commit_message=message
        )
    except (HTTPError, OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise PipelineError(
            f"the hub did not take it ({reason}): check the network, REPO, and that the token in "
            "HF_TOKEN may write there"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
