"""Answers that register keeps with a version: serve asks its server the same before it is ready."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tasks.core.errors import PipelineError
from tasks.core.files import write_json
from tasks.core.problems import explain
from tasks.core.sections.base import Fraction, Section
from tasks.tracking.fetch_model import REGISTER_AGAIN, fetch_artifact

#: The file's name, in register's output and with the version's run.
NAME = "parity.json"
#: Answers that are kept, at most.
MOST = 8


class KeptAnswer(Section):
    """A prompt as token ids, and the scored model's greedy text, stripped."""

    prompt: tuple[int, ...]
    answer: str


class KeptAnswers(Section):
    """Answers of at most ``max_tokens`` tokens; ``floor`` is ``register.parity_floor``."""

    floor: Fraction
    max_tokens: int
    answers: tuple[KeptAnswer, ...]

    def write(self, folder: Path) -> None:
        """Write the file into a folder."""
        write_json(folder / NAME, self.model_dump(mode="json"))

    def fitting(self, length: int) -> KeptAnswers:
        """Return those that a server has room for: prompt and answer in ``length`` tokens."""
        fit = tuple(one for one in self.answers if len(one.prompt) + self.max_tokens <= length)
        return self.model_copy(update={"answers": fit})


def fetch_kept_answers(name: str, version: str, folder: Path) -> KeptAnswers | None:
    """Fetch the answers of a registered version; None where none were kept."""
    path = fetch_artifact(name, version, NAME, folder)
    if path is None:
        return None
    try:
        return KeptAnswers.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise PipelineError(
            f"{NAME} of {name} version {version} cannot be read "
            f"({explain(error, KeptAnswers)}): {REGISTER_AGAIN}"
        ) from error
