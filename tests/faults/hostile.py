"""Templates and documents that strangers wrote to do harm: cut off within their limits, nothing
reached, the others none the worse.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from pathlib import Path
from random import Random

from bonito.templating.templates import PromptTemplate
from bonito.templating.workers import Renderers, RenderJob, RenderLimits
from tasks.ingest.reasons import REASONS
from tests.bonito.test_workers import GOOD, HOSTILE, PASSAGE
from tests.faults.settings import set_parameter
from tests.faults.world import World, log_of, none_left, run
from tests.hostile.climbers import make_climbers
from tests.hostile.files import mutate
from tests.hostile.formats import FILES

_SECRET = "CANARY-5d41402a"
#: Files of the hostile suite in one trial.
_PIECE = 8
_REACHING = (
    "{{ text }}{{ text.__init__.__globals__ }} ||| x",
    "{{ text }}{{ cycler.__init__.__globals__.os.system('touch " + "%s') }} ||| x",
    "{{ text }}{{ ''.__class__.__base__.__subclasses__() }} ||| x",
    "{% include '/etc/passwd' %}{{ text }} ||| x",
    "{{ text }}{{ text.format.__func__ }} ||| x",
    "{{ text }}{{ '{0.__class__}'.format(text) }} ||| x",
    "{% import 'os' as os %}{{ text }} ||| x",
)


def template(world: World, chance: Random) -> str:
    """One hostile template between two good ones."""
    canary = world.folder / "canary"
    jinja, wanted = chance.choice(
        [*HOSTILE.values(), *((text.replace("%s", str(canary)), "") for text in _REACHING)]
    )
    templates = [
        PromptTemplate("toy", "", "good", GOOD),
        PromptTemplate("toy", "", "hostile", jinja),
    ]
    row = {"text": PASSAGE, "answer": "1931"}
    began = time.monotonic()
    with Renderers(
        templates, {("toy", ""): "{{ text }}"}, RenderLimits(seconds=0.5, megabytes=128), 1, 1
    ) as renderers:
        first, bad, last = next(
            iter(
                renderers.map(
                    [[RenderJob(0, "a", row), RenderJob(1, "a", row), RenderJob(0, "b", row)]]
                )
            )
        )
    took = time.monotonic() - began
    if (first.status, last.status) != ("ok", "ok"):
        return f"{jinja!r}: the good ones are {first.status} and {last.status}"
    if bad.status == "ok" or (wanted and bad.status != wanted):
        return f"{jinja!r}: {bad.status}"
    return (
        "a file was touched" if canary.exists() else "" if took < 40 else f"{jinja!r}: {took:.0f} s"
    )


def document(world: World, chance: Random) -> str:
    """One hostile document among the good ones: at most a reject with a reason, every other passage as
    undisturbed, no secret read.
    """
    folder = world.trial("ingest")
    (folder / "secret").write_text(_SECRET)
    set_parameter(folder, "ingest.file_seconds", 5.0)
    kind = chance.choice(sorted(_DOCUMENTS))
    _DOCUMENTS[kind](folder / "corpus", folder / "secret", chance)
    return _read(world, folder, kind)


def suite(world: World, chance: Random) -> str:
    """A piece of the hostile suite among the good documents, half of it with bytes changed."""
    folder = world.trial("ingest")
    (folder / "secret").write_text(_SECRET)
    set_parameter(folder, "ingest.file_seconds", 5.0)
    set_parameter(folder, "ingest.max_file_mb", 2)
    files = chance.sample([*FILES, *make_climbers(folder / "secret")], _PIECE)
    for number, file in enumerate(files):
        content = mutate(file.content, chance) if number % 2 else file.content
        (folder / f"corpus/z{number}{file.suffix}").write_bytes(content)
    return _read(world, folder, ", ".join(file.name for file in files))


def _read(world: World, folder: Path, kind: str) -> str:
    """Let ingest read a corpus with hostile files; return what is wrong with what it makes."""
    began = time.monotonic()
    status = run(folder, "ingest")
    took = time.monotonic() - began
    if status or took > 60:
        return f"{kind}: status {status} after {took:.0f} s: {log_of(folder)[-300:]}"
    from tasks.core.parquet import read_table

    def column(place: Path, table: str, name: str) -> set[str]:
        path = place / f"artifacts/ingest/{table}.parquet"
        return set(read_table(path).column(name).to_pylist())

    found, wanted = (column(place, "passages", "text") for place in (folder, world.reference))
    if not wanted <= found:
        return f"{kind}: passages of other documents are gone"
    details = column(folder, "rejects", "detail")
    if any(_SECRET in text for text in (*found, *details, log_of(folder))):
        return f"{kind}: a file outside the corpus was read"
    if unknown := column(folder, "rejects", "reason") - REASONS.keys():
        return f"{kind}: rejects say {sorted(unknown)}"
    if not none_left(folder):
        return f"{kind}: a process is left"
    shutil.rmtree(folder)
    return ""


def _bomb(corpus: Path, secret: Path, chance: Random) -> None:
    with zipfile.ZipFile(corpus / "bomb.docx", "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("word/document.xml", "w", force_zip64=True) as part:
            for _ in range(400):
                part.write(b"\0" * (1 << 20))


def _entities(corpus: Path, secret: Path, chance: Random) -> None:
    lol = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    xml = (
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{lol}<!ENTITY f SYSTEM '
        f'"file://{secret}">]><html><body><p>&f; &l9;</p></body></html>'
    )
    (corpus / chance.choice(("entities.html", "entities.xhtml"))).write_text(xml)
    with zipfile.ZipFile(corpus / "entities.docx", "w") as archive:
        archive.writestr("word/document.xml", xml)


def _link(corpus: Path, secret: Path, chance: Random) -> None:
    (corpus / "link.txt").symlink_to(secret)


def _deep(corpus: Path, secret: Path, chance: Random) -> None:
    (corpus / "deep.html").write_text("<div>" * 200_000)
    (corpus / "deep.json").write_text("[" * 200_000)
    (corpus / "deep.jsonl").write_text('{"text": ' + "[" * 200_000)


def _broken_pdf(corpus: Path, secret: Path, chance: Random) -> None:
    body = (
        b"%PDF-1.7\n"
        + chance.randbytes(5000)
        + f"\n1 0 obj<</Type/Catalog/Pages 1 0 R/Kids[1 0 R]/F(file://{secret})>>endobj\n".encode()
    )
    (corpus / "broken.pdf").write_bytes(body + b"trailer<</Root 1 0 R>>\nstartxref\n0\n%%EOF")


def _climbing(corpus: Path, secret: Path, chance: Random) -> None:
    with zipfile.ZipFile(corpus / "climbing.zip", "w") as archive:
        archive.writestr("../../../escaped.txt", "text " * 50)
        archive.writestr("/tmp/escaped.txt", "text " * 50)


def _names(corpus: Path, secret: Path, chance: Random) -> None:
    (corpus / "a\nb$(touch x);'\".txt").write_text("")
    (corpus / "json.jsonl").write_text(json.dumps({"text": "\ud800"}) + "\n{bad\n")


_DOCUMENTS = {
    "bomb": _bomb,
    "entities": _entities,
    "link": _link,
    "deep": _deep,
    "pdf": _broken_pdf,
    "climbing": _climbing,
    "names": _names,
}
