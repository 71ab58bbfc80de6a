"""Make README's pictures from the screenshots of the browser tests: ``make pictures``.

Each is cropped, scaled to README's width on a page, and saved with few colours.
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
COLOURS = 256


@dataclass(frozen=True)
class Part:
    """A rectangle of a screenshot: left, top, right, bottom in pixels."""

    shot: str
    box: tuple[int, int, int, int]


#: Picture -> its parts, from top to bottom.
_ALL = {
    "form": (Part("1-form.png", (262, 0, 1490, 735)),),
    "run": (
        Part("4-artifacts-7.png", (262, 0, 1490, 575)),
        Part("5-f1-7.png", (262, 60, 1490, 375)),
    ),
    "mlflow": (Part("6-mlflow-compared.png", (195, 0, 1115, 660)),),
    "report": (Part("7-report.png", (0, 0, 1000, 640)),),
}


def make_picture(parts: tuple[Part, ...]) -> Image.Image:
    """Return the parts stacked, ``WIDTH`` pixels wide, in few colours."""
    images = [cut(part) for part in parts]
    picture = Image.new("RGB", (WIDTH, sum(image.height for image in images)))
    top = 0
    for image in images:
        picture.paste(image, (0, top))
        top += image.height
    return picture.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)


def cut(part: Part) -> Image.Image:
    """Return a part of a screenshot, ``WIDTH`` pixels wide."""
    with Image.open(SHOTS / part.shot) as shot:
        image = shot.convert("RGB").crop(part.box)
    return image.resize(
        (WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS
    )


def main() -> int:
    """Write every picture; a missing screenshot is an error."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, parts in _ALL.items():
        picture, path = make_picture(parts), PICTURES / f"{name}.png"
        picture.save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path.relative_to(ROOT)}  {picture.width} x {picture.height}  {size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
