"""Progress of a running stage (``.work/<stage>/progress.json``) and its latest sample, as artifacts
in Prefect's UI.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

from flows.runs.board import list_figures, read_progress, read_sample

FlowLogger = logging.Logger | logging.LoggerAdapter[Any]
#: The server keeps every version of a Markdown artifact, so few are made.
_SAMPLE_SECONDS = 15.0


class Watcher:
    """Shows one stage's progress; poll it inside the stage's Prefect task.

    A failing server stops the display, never the stage.
    """

    def __init__(self, checkout: Path, stage: str, log: FlowLogger) -> None:
        """Watch ``stage`` in ``checkout``; a file that a killed run left is not shown."""
        self.checkout = checkout
        self.path = checkout / ".work" / stage / "progress.json"
        self.stage = stage
        self.log = log
        self._artifact: UUID | None = None
        self._text = ""
        self._seen = self._stamp()
        self._sample = read_sample(checkout, stage)
        self._sampled = -_SAMPLE_SECONDS
        self._silent_until = 0.0

    def poll(self) -> None:
        """Show the progress and the sample if they have changed since the last call."""
        if time.monotonic() < self._silent_until:
            return
        try:
            self._show_progress()
            self._show_sample()
        except Exception as error:  # noqa: BLE001 - display only: the stage continues, its log is complete
            self._silent_until = time.monotonic() + 30
            self.log.warning("Prefect cannot show the progress now (%s)", type(error).__name__)

    def _show_progress(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        progress = read_progress(self.checkout, self.stage)
        if not progress:
            if stamp or self._artifact is None:
                return
            # The stage is done: a finished stage removes the file.
            update_progress_artifact(
                self._artifact, 100.0, description=f"done · last seen: {self._text}"
            )
            return
        percent = 100.0 * progress["done"] / progress["total"] if progress["total"] else 0.0
        text = self._text = describe(progress)
        if self._artifact is None:
            self._artifact = cast(
                UUID,
                create_progress_artifact(percent, key=f"progress-{self.stage}", description=text),
            )
        else:
            update_progress_artifact(self._artifact, percent, description=text)

    def _show_sample(self) -> None:
        if time.monotonic() - self._sampled < _SAMPLE_SECONDS:
            return
        sample = read_sample(self.checkout, self.stage)
        if sample == self._sample:
            return
        self._sample = sample
        if not sample:  # a stage that begins removes an earlier run's
            return
        self._sampled = time.monotonic()
        create_markdown_artifact(
            _markdown(sample),
            key=f"sample-{self.stage}",
            description=f"live sample of {self.stage}: {self._text}".removesuffix(": "),
        )

    def _stamp(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except OSError:
            return 0


def drop_failure_records() -> None:
    """Keep Prefect from logging a failed task with all its parameters: the state that follows says
    why in one line.
    """
    logging.getLogger("prefect.task_runs").addFilter(_is_no_failure_record)


def _is_no_failure_record(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Task run failed with state")


def describe(progress: dict[str, Any]) -> str:
    """Return one line: rows done, rate and time left once known, then figures such as loss."""
    unit = progress["unit"]
    parts = [f"{progress['done']}/{progress['total']} {unit}"]
    if progress["rate"]:
        parts += [f"{progress['rate']:.2f} {unit}/s", f"{progress['seconds_left']} s left"]
    return " · ".join([*parts, *list_figures(progress)])


def _markdown(sample: dict[str, Any]) -> str:
    """Render a sample as code blocks, so that no model output is read as Markdown or HTML."""
    blocks = []
    for field, value in sample.items():
        indented = "\n".join(f"    {line}" for line in str(value).splitlines() or [""])
        blocks.append(f"**{field.replace('_', ' ')}**\n\n{indented}")
    return "\n\n".join(blocks)
