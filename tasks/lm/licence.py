"""What is known of a model's origin: its name on the hub and its licence. Neither is guessed."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.core.errors import PipelineError
from tasks.core.yaml_file import parse_yaml
from tasks.lm.models import EMBEDDED, pinned

UNKNOWN = "not known"
#: The hub's name of the model that the embedded one was converted from.
_EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
#: What a licence is called on the hub: an identifier, nothing that Markdown or YAML would read.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,60}")


def hub_name(name: str) -> str:
    """Return what the hub calls a base model; empty for a folder of this machine."""
    if name == EMBEDDED:
        return _EMBEDDED_ON_HUB
    return "" if Path(name).is_dir() or name.count("/") != 1 or name[0] in "./~" else name


def licence_of(name: str, revision: str = "main") -> str:
    """Return the licence that a model's card states (its YAML block's ``license``, where that is
    ``other`` with the ``license_name``), else :data:`UNKNOWN`.

    Cards are read in the model's folder, or in the hub's cache where they happen to be: nothing is
    downloaded for it.
    """
    if name == EMBEDDED:
        return "apache-2.0"
    card = _find_card(name, revision)
    return _read_licence(card) if card else UNKNOWN


def _find_card(name: str, revision: str) -> Path | None:
    if Path(name).is_dir():
        card = Path(name) / "README.md"
        return card if card.is_file() else None
    if name.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "README.md", revision=pinned(name, revision))
    except (HFValidationError, PipelineError):
        return None
    return Path(found) if isinstance(found, str) else None


def _read_licence(card: Path) -> str:
    try:
        text = card.read_text(encoding="utf-8")
        block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        values = parse_yaml(block[1], str(card)) if block else {}
    except (OSError, ValueError, PipelineError):
        return UNKNOWN
    if not isinstance(values, dict):
        return UNKNOWN
    stated, name = (_known(values.get(key)) for key in ("license", "license_name"))
    return f"{stated}: {name}" if stated == "other" and name != UNKNOWN else stated


def _known(stated: object) -> str:
    return stated if isinstance(stated, str) and _NAME.fullmatch(stated) else UNKNOWN
