"""Documents and archives that are out to hurt: name, content, and what must come of each.

The verdict is the set of what a file gives: ``read`` where it has passages, and its rejects'
reasons (:data:`tasks.ingest.reasons.REASONS`).
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import warnings
import zipfile
from dataclasses import dataclass
from random import Random

STORY = "The pump was stopped at noon. Its bearing had run hot since Monday."
GOOD = STORY.encode()


@dataclass(frozen=True)
class HostileFile:
    """``suffix`` is the file's; ``verdict`` is its outcomes, separated by spaces."""

    name: str
    suffix: str
    content: bytes
    verdict: str


def zipped(*members: tuple[str, bytes]) -> bytes:
    """Return a ZIP archive; names may repeat."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore", UserWarning)  # of a name that repeats
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def tarred(*members: tuple[str, bytes | None, str]) -> bytes:
    """Return a TAR archive of (name, data, target of a link); without data a link or a device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data, target in members:
            entry = tarfile.TarInfo(name)
            if data is None:
                entry.type, entry.linkname = (
                    (tarfile.SYMTYPE, target) if target else (tarfile.CHRTYPE, "")
                )
                archive.addfile(entry)
            else:
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def mutate(content: bytes, random: Random) -> bytes:
    """Return ``content`` with some of its bytes changed, cut out or doubled."""
    data = bytearray(content)
    for _ in range(random.randint(1, 20)):
        place = random.randrange(len(data) + 1)
        end = min(len(data), place + random.randint(1, 40))
        part = data[place:end]
        data[place:end] = random.choice([random.randbytes(len(part)), b"", part * 2])
    return bytes(data)


def docx(document: str, **parts: str) -> bytes:
    """Return a .docx with this ``word/document.xml``."""
    types = (
        '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/'
        'content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-'
        'package.relationships+xml"/><Override PartName="/word/document.xml" ContentType='
        '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>'
        "</Types>"
    )
    rels = (
        '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/'
        'relationships"><Relationship Id="r1" Type="http://schemas.openxmlformats.org/'
        'officeDocument/2006/relationships/officeDocument" Target="{target}"/></Relationships>'
    ).replace("{target}", parts.pop("target", "word/document.xml"))
    members = {"[Content_Types].xml": types, "_rels/.rels": rels, "word/document.xml": document}
    return zipped(*((name, text.encode()) for name, text in {**members, **parts}.items()))


_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
#: ``word/document.xml`` with a place for its text.
BODY = f"<w:document {_W}><w:body><w:p><w:r><w:t>{{}}</w:t></w:r></w:p></w:body></w:document>"
_LAUGHS = "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi")
)
_BOMB = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">{_LAUGHS}]>'
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)


def odt(head: str, text: str) -> bytes:
    """Return an .odt with this text, behind ``head``."""
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "text")
    )
    content = (
        f"{head}<office:document-content {spaces}><office:body><office:text><text:p>{text}"
        "</text:p></office:text></office:body></office:document-content>"
    )
    return zipped(("content.xml", content.encode()))


def epub(opf: str, page: str, page_name: str = "a.xhtml") -> bytes:
    """Return an .epub of one page."""
    container = '<container><rootfiles><rootfile full-path="b.opf"/></rootfiles></container>'
    return zipped(
        ("mimetype", b"application/epub+zip"),
        ("META-INF/container.xml", container.encode()),
        ("b.opf", opf.encode()),
        (page_name, page.encode()),
    )


def opf(href: str) -> str:
    """Return the list of an .epub whose page is ``href``."""
    return (
        f'<package><manifest><item id="a" href="{href}" media-type="application/xhtml+xml"/>'
        '</manifest><spine><itemref idref="a"/></spine></package>'
    )


def mail(headers: str, body: str) -> bytes:
    """Return a message."""
    return f"From: a@b\nSubject: Pump\n{headers}\n\n{body}".encode()


def _nested(depth: int) -> bytes:
    data = zipped(("a.txt", GOOD))
    for _ in range(depth):
        data = zipped(("in.zip", data))
    return data


def pdf(*objects: str) -> bytes:
    """Return a PDF of these objects."""
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    end = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    return data + f"xref\n0 {size}\n0000000000 65535 f \n{table}{end}".encode()


_ROWS = [json.dumps({"text": f"{STORY} Row {n}."}) for n in range(3)]
_LONG = "a" * (3 << 20)

FILES = (
    # --- text and encodings
    HostileFile("nothing in it", ".txt", b"", "empty"),
    HostileFile("white space", ".txt", b" \n\t\n" * 99, "empty"),
    HostileFile("zero bytes", ".txt", bytes(4096), "empty"),
    HostileFile("noise", ".txt", bytes(range(256)) * 64, "binary"),
    HostileFile("a program", ".exe", b"MZ\x90\0" + bytes(999), "unsupported_format"),
    HostileFile("control characters", ".txt", b"\x1b[2J\x07\x08" + GOOD, "read"),
    HostileFile("text from right to left", ".txt", f"\u202e{STORY}\u202c".encode(), "read"),
    HostileFile("half a character", ".txt", GOOD + b"\xf0\x9f", "unknown_encoding"),
    HostileFile("a surrogate", ".txt", GOOD + b"\xed\xa0\x80", "read"),
    HostileFile(
        "odd UTF-16", ".txt", b"\xff\xfe" + STORY.encode("utf-16-le") + b"a", "unknown_encoding"
    ),
    HostileFile("UTF-32", ".txt", b"\0\0\xfe\xff" + STORY.encode("utf-32-be"), "read"),
    HostileFile("a byte order mark alone", ".txt", b"\xef\xbb\xbf", "empty"),
    HostileFile("one long word", ".txt", _LONG.encode(), "too_large"),
    HostileFile("old line ends", ".txt", GOOD.replace(b" ", b"\r"), "read"),
    HostileFile("many combining marks", ".txt", (STORY + "e" + "\u0301" * 9999).encode(), "read"),
    HostileFile("no suffix", "", GOOD, "read"),
    HostileFile("a suffix of a thousand letters", "." + "x" * 200, GOOD, "read"),
    # --- markup
    HostileFile("deep HTML", ".html", b"<div>" * 9999 + GOOD, "empty"),
    HostileFile("a script", ".html", b"<p>" + GOOD + b"<script>alert(1)</script>", "read"),
    HostileFile("HTML of comments", ".html", b"<!--" * 9999, "empty"),
    HostileFile(
        "HTML with an unknown charset", ".html", b"<meta charset=undefined><p>" + GOOD, "read"
    ),
    HostileFile("deep lists", ".md", b"- " * 5000 + GOOD, "read"),
    HostileFile("deep quotes", ".md", b"> " * 5000 + GOOD, "read"),
    HostileFile("headings alone", ".md", b"# A\n" * 5000, "empty"),
    HostileFile("an open fence", ".md", b"```\n" + GOOD, "read"),
    HostileFile("deep RTF", ".rtf", b"{\\rtf1" + b"{" * 9999 + GOOD, "read"),
    HostileFile(
        "RTF with a huge number", ".rtf", b"{\\rtf1\\u99999999999 x " + GOOD + b"}", "damaged"
    ),
    # --- PDF
    HostileFile("a PDF's name alone", ".pdf", GOOD, "damaged"),
    HostileFile("a PDF's head alone", ".pdf", b"%PDF-1.7\n", "damaged"),
    HostileFile(
        "a PDF in a ring",
        ".pdf",
        pdf("<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [2 0 R] /Count 1 >>"),
        "damaged",
    ),
    HostileFile(
        "a PDF of a billion pages",
        ".pdf",
        pdf("<< /Type /Catalog /Pages 2 0 R >>", "<< /Type /Pages /Kids [] /Count 999999999 >>"),
        "damaged",
    ),
    HostileFile(
        "a PDF that opens a page",
        ".pdf",
        pdf(
            "<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /URI /URI (http://127.0.0.1:1/) >> >>",
            "<< /Type /Pages /Kids [] /Count 0 >>",
        ),
        "damaged",
    ),
    # --- Office
    HostileFile(
        "entities in entities in a .docx", ".docx", docx(_BOMB + BODY.format("&i;")), "damaged"
    ),
    HostileFile("a .docx without a document", ".docx", zipped(("a.xml", b"<a/>")), "damaged"),
    HostileFile("a .docx of no XML", ".docx", docx("<w:document"), "damaged"),
    HostileFile("a deep .docx", ".docx", docx(f"<w:document {_W}>" + "<w:p>" * 9999), "damaged"),
    HostileFile(
        "an old Office file",
        ".doc",
        _OLE,
        "unsupported_format",
    ),
    HostileFile("a workbook of no XML", ".xlsx", zipped(("xl/workbook.xml", b"<a")), "damaged"),
    HostileFile("a workbook with a password", ".xlsx", _OLE, "encrypted"),
    HostileFile("a presentation with a password", ".pptx", _OLE, "encrypted"),
    HostileFile("an old presentation", ".ppt", _OLE, "unsupported_format"),
    HostileFile("entities in entities in an .odt", ".odt", odt(_BOMB, "&i;"), "damaged"),
    HostileFile("a deep .odt", ".odt", odt("", "<text:span>" * 9999), "damaged"),
    HostileFile(
        "an .odt of spaces", ".odt", odt("", f'{STORY}<text:s text:c="99999999"/>'), "read"
    ),
    HostileFile("an .odt that is a bomb", ".odt", odt("", " " * (9 << 20)), "too_large"),
    HostileFile(
        "an .epub with an entity bomb",
        ".epub",
        epub(_BOMB + opf("a.xhtml"), f"<p>{STORY}</p>"),
        "read",
    ),
    HostileFile(
        "an .epub without a spine", ".epub", epub("<package/>", f"<p>{STORY}</p>"), "empty"
    ),
    # --- tables
    HostileFile(
        "a row that is no object",
        ".jsonl",
        f"{_ROWS[0]}\n[1]\n{_ROWS[1]}\n".encode(),
        "read damaged",
    ),
    HostileFile(
        "half a row", ".jsonl", f'{_ROWS[0]}\n{{"text": "a\n{_ROWS[1]}\n'.encode(), "read damaged"
    ),
    HostileFile(
        "a deep row",
        ".jsonl",
        f"{_ROWS[0]}\n{'[' * 99999}\n{_ROWS[1]}\n".encode(),
        "nested_too_deep read",
    ),
    HostileFile(
        "a row of a half character",
        ".jsonl",
        f'{_ROWS[0]}\n{{"text": "\\ud800 a b c"}}\n'.encode(),
        "read too_short",
    ),
    HostileFile(
        "a row with a huge number",
        ".jsonl",
        f'{_ROWS[0]}\n{{"text": 1{"0" * 5000}}}\n'.encode(),
        "read damaged",
    ),
    HostileFile(
        "a row without its column",
        ".jsonl",
        f'{_ROWS[0]}\n{{"other": 1}}\n'.encode(),
        "read no_text_column",
    ),
    HostileFile(
        "a row longer than a file",
        ".jsonl",
        f'{_ROWS[0]}\n{{"text": "{_LONG}"}}\n{_ROWS[1]}\n'.encode(),
        "read too_large",
    ),
    HostileFile("a formula", ".csv", b"text\n=cmd|' /C calc'!A0 " + GOOD + b"\n", "read"),
    HostileFile("an open quote", ".csv", b'text\n"' + GOOD, "read"),
    HostileFile("zero bytes in a table", ".csv", b"text\n" + GOOD + b"\0\n", "binary"),
    HostileFile(
        "another number of cells", ".csv", b"text,b\n" + GOOD + b"\n" + GOOD + b",1,2,3\n", "read"
    ),
    HostileFile("a Parquet file's head", ".parquet", b"PAR1" + bytes(99) + b"PAR1", "damaged"),
    HostileFile("an Arrow file's head", ".arrow", b"ARROW1\0\0" + bytes(99), "damaged"),
    # --- messages
    HostileFile(
        "a message without an end",
        ".eml",
        mail("Content-Type: multipart/mixed; boundary=x", f"--x\n\n{STORY}"),
        "read",
    ),
    HostileFile(
        "a message of an unknown charset",
        ".eml",
        mail("Content-Type: text/plain; charset=zz", STORY),
        "read",
    ),
    HostileFile(
        "a message of bad base64",
        ".eml",
        mail("Content-Transfer-Encoding: base64", "!!!!"),
        "empty",
    ),
    HostileFile(
        "a message of the charset undefined",
        ".eml",
        mail("Content-Type: text/plain; charset=undefined", STORY),
        "read",
    ),
    HostileFile("no message", ".eml", b"\n\n" + GOOD, "damaged"),
    HostileFile(
        "an attachment named outside",
        ".eml",
        mail(
            "Content-Type: multipart/mixed; boundary=x",
            f"--x\n\n{STORY}\n--x\nContent-Disposition: attachment; filename=../../../x.txt\n\n{STORY} Again.\n--x--",
        ),
        "read",
    ),
    HostileFile(
        "a thousand parts",
        ".eml",
        mail(
            "Content-Type: multipart/mixed; boundary=x",
            f"--x\n\n{STORY}\n" + "--x\nContent-Disposition: attachment\n\n\n" * 1000 + "--x--",
        ),
        "read empty",
    ),
    HostileFile("a mailbox of beginnings", ".mbox", b"From a\n\n" * 9999, "damaged"),
    HostileFile(
        "a mailbox with a message without an end",
        ".mbox",
        b"From a\n"
        + mail("Content-Type: multipart/mixed; boundary=x", f"--x\n\n{STORY}\n")
        + b"\nFrom b\n"
        + mail("", f"{STORY} Again."),
        "read",
    ),
    # --- notebooks and XML
    HostileFile("a deep notebook", ".ipynb", b'{"cells":' * 99999, "nested_too_deep"),
    HostileFile("half a notebook", ".ipynb", b'{"cells": [{"cell_type": "mark', "damaged"),
    HostileFile(
        "entities in entities in XML", ".xml", f"{_BOMB}<x>&i;</x>".encode(), "unsupported_format"
    ),
    HostileFile("XML of comments", ".xml", b"<!--" * 9999, "unsupported_format"),
    # --- archives
    HostileFile("an empty archive", ".zip", zipped(), "empty"),
    HostileFile("an archive's head", ".zip", b"PK\x03\x04" + bytes(50), "damaged"),
    HostileFile(
        "members named outside",
        ".zip",
        zipped(("../../up.txt", GOOD), ("/etc/x.txt", GOOD + b" b")),
        "read",
    ),
    HostileFile(
        "a member named by a device",
        ".zip",
        zipped(("con.txt", GOOD), ("C:\\x.txt", GOOD + b" b")),
        "read",
    ),
    HostileFile("one name twice", ".zip", zipped(("a.txt", GOOD), ("a.txt", GOOD + b" b")), "read"),
    HostileFile("a member with a long name", ".zip", zipped(("a" * 60000 + ".txt", GOOD)), "read"),
    HostileFile(
        "a member with line ends in its name", ".zip", zipped(("a\nb\r.txt", GOOD)), "read"
    ),
    HostileFile(
        "a member that is a bomb",
        ".zip",
        zipped(("1.txt", bytes(9 << 20)), ("2.txt", GOOD)),
        "read too_large",
    ),
    HostileFile(
        "many small bombs",
        ".zip",
        zipped(*((f"{n}.txt", b"a b " * (1 << 18)) for n in range(12))),
        "read too_large",
    ),
    HostileFile("archives in archives", ".zip", _nested(9), "nested_too_deep"),
    HostileFile(
        "an archive beside a good file",
        ".zip",
        zipped(("a.zip", _nested(9)), ("b.txt", GOOD)),
        "read nested_too_deep",
    ),
    HostileFile(
        "bombs in archives in archives",
        ".zip",
        zipped(
            *(
                (
                    f"{n}.zip",
                    zipped(*((f"{m}.zip", zipped(("b", bytes(1 << 20)))) for m in range(9))),
                )
                for n in range(3)
            ),
            ("z.txt", GOOD),
        ),
        "read too_large unsupported_format",
    ),
    HostileFile("hidden members", ".zip", zipped((".a.txt", GOOD), ("b.txt", GOOD)), "read hidden"),
    HostileFile(
        "a broken document in an archive",
        ".zip",
        zipped(("a.docx", docx("<")), ("b.txt", GOOD)),
        "read damaged",
    ),
    HostileFile(
        "a device in an archive", ".tar", tarred(("a", None, ""), ("b.txt", GOOD, "")), "read link"
    ),
    HostileFile(
        "a file through a link",
        ".tar",
        tarred(("d", None, "/tmp"), ("d/x.txt", GOOD, "")),
        "read link",
    ),
    HostileFile(
        "members of a .tar outside",
        ".tar",
        tarred(("../../x.txt", GOOD, ""), ("/x.txt", GOOD + b" b", "")),
        "read",
    ),
    HostileFile("half a .tar", ".tar", tarred(("a.txt", GOOD * 99, ""))[:900], "damaged"),
    HostileFile(
        "a .tar.gz that is a bomb",
        ".tar.gz",
        gzip.compress(tarred(("a.txt", bytes(9 << 20), ""), ("b.txt", GOOD, ""))),
        "read too_large",
    ),
    HostileFile("a gzip bomb", ".txt.gz", gzip.compress(b"a " * (5 << 20)), "too_large"),
    # One letter, as bzip2 takes a second to compress two that alternate.
    HostileFile("a bzip2 bomb", ".txt.bz2", bz2.compress(b"a" * (10 << 20)), "too_large"),
    HostileFile("an xz bomb", ".txt.xz", lzma.compress(b"a " * (5 << 20)), "too_large"),
    HostileFile("a gzip in a gzip", ".txt.gz.gz", gzip.compress(gzip.compress(GOOD)), "read"),
    HostileFile("half a gzip", ".txt.gz", gzip.compress(GOOD * 99)[:40], "damaged"),
    HostileFile(
        "a gzip with rubbish behind", ".txt.gz", gzip.compress(GOOD) + b"rubbish", "damaged"
    ),
    HostileFile("a .zip called .txt", ".txt", zipped(("a.txt", GOOD)), "read"),
    HostileFile("a text called .zip", ".zip", GOOD, "damaged"),
)
