"""Documents and archives that name a file outside the corpus, to be read with it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from tests.hostile.files import (
    BODY,
    GOOD,
    STORY,
    HostileFile,
    docx,
    epub,
    mail,
    odt,
    opf,
    pdf,
    tarred,
    zipped,
)


def make_climbers(canary: Path) -> tuple[HostileFile, ...]:
    """Return documents and archives that name the file ``canary``, which lies in the folder above
    theirs: its text may be nowhere in what they give.
    """
    address, above = canary.as_uri(), f"../{canary.name}"
    entity = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "{address}">]>'
    parameter = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY % p SYSTEM "{address}"> %p;]>'
    relations = (
        f'<Relationships><Relationship Id="a" Target="{above}" Type="x/officeDocument"/>'
        "</Relationships>"
    )
    tags = f"<iframe src={address}></iframe><object data={above}></object><img src={address}>"
    external = (
        f"Content-Type: message/external-body; access-type=local-file; name={canary}\n\n"
        f"Content-Type: text/plain\n\n"
    )
    link = zipfile.ZipInfo("a.txt")
    link.external_attr = 0o120777 << 16
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(link, str(canary))
        archive.writestr("b.txt", GOOD)
    document = pdf(
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 99 99] /Contents 4 0 R >>",
        f"<< /Length 0 /F ({canary}) >> stream\n\nendstream",
    )
    good = f"<p>{STORY}</p>"
    climbing = [("a", None, str(canary)), ("c", None, above), ("b.txt", GOOD, "")]
    return (
        HostileFile("HTML that includes a file", ".html", f"{good}{tags}".encode(), "read"),
        HostileFile(
            "a file as an entity in XHTML", ".xhtml", f"{entity}{good}<p>&e;</p>".encode(), "read"
        ),
        HostileFile(
            "Markdown that includes a file", ".md", f"{STORY} ![a]({address})".encode(), "read"
        ),
        HostileFile(
            "RTF that includes a file",
            ".rtf",
            rf'{{\rtf1 {STORY} {{\field{{\*\fldinst INCLUDETEXT "{canary}"}}}}}}'.encode(),
            "read",
        ),
        HostileFile("a PDF whose text lies outside", ".pdf", document, "no_text_layer"),
        HostileFile(
            "a file as an entity in a .docx",
            ".docx",
            docx(entity + BODY.format(f"{STORY} &e;")),
            "damaged",
        ),
        HostileFile(
            "a file of entities in a .docx",
            ".docx",
            docx(parameter + BODY.format(STORY)),
            "damaged",
        ),
        HostileFile(
            "a .docx whose part lies outside",
            ".docx",
            docx(BODY.format(STORY), target=above),
            "damaged",
        ),
        HostileFile(
            "a presentation that begins outside",
            ".pptx",
            zipped(("_rels/.rels", relations.encode())),
            "damaged",
        ),
        HostileFile("a file as an entity in an .odt", ".odt", odt(entity, "&e;"), "damaged"),
        HostileFile("an .epub whose page lies outside", ".epub", epub(opf(above), good), "damaged"),
        HostileFile(
            "a file as an entity in an .epub",
            ".epub",
            epub(opf("a.xhtml"), f"{entity}<html><body>{good}<p>&e;</p></body></html>"),
            "read",
        ),
        HostileFile("a message whose body is a file", ".eml", mail(external, STORY), "empty"),
        HostileFile("links in an archive", ".tar", tarred(*climbing), "read link"),
        HostileFile(
            "a link in a .zip, which is read as a text", ".zip", buffer.getvalue(), "read too_short"
        ),
    )
