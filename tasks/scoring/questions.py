"""What the models are asked: labelled items, or rows that were held out, under templates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.parquet import read_table
from tasks.core.rows import INSTRUCTIONS, require
from tasks.core.sections.evaluate import Evaluate
from tasks.scoring.datasets import Dataset, Item, Template, load_dataset, load_items

#: Name of the questions, and of their one template, where there are no labelled items.
HELD_OUT = "held_out"
#: A question: an item under a template.
Pair = tuple[Template, Item]


@dataclass(frozen=True)
class Questions:
    """The labelled items, and the templates they are asked under."""

    dataset: Dataset
    templates: tuple[Template, ...]
    items: list[Item]

    @classmethod
    def read(cls, params: Evaluate, items: Path) -> Questions:
        """Read the dataset file and its items, as many as ``params`` says."""
        dataset = load_dataset(Path(params.dataset))
        return cls(
            dataset,
            dataset.templates[: params.templates or None],
            load_items(dataset, items, params.max_items, params.seed),
        )

    @property
    def pairs(self) -> list[Pair]:
        """Every item under every template, a template at a time."""
        return [(template, item) for template in self.templates for item in self.items]

    @classmethod
    def held_out(cls, path: Path) -> Questions:
        """Take generated rows that supervise kept out of the training: their responses are the
        generator's, so agreement with them says nothing of what is right.
        """
        template = Template(name=HELD_OUT, instruction="{{ instruction }}")
        dataset = Dataset(
            name=HELD_OUT,
            task_type="qa",
            answers="response",
            label="",
            labels=(),
            templates=(template,),
        )
        items = [
            Item(
                id=row["row_id"],
                context=row["context"],
                golds=(row["response"],),
                gold=0,
                columns={"instruction": row["instruction"]},
            )
            for row in require(read_table(path), INSTRUCTIONS, path).to_pylist()
        ]
        return cls(dataset, (template,), items)
