"""More documents and archives that are out to hurt, format by format: what its parser trusts."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.feather import write_feather

from tests.hostile import files
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
    zipped,
)

_MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/"


def workbook(rows: str, book: str = "") -> bytes:
    """Return an .xlsx of one sheet with these rows, or with this ``xl/workbook.xml``."""
    types = "".join(
        f'<Override PartName="/xl/{part}" ContentType="application/vnd.openxmlformats-'
        f'officedocument.spreadsheetml.{kind}+xml"/>'
        for part, kind in (("workbook.xml", "sheet.main"), ("worksheets/sheet1.xml", "worksheet"))
    )
    plain = (
        f'<workbook xmlns="{_MAIN}" xmlns:r="{_OFFICE}"><sheets>'
        '<sheet name="A" sheetId="1" r:id="r1"/></sheets></workbook>'
    )

    def relate(kind: str, target: str) -> bytes:
        relation = f'<Relationship Id="r1" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        return f'<Relationships xmlns="{_PACKAGE}relationships">{relation}</Relationships>'.encode()

    sheet = f'<worksheet xmlns="{_MAIN}"><sheetData>{rows}</sheetData></worksheet>'
    return zipped(
        (
            "[Content_Types].xml",
            f'<Types xmlns="{_PACKAGE}content-types"><Default Extension="rels" ContentType="'
            'application/vnd.openxmlformats-package.relationships+xml"/>'
            f"{types}</Types>".encode(),
        ),
        ("_rels/.rels", relate("officeDocument", "xl/workbook.xml")),
        ("xl/workbook.xml", (book or plain).encode()),
        ("xl/_rels/workbook.xml.rels", relate("worksheet", "worksheets/sheet1.xml")),
        ("xl/worksheets/sheet1.xml", sheet.encode()),
    )


def _cell(place: str, text: str = STORY) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


def _tar(first: tarfile.TarInfo, data: bytes = b"") -> bytes:
    """Return a TAR archive of this member and a good one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        good = tarfile.TarInfo("good.txt")
        first.size, good.size = len(data), len(GOOD)
        archive.addfile(first, io.BytesIO(data))
        archive.addfile(good, io.BytesIO(GOOD))
    return buffer.getvalue()


def _pax(data: bytes = b"One more. " + GOOD, **headers: str) -> bytes:
    member = tarfile.TarInfo("a.txt")
    member.pax_headers = headers
    return _tar(member, data)


def _of_type(kind: bytes, target: str = "") -> bytes:
    member = tarfile.TarInfo("a.txt")
    member.type, member.linkname = kind, target
    return _tar(member)


def _sparse() -> bytes:
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "a.txt",
        "GNU.sparse.realsize": str(1 << 45),
    }
    return _pax((b"1\n%d\n1\n" % ((1 << 45) - 1)).ljust(512, b"\0") + b"x", **headers)


def _one_for_all(count: int) -> bytes:
    """Return a ZIP archive whose members all have the same bytes."""
    raw = GOOD + b" x" * 400_000
    pack = zlib.compressobj(9, zlib.DEFLATED, -15)
    data, name = pack.compress(raw) + pack.flush(), b"a.txt"
    sizes = (zlib.crc32(raw), len(data), len(raw))
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 8, 0, 0, *sizes, len(name), 0)
    names = [b"%05d.txt" % number for number in range(count)]
    entry = struct.pack("<IHHHHHHIII", 0x02014B50, 20, 20, 0, 8, 0, 0, *sizes)
    listed = b"".join(
        entry + struct.pack("<HHHHHII", len(one), 0, 0, 0, 0, 0, 0) + one for one in names
    )
    start = len(local) + len(name) + len(data)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(listed), start, 0)
    return local + name + data + listed + end


def _changed_zip(place: int, value: bytes, local: int = 0) -> bytes:
    """Return a ZIP archive of two members, the list's entry of the first one changed."""
    data = bytearray(zipped(("a.txt", GOOD), ("b.txt", GOOD + b" b")))
    entry = data.find(b"PK\x01\x02") + place
    data[entry : entry + len(value)] = value
    if local:
        data[local : local + len(value)] = value
    return bytes(data)


def _named_gzip(name: bytes) -> bytes:
    end = struct.pack("<II", zlib.crc32(GOOD), len(GOOD))
    head = b"\x1f\x8b\x08\x08\0\0\0\0\0\x03" + name + b"\0"
    return head + zlib.compress(GOOD)[2:-4] + end


def _in_parts(depth: int) -> bytes:
    parts = (f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(depth))
    return f"Subject: Pump\n{''.join(parts)}\n{STORY}".encode()


def _bomb(write: Callable[..., None], **options: Any) -> bytes:
    """Return a Parquet or Arrow file with one text of 12,000 letters in 5,000 rows."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), [GOOD.decode() * 180])
    buffer = io.BytesIO()
    write(pa.table({"text": text}), buffer, **options)
    return buffer.getvalue()


def _in_lzma() -> bytes:
    """Return a ZIP archive of a member that asks for a dictionary of 4 GB."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.txt", GOOD)
    data = bytearray(buffer.getvalue())
    place = 30 + len("a.txt") + 5  # behind the local header: version, size, one byte of properties
    data[place : place + 4] = b"\xff" * 4
    return bytes(data)


def _in_xz() -> bytes:
    """Return an .xz that asks for a dictionary of 4 GB."""
    data = bytearray(lzma.compress(GOOD, preset=0))
    end = 12 + (data[12] + 1) * 4  # of the block's header
    data[data.index(b"\x21\x01", 12) + 2] = 40  # filter LZMA2, one byte of properties
    data[end - 4 : end] = struct.pack("<I", zlib.crc32(data[12 : end - 4]))
    return bytes(data)


def _tar_head(kind: bytes, size: int) -> bytes:
    """Return the head of a member that says more of the next one, in ``size`` bytes."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def _slides(frames: int, text: str) -> bytes:
    """Return a .pptx of one slide that shows a diagram in so many frames."""
    kinds = ("presentationml/2006/main", "drawingml/2006/main", "drawingml/2006/diagram")
    spaces = " ".join(
        f'xmlns:{name}="http://schemas.openxmlformats.org/{kind}"'
        for name, kind in zip(("p", "a", "d"), kinds, strict=True)
    )
    spaces += f' xmlns:r="{_OFFICE}"'

    def relate(kind: str, target: str) -> bytes:
        relation = f'<Relationship Id="r1" Type="{_OFFICE}/{kind}" Target="{target}"/>'
        return f'<Relationships xmlns="{_PACKAGE}relationships">{relation}</Relationships>'.encode()

    frame = '<p:graphicFrame><d:relIds r:dm="r1"/></p:graphicFrame>'
    slide = f"<p:sld {spaces}><p:cSld><p:spTree>{frame * frames}</p:spTree></p:cSld></p:sld>"
    point = f"<d:pt><d:t><a:p><a:r><a:t>{text}</a:t></a:r></a:p></d:t></d:pt>"
    ids = '<p:sldIdLst><p:sldId id="1" r:id="r1"/></p:sldIdLst>'
    return zipped(
        ("_rels/.rels", relate("officeDocument", "ppt/p.xml")),
        ("ppt/p.xml", f"<p:presentation {spaces}>{ids}</p:presentation>".encode()),
        ("ppt/_rels/p.xml.rels", relate("slide", "s.xml")),
        ("ppt/s.xml", slide.encode()),
        ("ppt/_rels/s.xml.rels", relate("diagramData", "d.xml")),
        ("ppt/d.xml", f"<d:dataModel {spaces}><d:ptLst>{point}</d:ptLst></d:dataModel>".encode()),
    )


_CELLS = [None, 1, {"cell_type": ["a"], "source": {}}, {"cell_type": "markdown", "source": STORY}]
_EXTERNAL = "".join(
    f'<Relationship Id="r{n}" Type="{_OFFICE}/{kind}" Target="{target}" TargetMode="External"/>'
    for n, (kind, target) in enumerate(
        (("image", "file:///etc/passwd"), ("attachedTemplate", "http://127.0.0.1:1/"))
    )
)
_RELATED = {
    "word/_rels/document.xml.rels": f'<Relationships xmlns="{_PACKAGE}relationships">{_EXTERNAL}'
    "</Relationships>"
}

FILES = (
    *files.FILES,
    # --- workbooks
    HostileFile("the last cell", ".xlsx", workbook(f"<row>{_cell('XFD1048576')}</row>"), "read"),
    HostileFile(
        "a huge row", ".xlsx", workbook(f'<row r="{9**20}">{_cell("A1")}</row>'), "damaged"
    ),
    HostileFile(
        "a column that is none", ".xlsx", workbook(f"<row>{_cell('ZZZZZ1')}</row>"), "damaged"
    ),
    HostileFile(
        "a text that is none",
        ".xlsx",
        workbook('<row><c r="A1" t="s"><v>-1</v></c></row>'),
        "damaged",
    ),
    HostileFile(
        "a number beyond numbers",
        ".xlsx",
        workbook(f'<row r="1"><c r="A1"><v>1e99999</v></c>{_cell("B1")}</row>'),
        "read",
    ),
    HostileFile(
        "entities in a workbook",
        ".xlsx",
        workbook("", "<!DOCTYPE x [<!ENTITY a 'b'>]><workbook>&a;</workbook>"),
        "damaged",
    ),
    # --- Word, PDF, EPUB
    HostileFile("a .docx that calls home", ".docx", docx(BODY.format(STORY), **_RELATED), "read"),
    HostileFile(
        "a .docx in UTF-7",
        ".docx",
        docx('<?xml version="1.0" encoding="utf-7"?>' + BODY.format(STORY)),
        "read",
    ),
    HostileFile(
        "a PDF with a script",
        ".pdf",
        pdf(
            "<< /Type /Catalog /Pages 2 0 R /OpenAction << /S /JavaScript /JS (for(;;){}) >> >>",
            "<< /Type /Pages /Kids [] /Count 0 >>",
        ),
        "damaged",
    ),
    HostileFile(
        "a deep PDF", ".pdf", b"%PDF-1.4\n1 0 obj\n" + b"[" * 99_999 + b"\nendobj", "damaged"
    ),
    HostileFile(
        "a book that is its own chapter", ".epub", epub(opf("b.opf"), f"<p>{STORY}</p>"), "empty"
    ),
    HostileFile(
        "a chapter with a zero byte", ".epub", epub(opf("%2e%2e/%00"), f"<p>{STORY}</p>"), "damaged"
    ),
    HostileFile(
        "a diagram in a hundred frames", ".pptx", _slides(100, "a b " * 25_000), "too_large"
    ),
    HostileFile(
        "a heading of level 99,999,999",
        ".odt",
        odt("", f'</text:p><text:h text:outline-level="99999999">A</text:h><text:p>{STORY}'),
        "read",
    ),
    HostileFile(
        "a day that is none",
        ".xlsx",
        workbook('<row r="1"><c r="A1" t="d"><v>99999-99-99T99:99:99</v></c></row>'),
        "damaged",
    ),
    # --- archives
    HostileFile("a member with a dictionary of 4 GB", ".zip", _in_lzma(), "memory"),
    HostileFile("a dictionary of 4 GB", ".txt.xz", _in_xz(), "memory"),
    HostileFile(
        "a name of 8 GB", ".tar", _tar_head(tarfile.GNUTYPE_LONGNAME, (1 << 33) - 1), "damaged"
    ),
    HostileFile(
        "a header of 1 GB",
        ".tar.gz",
        gzip.compress(_tar_head(tarfile.XHDTYPE, 1 << 30) + bytes(9 << 20)),
        "too_large",
    ),
    HostileFile("one member for all", ".zip", _one_for_all(50), "damaged"),
    HostileFile("a size that is a lie", ".zip", _changed_zip(24, b"\xf0\xff\xff\xff"), "read"),
    HostileFile("a member with a password", ".zip", _changed_zip(8, b"\1", 6), "read encrypted"),
    HostileFile(
        "members without a name",
        ".zip",
        zipped(("", GOOD), (".", b"1. " + GOOD), ("..", GOOD), ("a/../../b.txt", b"3. " + GOOD)),
        "read hidden",
    ),
    HostileFile(
        "many empty members", ".zip", zipped(*((f"{n}.txt", b"") for n in range(999))), "empty"
    ),
    HostileFile("a hole of 32 TB", ".tar", _sparse(), "read too_large"),
    HostileFile("a size beyond the archive", ".tar", _pax(size="99999999999999"), "damaged"),
    HostileFile("a size below zero", ".tar", _pax(size="-5"), "empty"),
    HostileFile("a zero byte in a name", ".tar", _pax(path="a\0b.txt"), "read"),
    HostileFile("a name of half a character", ".tar", _pax(path="\udcff.txt"), "read"),
    HostileFile("a name of 200,000 letters", ".tar", _pax(path="a" * 200_000 + ".txt"), "read"),
    HostileFile(
        "a hard link outside", ".tar", _of_type(tarfile.LNKTYPE, "/etc/passwd"), "link read"
    ),
    HostileFile("a pipe", ".tar", _of_type(tarfile.FIFOTYPE), "link read"),
    HostileFile("a gzip named outside", ".txt.gz", _named_gzip(b"../../x.txt"), "read"),
    HostileFile(
        "a gzip of many", ".txt.gz", gzip.compress(b"a") * 9999 + gzip.compress(GOOD), "read"
    ),
    # --- messages
    HostileFile("parts in parts", ".eml", _in_parts(2000), "nested_too_deep"),
    HostileFile(
        "a subject of half characters",
        ".eml",
        b"Subject: P\xffump =?utf-8?q?=ed=a0=80?= =?zz?q?=ff?=\n\n" + GOOD,
        "read",
    ),
    HostileFile("a long header", ".eml", mail(f"X: {'a' * 999_999}", STORY), "read"),
    *(
        HostileFile(
            f"a message of the charset {name}",
            ".eml",
            mail(f"Content-Type: text/plain; charset={name}", STORY),
            "read",
        )
        for name in ("zip", "raw_unicode_escape", "punycode", '"a\0b"')
    ),
    # --- markup
    *(
        HostileFile(
            f"HTML of the charset {name}",
            ".html",
            f"<meta charset={name}><p>{STORY}".encode(),
            "read",
        )
        for name in ("idna", "rot13", "zip", "hex", "unicode_escape")
    ),
    HostileFile("HTML of attributes", ".html", b"<p " + b"a=1 " * 99_999 + b">" + GOOD, "read"),
    HostileFile(
        "HTML that leads elsewhere",
        ".html",
        b"<base href=file:///etc/><meta http-equiv=refresh content='0;url=file:///etc/passwd'><p>"
        + GOOD,
        "read",
    ),
    HostileFile(
        "a cell of a billion columns",
        ".html",
        f"<table><tr><td colspan={10**9} rowspan={10**9}>{STORY}<td>x</table>".encode(),
        "read",
    ),
    HostileFile("open brackets", ".md", b"[" * 60_000 + GOOD, "read"),
    HostileFile("open links", ".md", b"[a](" * 30_000 + GOOD, "read"),
    HostileFile("open emphasis", ".md", b"*a _b " * 30_000 + GOOD, "read"),
    HostileFile("RTF of binary data", ".rtf", b"{\\rtf1\\bin999999999 " + GOOD + b"}", "read"),
    HostileFile("RTF that passes over", ".rtf", b"{\\rtf1\\uc99999 " + GOOD + b"}", "read"),
    HostileFile("RTF of half characters", ".rtf", b"{\\rtf1 \\u-10240 ? " + GOOD + b"}", "read"),
    # --- tables and notebooks
    HostileFile(
        "a table of 9,999 columns",
        ".csv",
        f"text,{','.join(f'c{n}' for n in range(9999))}\n{STORY}{',1' * 9999}\n".encode(),
        "read",
    ),
    HostileFile("one text in many rows", ".parquet", _bomb(pq.write_table), "read too_large"),
    HostileFile("one text in many Arrow rows", ".arrow", _bomb(write_feather), "read too_large"),
    HostileFile("quotes alone", ".csv", b"text\n" + b'"' * 99_999 + b"\n", "too_short"),
    HostileFile("NaN in a row", ".jsonl", f'{{"text": "{STORY}", "a": NaN}}\n'.encode(), "read"),
    HostileFile(
        "a text that is an object", ".jsonl", b'{"text": {"a": "%s"}}\n' % GOOD, "no_text_column"
    ),
    HostileFile(
        "cells that are none", ".ipynb", json.dumps({"cells": _CELLS}).encode(), "read damaged"
    ),
    HostileFile("cells in an object", ".ipynb", b'{"cells": {"a": 1}}', "damaged"),
    HostileFile("sheets that are a number", ".ipynb", b'{"worksheets": 5, "cells": []}', "damaged"),
)
