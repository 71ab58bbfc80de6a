"""Files with a password, and files that are cut short."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions
from tests.ingest.hostile_files import reasons
from tests.ingest.office_files import OLE, epub, zipped
from tests.ingest.reading import STORY

# --- passwords


def test_pdf_with_a_password(tmp_path: Path) -> None:
    """The entries of a standard security handler whose password is not the empty one."""
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] >>",
        f"<< /Filter /Standard /V 1 /R 2 /O <{'41' * 32}> /U <{'42' * 32}> /P -4 >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    trailer = (
        f"trailer << /Size 5 /Root 1 0 R /Encrypt 4 0 R /ID [<{'43' * 16}> <{'43' * 16}>] "
        f">>\nstartxref\n{len(data)}\n%%EOF"
    )
    (tmp_path / "a.pdf").write_bytes(
        data + f"xref\n0 5\n0000000000 65535 f \n{table}{trailer}".encode()
    )
    assert reasons(tmp_path / "a.pdf") == [("", "encrypted")]


def test_zip_and_docx_with_a_password(tmp_path: Path) -> None:
    for name in ("a.zip", "b.docx", "c.epub"):
        data = bytearray(zipped(tmp_path / name, {"word/document.xml": STORY}).read_bytes())
        # Bit 0 of the flags, in the member's own header and in the directory, says that it is
        # encrypted.
        data[6] |= 1
        data[data.index(b"PK\x01\x02") + 8] |= 1
        (tmp_path / name).write_bytes(data)
    # What Word makes of a document with a password: an OLE container.
    (tmp_path / "d.docx").write_bytes(OLE)
    assert reasons(tmp_path / "a.zip") == [("!word/document.xml", "encrypted")]
    assert [reasons(tmp_path / name) for name in ("b.docx", "c.epub", "d.docx")] == [
        [("", "encrypted")]
    ] * 3


# --- damage


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    "name", ["a.docx", "b.zip", "c.epub", "d.parquet", "e.arrow", "f.txt.gz", "g.tar.gz"]
)
def test_files_cut_short_are_rejects(tmp_path: Path, name: str, share: float) -> None:
    whole = _whole_file(tmp_path, name)
    assert any(isinstance(item, Document) for item in detect.read(whole, ReadOptions()))
    damaged = tmp_path / f"cut-{name}"
    damaged.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    found = reasons(damaged)
    assert found and {reason for _, reason in found} <= {"damaged", "empty"}


def _whole_file(folder: Path, name: str) -> Path:
    import tarfile

    import docx
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / name
    table = pa.table({"text": [f"{STORY} {number}" for number in range(50)]})
    noise = "".join(f"{STORY} {number * 7919 % 104729} " for number in range(400))
    if name.endswith(".docx"):
        document = docx.Document()
        document.add_paragraph(STORY)
        document.save(str(path))
    elif name.endswith(".zip"):
        zipped(path, {"a.txt": noise})
    elif name.endswith(".epub"):
        epub(path, {"a.xhtml": f"<html><body><p>{STORY}</p></body></html>"})
    elif name.endswith(".parquet"):
        pq.write_table(table, path)
    elif name.endswith(".arrow"):
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    elif name.endswith(".txt.gz"):
        path.write_bytes(gzip.compress(noise.encode()))
    else:
        (folder / "member.txt").write_text(noise)
        with tarfile.open(path, "w:gz") as archive:
            archive.add(folder / "member.txt", "member.txt")
    return path
