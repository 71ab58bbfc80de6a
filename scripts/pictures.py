"""Make README's pictures from the screenshots of the browser tests: ``make pictures``.

Each is cropped to what matters, reduced to the width of half a page at twice the resolution, and
saved with few colours.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "artifacts" / "browser"
PICTURES = ROOT / "docs" / "pictures"
WIDTH = 900
COLOURS = 64


@dataclass(frozen=True)
class Picture:
    """A picture of README: the screenshot it is cut from, and left, top, right, bottom in pixels of
    a window 1,500 wide.
    """

    name: str
    shot: str
    box: tuple[int, int, int, int]


_ALL = (
    Picture("form", "1-form.png", (270, 0, 1500, 860)),
    Picture("run", "4-artifacts-7.png", (0, 0, 1500, 1050)),
    Picture("mlflow", "6-mlflow-compared.png", (0, 0, 1500, 1050)),
    Picture("report", "7-report.png", (230, 0, 1270, 730)),
)


def make_picture(shot: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return the part of a screenshot that ``box`` names, ``WIDTH`` pixels wide, in few colours."""
    part = shot.convert("RGB").crop(box)
    height = round(part.height * WIDTH / part.width)
    small = part.resize((WIDTH, height), Image.Resampling.LANCZOS)
    return small.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> int:
    """Write every picture; a missing screenshot is an error."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for picture in _ALL:
        with Image.open(SHOTS / picture.shot) as shot:
            made = make_picture(shot, picture.box)
        path = PICTURES / f"{picture.name}.png"
        made.save(path, optimize=True)
        print(f"{path.relative_to(ROOT)}  {made.width} x {made.height}  {path.stat().st_size:,} B")
    return 0


if __name__ == "__main__":
    sys.exit(main())
