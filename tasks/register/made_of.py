"""What an adapter was made of: base, generator, reader, start and given rows, with the licence of
each, and what those licences come to together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.core.files import read_json
from tasks.core.sections.finetune import Finetune
from tasks.core.stage import Stage
from tasks.lm.licence import UNKNOWN, hub_name, licence_of

#: Licences that ask for no more than a notice, from the freest on: beside them another one binds.
_FREE = (
    *("cc0-1.0", "unlicense", "0bsd", "mit", "isc", "bsd-2-clause", "bsd-3-clause"),
    *("apache-2.0", "cc-by-4.0"),
)
#: The hub's word for a licence that nobody stated.
_UNSTATED = "unknown"
_OTHER = "other"
#: A licence as :func:`tasks.lm.licence.licence_of` gives it: an identifier, or ``other: name``.
_LICENCE = re.compile(r"[^\s:]+|other: [^\s:]+")


@dataclass(frozen=True)
class Part:
    """A part of an adapter: ``name`` is shown, ``page`` is its address on the hub or empty."""

    kind: str
    name: str
    licence: str
    page: str = ""


def list_parts(stage: Stage, provenance: dict[str, Any]) -> Iterator[Part]:
    """Yield the models and the given rows that the adapter was made of."""
    params, base, revision = stage.params, provenance["base"], provenance["revision"]
    at = f", commit {revision}" if hub_name(base) == base else ""
    yield _part("base", base, at, licence_of(base, revision))
    if identity := read_json(stage.path("generate"))["generator"]:
        name = params.generate.generator
        yield _part("generator", name, _state(identity), licence_of(name, params.generate.revision))
    for identity in read_json(stage.path("verify") / "summary.json")["readers"]:
        name = params.verify.reader
        yield _part("reader", name, _state(identity), licence_of(name))
    if start := _start(params.finetune, provenance):
        digest = f" (sha256 {provenance['start'][:12]})"
        continues = provenance.get("champion", {}).get("continues")
        licence = "as its own card says" if continues else licence_of(start)
        yield _part("start", start, digest, licence)
    if given := params.supervise.mix.given:  # a file that states no licence
        yield Part("rows", f"{shown_model(params.supervise.rows)} ({given})", UNKNOWN)


def join_licences(parts: list[Part]) -> dict[str, str]:
    """Return the hub's ``license`` for what is made of the parts, the strictest of theirs; several
    that bind are ``other`` with a ``license_name`` that lists them. A ``license_link`` is the page
    of the one part that an ``other`` comes from.
    """
    stated = {
        part.licence if _LICENCE.fullmatch(part.licence) else _UNSTATED: part for part in parts
    }
    binding = sorted(licence for licence in stated if licence not in _FREE)
    if not binding:
        return {"license": max(stated, key=_FREE.index)}
    names = [licence.removeprefix("other: ") for licence in binding]
    if len(binding) > 1:
        return {"license": _OTHER, "license_name": "-and-".join(names)}
    if names == binding:
        return {"license": binding[0]}
    link = {"license_link": page} if (page := stated[binding[0]].page) else {}
    return {"license": _OTHER, "license_name": names[0], **link}


def shown_model(name: str) -> str:
    """Return a model's name without the place of a folder, which may be private."""
    path = Path(name)
    if not name.startswith((".", "/", "~")) and not path.exists():
        return name
    return f"the {'file' if path.is_file() else 'folder'} {path.name}"


def _part(kind: str, name: str, state: str, licence: str) -> Part:
    on_hub = hub_name(name) == name
    page = f"https://huggingface.co/{name}" if on_hub else ""
    return Part(kind, shown_model(name) + state, licence, page)


def _state(identity: str) -> str:
    """Return what tells a model's present state from another, of its identity: a hub model's
    commit, the digest of a folder; nothing of a model behind an address.
    """
    if commit := re.fullmatch(r"[^@]+@([0-9a-f]{40})", identity):
        return f", commit {commit[1]}"
    digest = re.match(r"sha256:([0-9a-f]{12})", identity)
    return f" (sha256 {digest[1]})" if digest else ""


def _start(params: Finetune, provenance: dict[str, Any]) -> str:
    """Return the adapter that the training started from; empty for a new one."""
    if not provenance["start"]:
        return ""
    champion = provenance.get("champion")
    if not champion:
        return params.start
    if not champion["continues"]:
        return params.restart
    return f"{champion['name']} version {champion['version']}, the champion before"
