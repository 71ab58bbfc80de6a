"""The base of every page: one header, one style sheet, light and dark, no network.

A page that is written runs no script. A page of a server of ours may name one of that server's.

A page is a template that extends ``base.html`` (``tasks/core/templates``) and fills its blocks.
All values are escaped, and an unknown name is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tasks.core.files import atomic_path

_TEMPLATES = Path(__file__).parent / "templates"
#: A page with a head only.
BASE = _TEMPLATES / "base.html"
PRODUCT = "bonito-pipeline"
#: Name and stage of the pages that a run leaves, in the order in which they are written.
STAGE_PAGES = (
    ("Ingest", "ingest"),
    ("Validation", "validate"),
    ("Verification", "verify"),
    ("Evaluation", "evaluate"),
)
#: Pieces of a template per write.
_BUFFERED = 256


@dataclass(frozen=True)
class Tile:
    """A key figure at the head of a page; ``tone`` is good, bad, warn or empty (style.css)."""

    name: str
    value: str
    note: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Page:
    """The head of a page: ``facts`` are (name, value), ``links`` (name, relative address), whose
    address is empty for the page itself.

    ``script`` is the address of a served page's script, on the same server.
    """

    title: str
    lead: str = ""
    tiles: Sequence[Tile] = ()
    facts: Sequence[tuple[str, str]] = ()
    links: Sequence[tuple[str, str]] = ()
    script: str = ""


def stage_links(own: str, up: str = "") -> list[tuple[str, str]]:
    """Return the links of the page of the stage ``own``, or of a page below its folder, which
    ``up`` (``../``) leads to. They are the same on every page of a run.

    A later page is not there yet: its name says when it will be, and the bytes do not depend on
    whether it is.
    """
    stages = [stage for _, stage in STAGE_PAGES]
    return [
        (
            f"{name} (after {stage})" if stages.index(stage) > stages.index(own) else name,
            f"{up}../{stage}/report.html" if stage != own or up else "",
        )
        for name, stage in STAGE_PAGES
    ]


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share in 0-1 as a percentage, empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f} %"


def number(value: float | None, digits: int = 0) -> str:
    """Return a number with thousands separators, empty for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def render(template: Path, page: Page, **values: Any) -> Iterator[str]:
    """Yield the page in pieces. An iterator among ``values`` is read while the page is written."""
    stream = _environment(template.parent).get_template(template.name).stream(page=page, **values)
    stream.enable_buffering(_BUFFERED)
    yield from stream
    yield "\n"


def write_page(path: Path, template: Path, page: Page, **values: Any) -> None:
    """Write a page in bounded memory, whole or not at all."""
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(render(template, page, **values))


@cache
def _environment(folder: Path) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([folder, _TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent}
    environment.globals["product"] = PRODUCT
    return environment
