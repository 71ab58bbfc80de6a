"""A model to score: the target as it is, its start alone, or adapted.

All are scored over the same weights (the NF4-rounded base weights that the adapter was trained on,
see :mod:`tasks.lm.merged`), so the adapter is the only difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.files import fingerprint
from tasks.core.sections.finetune import Finetune
from tasks.core.setting_paths import is_nothing
from tasks.lm.adapters import digest_adapter, start_adapter
from tasks.lm.merged import merged_folder
from tasks.lm.pins import arithmetic
from tasks.lm.prompts import prompt_form, trained_form
from tasks.lm.tokenizers import load_tokenizer


@dataclass(frozen=True)
class Scoreable:
    """A model to score; ``name`` is its name in the rows, ``adapter`` None is the base model."""

    name: str
    base: str
    revision: str
    quantization: str
    precision: str
    adapter: Path | None
    form: str

    def folder(self) -> Path:
        """Return the merged checkpoint."""
        return merged_folder(
            self.base, self.revision, self.adapter, self.quantization, self.precision
        )

    def key(self) -> str:
        """Return what tells this model's answers from another's.

        Its name does not: what one run calls adapted is the start of the next.
        """
        return fingerprint(
            self.base,
            self.revision,
            self.quantization,
            self.precision,
            arithmetic(self.precision),
            self.form,
            digest_adapter(self.adapter) if self.adapter else "",
        )


def models_before(target: Finetune, start: Path) -> list[Scoreable]:
    """Return the unadapted model, and the start alone where there is one, over the same weights."""
    tokenizer = load_tokenizer(target.model, target.revision)
    shared = (target.model, target.revision, target.quantization, target.precision)
    form = prompt_form(tokenizer, target.prompt, adapted=False)
    models = [Scoreable("zero_shot", *shared, None, form)]
    if not is_nothing(start):
        form = trained_form(start, tokenizer, target.prompt)
        models.append(Scoreable("start", *shared, start_adapter(target, start), form))
    return models
