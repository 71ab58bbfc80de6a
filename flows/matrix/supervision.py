"""What a cell of a matrix is trained on: a source or a mix, after P3 or not."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core.errors import PipelineError
from tasks.core.mix import Mix, parse_mix

#: Supervision of the cell that scores ``finetune.start`` as it is (``supervise.source`` none).
START = "start"
_P3_THEN = "p3 then "
#: ``p3+bonito`` once was ``p3 then bonito``: as a mix it would change the meaning of old files.
_ONCE_AFTER_P3 = ("tapt", "bonito", "prompted", "labelled")


@dataclass(frozen=True)
class Supervision:
    """A mix. With ``after_p3`` the training starts from the adapter that the p3 cell made."""

    mix: Mix
    after_p3: bool = False

    def __str__(self) -> str:
        return f"{_P3_THEN if self.after_p3 else ''}{self.mix}"

    @property
    def slug(self) -> str:
        """The text for a name of a file or run: ``p3-then-bonito-and-constructed-0.5``."""
        return str(self).replace(" ", "-").replace("+", "-and-").replace(":", "-")

    @property
    def sources(self) -> set[str]:
        """All sources whose rows are trained on, one after the other or together."""
        return {*self.mix.names, *(("p3",) if self.after_p3 else ())}


def parse_supervision(text: str) -> Supervision:
    """Parse ``bonito``, ``bonito+constructed:0.5``, ``p3 then bonito``; a :class:`PipelineError`
    says what is wrong.
    """
    words = " ".join(text.split())
    after_p3 = words.startswith(_P3_THEN)
    mix = parse_mix(words.removeprefix(_P3_THEN))
    if after_p3 and mix.names in (("none",), ("p3",)):
        raise PipelineError(f"{words!r} is p3 alone: write 'p3'")
    if str(mix) in (f"p3+{name}" for name in _ONCE_AFTER_P3):
        other = mix.names[1]
        raise PipelineError(
            f"write 'p3 then {other}' to train on p3 and then on {other}, "
            f"'{other}+p3' for the rows of both together"
        )
    return Supervision(mix, after_p3)
