"""Text recognition of scanned pages by the tesseract program, with ``ingest.ocr``."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from typing import Any

from tasks.core.errors import PipelineError
from tasks.ingest.readers.decoding import tidy
from tasks.ingest.readers.document import Unreadable

#: Dots an inch of drawn pages; tesseract is trained on print of about this size.
_DPI = 300
#: Most pixels of a drawn page: a poster is drawn at fewer dots an inch.
_PIXELS = 40_000_000
_PAGE_SECONDS = 100.0


def check_languages(languages: str) -> str:
    """Return ``languages`` ("eng+deu").

    Raises :class:`PipelineError` where tesseract, or its data for one of them, is not installed.
    """
    program = shutil.which("tesseract")
    if program is None:
        raise PipelineError(
            "ingest.ocr is set, and there is no program tesseract here: install it "
            "(Debian: apt-get install tesseract-ocr), or set ingest.ocr: false"
        )
    listed = subprocess.run(
        [program, "--list-langs"], capture_output=True, text=True, check=False, timeout=60
    )
    installed = [line.strip() for line in (listed.stdout + listed.stderr).splitlines()[1:]]
    for language in languages.split("+"):
        if language not in installed:
            raise PipelineError(
                f"ingest.ocr_languages names {language!r}, and tesseract has data for: "
                f"{', '.join(installed)} "
                f"(Debian: apt-get install tesseract-ocr-{language.replace('_', '-')})"
            )
    return languages


def tell_version() -> str:
    """Return the version of tesseract, which is a part of the key of what it read."""
    told = subprocess.run(
        ["tesseract", "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    return (told.stdout or told.stderr).partition("\n")[0].strip()


def paragraphs(page: Any, languages: str) -> list[str]:
    """Return the paragraphs that tesseract reads on a page of pypdfium2, with joined lines and
    words.
    """
    width, height = page.get_size()
    scale = min(_DPI / 72, (_PIXELS / max(width * height, 1.0)) ** 0.5)
    picture = io.BytesIO()
    page.render(scale=scale, grayscale=True).to_pil().save(picture, format="PNG")
    try:
        # One thread: there is a reading process for each core.
        process = subprocess.run(
            ["tesseract", "stdin", "stdout", "-l", languages],
            input=picture.getvalue(),
            capture_output=True,
            check=False,
            timeout=_PAGE_SECONDS,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable("ocr_failed", f"{error}") from error
    if process.returncode:
        raise Unreadable("ocr_failed", process.stderr.decode(errors="replace").strip()[:300])
    text = tidy(process.stdout.decode("utf-8", errors="replace"))
    return [joined for block in text.split("\n\n") if (joined := _join_lines(block.split("\n")))]


def _join_lines(lines: list[str]) -> str:
    text = ""
    for line in (line.strip() for line in lines):
        if text.endswith("-") and line[:1].islower():
            text = text[:-1] + line
        elif line:
            text = f"{text} {line}" if text else line
    return text
