"""Makes PDF files for tests, and reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.ingest.readers import detect
from tasks.ingest.readers.document import Document, ReadOptions

#: (x, y, text, size of the letters) of a line of a page.
Set = tuple[int, int, str, int]


def pdf(pages: list[list[Set]], images: tuple[bytes, int, int] | None = None) -> bytes:
    """Write a PDF by hand: lines of Helvetica, or an 8-bit grey image (bytes, width, height) over
    the whole of each page.
    """
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        "",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    picture = ""
    if images:
        data, width, height = images
        head = (
            f"<< /Type /XObject /Subtype /Image /Width {width} /Height {height} /ColorSpace "
            f"/DeviceGray /BitsPerComponent 8 /Length {len(data)} >>"
        )
        objects.append(f"{head}\nstream\n{data.decode('latin-1')}\nendstream")
        picture = "/XObject << /I 4 0 R >>"
    kids = []
    for lines in pages:
        stream = "".join(
            f"BT /F1 {size} Tf {x} {y} Td ({text}) Tj ET\n" for x, y, text, size in lines
        ) + ("q 612 0 0 792 0 0 cm /I Do Q\n" if images else "")
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}endstream")
        resources = f"<< /Font << /F1 3 0 R >> {picture} >>"
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents "
            f"{len(objects)} 0 R /Resources {resources} >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    data, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += f"{number} 0 obj\n{content}\nendobj\n".encode("latin-1")
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer << /Size "
        f"{len(objects) + 1} /Root 1 0 R >>\nstartxref\n{len(data)}\n%%EOF"
    )
    return data + end.encode()


def text_of(path: Path, data: bytes, **options: Any) -> str:
    """Write a file and return the text that is read from it."""
    path.write_bytes(data)
    (document,) = detect.read(path, ReadOptions(**options))
    assert isinstance(document, Document)
    return document.text


# --- scans


def make_scan(text: list[str]) -> tuple[bytes, int, int]:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("L", (1275, 1650), 255)
    draw = ImageDraw.Draw(image)
    for row, line in enumerate(text):
        draw.text((150, 200 + 60 * row), line, fill=0, font=ImageFont.load_default(36))
    return image.tobytes(), *image.size
