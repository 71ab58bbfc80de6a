"""Make README's pictures from the runs of this clone: ``make run``, then ``make pictures``.

It opens the pages that ``make ui`` serves in a headless Chromium. Each picture is cropped, scaled
to README's width, and saved with few colours.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flows.server import set_prefect_environment
from tasks.core.errors import PipelineError
from tasks.core.stage import one_line_errors
from tests.browser import Browser, chromium
from tests.ui_server import serve_ui

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
#: The page on the rows that a run trains on, of the newest run.
REPORT = ROOT / "artifacts" / "verify" / "report.html"
WIDTH = 900
COLOURS = 256
_PATIENCE = 120
#: Takes the tag off a run's page that names a folder of this machine.
_HIDE_CHECKOUT = """[...document.querySelectorAll('*')]
  .filter(each => !each.children.length && each.textContent.trim().startsWith('checkout:'))
  .forEach(each => (each.closest('[class*=tag]') ?? each).remove())"""

#: A rectangle of a page: left, top, right, bottom in pixels.
Box = tuple[int, int, int, int]


def find_pages(prefect: str) -> tuple[str, str]:
    """Return the addresses of the form and of the newest finished run's page."""
    set_prefect_environment(ROOT)  # before Prefect is imported
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.settings import PREFECT_API_URL, temporary_settings

    finished = FlowRunFilter.model_validate({"state": {"type": {"any_": ["COMPLETED"]}}})
    with (
        temporary_settings({PREFECT_API_URL: f"{prefect}/api"}),
        get_client(sync_client=True) as client,
    ):
        form = client.read_deployment_by_name("adapt/adapt").id
        runs = client.read_flow_runs(
            flow_run_filter=finished, sort=FlowRunSort.START_TIME_DESC, limit=1
        )
    if not runs:
        raise PipelineError("this clone has no finished run: make run, then make pictures")
    return (
        f"{prefect}/deployments/deployment/{form}/run",
        f"{prefect}/runs/flow-run/{runs[0].id}",
    )


def shoot(browser: Browser, *boxes: Box) -> Image.Image:
    """Return parts of what the browser shows, one below the other, ``WIDTH`` pixels wide."""
    page = seen(browser)
    return stack([page.crop(box) for box in boxes])


def seen(browser: Browser, width: int = 0) -> Image.Image:
    """Return what the browser shows, in a window of ``width`` pixels where that is not 0."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.png"
        browser.shot(file, width=width)
        with Image.open(file) as shot:
            return shot.convert("RGB")


def stack(parts: list[Image.Image]) -> Image.Image:
    """Return the images one below the other, each scaled to ``WIDTH`` pixels."""
    scaled = [
        part.resize((WIDTH, round(part.height * WIDTH / part.width)), Image.Resampling.LANCZOS)
        for part in parts
    ]
    picture = Image.new("RGB", (WIDTH, sum(part.height for part in scaled)))
    top = 0
    for part in scaled:
        picture.paste(part, (0, top))
        top += part.height
    return picture


def save(picture: Image.Image, name: str) -> None:
    """Write a picture in few colours and print its size."""
    path = PICTURES / f"{name}.png"
    few = picture.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE)
    few.save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}  {few.width} x {few.height}  {path.stat().st_size:,} bytes")


def main() -> int:
    """Take every picture; returns 0, or 2 where there is no run or no browser."""
    with one_line_errors("pictures"):
        if not chromium():
            raise PipelineError("no Chromium here (Debian: apt install chromium)")
        if not REPORT.is_file():
            raise PipelineError(f"{REPORT.relative_to(ROOT)} is missing: make run, first")
        PICTURES.mkdir(parents=True, exist_ok=True)
        with (
            serve_ui(ROOT, ROOT / ".work" / "ui.log") as (prefect, mlflow),
            tempfile.TemporaryDirectory() as profile,
            Browser(Path(profile), patience=_PATIENCE) as browser,
        ):
            take_served(browser, prefect, mlflow)
        # A page that came over HTTP may not lead to a file.
        with (
            tempfile.TemporaryDirectory() as profile,
            Browser(Path(profile), patience=_PATIENCE) as browser,
        ):
            browser.open(REPORT.as_uri())
            browser.see("Agreed")
            save(stack([seen(browser, width=1000).crop((0, 0, 1000, 760))]), "report")
        return 0
    return 2


def take_served(browser: Browser, prefect: str, mlflow: str) -> None:
    """Take the pictures of the form, the run and MLflow."""
    form, run = find_pages(prefect)
    browser.open(form)
    browser.see("profile (Optional)", "Seed of generation, selection and training", "Submit")
    save(shoot(browser, (262, 0, 1490, 735)), "form")
    browser.open(run)
    browser.see("Task Runs")
    browser.click("*", "Artifacts")
    browser.see("rows in, kept and dropped, by stage", "F1 in points (0-100)")
    time.sleep(5)  # until the timeline has drawn itself
    browser.js(_HIDE_CHECKOUT)
    timeline = shoot(browser, (262, 0, 1490, 575))
    browser.click(".artifact-card__title", "f1")
    browser.see("zero-shot", "adapted", "gain")
    time.sleep(1)  # until the table has faded in
    save(stack([timeline, shoot(browser, (262, 60, 1490, 375))]), "run")
    browser.open(mlflow)
    browser.see("f1/")
    time.sleep(1)
    save(shoot(browser, (195, 0, 1115, 660)), "mlflow")


if __name__ == "__main__":
    sys.exit(main())
