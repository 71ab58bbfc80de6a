"""``params.yaml``, parsed once into frozen, typed models that refuse unknown keys.

One section a stage, and ``run`` for all of them. ``params.yaml`` is the embedded default; a file of
``profiles/`` overlays it (see tasks/core/overlay.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tasks.core.errors import PipelineError
from tasks.core.problems import explain
from tasks.core.secrets import SECRET
from tasks.core.sections.base import Section
from tasks.core.sections.baseline import Baseline
from tasks.core.sections.evaluate import Evaluate
from tasks.core.sections.finetune import Finetune
from tasks.core.sections.generate import Generate
from tasks.core.sections.ingest import Ingest
from tasks.core.sections.register import Register
from tasks.core.sections.run import Limits
from tasks.core.sections.supervise import Supervise
from tasks.core.sections.validate import Validate
from tasks.core.sections.verify import CROSS_FIT, Verify
from tasks.core.setting_paths import is_nothing
from tasks.core.yaml_file import read_yaml

# The sections have the names of the stages. pydantic warns that two of them hide a method
# (BaseModel's deprecated `validate`, and `register` of every abstract class); neither is used.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Field name .* shadows an attribute", UserWarning)

    class Params(Section):
        """The whole file."""

        ingest: Ingest
        generate: Generate
        # Without Field() the hidden methods would be the defaults, and the sections optional.
        validate: Validate = Field()  # type: ignore[assignment]
        verify: Verify
        supervise: Supervise
        finetune: Finetune
        baseline: Baseline
        evaluate: Evaluate
        register: Register = Field()
        #: Of the run as a whole: no stage reads it.
        run: Limits


def load_params(path: Path, model: type[Section] = Params) -> Any:
    """Parse a YAML file into ``model``; a :class:`PipelineError` names each wrong key or value."""
    return parse_params(read_yaml(path), str(path), model)


def parse_params(
    values: dict[str, Any],
    where: str,
    model: type[Section] = Params,
    settings: Sequence[str] = (),
) -> Any:
    """Parse already loaded values; ``where`` names their source in errors, ``settings`` are the
    ``section.key=value`` among them.
    """
    _refuse_secrets(values)
    try:
        parsed = model.model_validate(_tuples(values))
    except ValidationError as error:
        raise PipelineError(f"{where}: {explain(error, model, settings)}") from error
    if isinstance(parsed, Params) and (problems := "; ".join(_find_conflicts(parsed))):
        raise PipelineError(f"{where}: {problems}")
    return parsed


def _find_conflicts(params: Params) -> Iterator[str]:
    """Yield settings that do not go together. They are looked for here, before the first stages
    have worked for hours.
    """
    mix = params.supervise.mix
    if mix.given and is_nothing(Path(params.supervise.rows)):
        yield (
            f"supervise.source {mix} needs training rows: name their file in supervise.rows "
            "(docs/matrix.md)"
        )
    generate, verify = params.generate, params.verify
    if generate.address and mix.generator == "bonito":
        yield (
            "generate.address serves chat models: it goes with supervise.source prompted, not "
            f"{mix}"
        )
    for name, section in (("generate", generate), ("verify", verify)):
        if section.address and section.workers:
            yield (
                f"{name}.workers open the model themselves, {name}.address has it opened already: "
                "set one of the two"
            )
    if verify.reader == CROSS_FIT and (verify.fit is None or verify.address):
        yield (
            f"verify.reader {CROSS_FIT} trains its readers here: give verify.fit, a section as "
            "finetune, and no verify.address (docs/verify.md)"
        )


def _refuse_secrets(value: Any, place: str = "") -> None:
    """Refuse a password or key, without repeating it in the error: parameters are written to logs,
    DVC's lock file and MLflow.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            _refuse_secrets(inner, f"{place}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            _refuse_secrets(inner, place)
    elif isinstance(value, str) and SECRET.search(value):
        raise PipelineError(
            f"the value of {place} looks like a password or a key: set such values in the "
            "environment (HF_TOKEN, ...), never in parameters"
        )


def _tuples(value: Any) -> Any:
    """Turn lists into tuples: strict, frozen models take no list for a tuple."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value
