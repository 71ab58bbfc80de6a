"""The remix's files: rows wait in a scratch file until the caps by task type can be drawn, and are
then split into train and held-out.
"""

from __future__ import annotations

import heapq
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from bonito.params import Remix
from bonito.templating.render import Rendering
from bonito.templating.templates import PromptTemplate
from tasks.core.files import fingerprint, row_seed
from tasks.core.parquet import Batches, TableWriter

_ORIGIN = ("row_id", "dataset", "config", "template", "task_type")
_TEXTS = ("context", "instruction", "response")
#: train.parquet and heldout.parquet. ``instruction``, and rarely ``response``, hold the literal
#: ``{{context}}``.
REMIXED = pa.schema([(name, pa.string()) for name in (*_ORIGIN, *_TEXTS)])
#: rejects.parquet: drawn rows that gave no example.
REJECTED = pa.schema([(name, pa.string()) for name in (*_ORIGIN, "reason", "detail", *_TEXTS)])


class Output:
    """Collects rows and rejects in the folder ``scratch`` until :meth:`finish` writes the files."""

    def __init__(self, scratch: Path, params: Remix) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._params = params
        self._rows_path, self._rejects_path = scratch / "rows.parquet", scratch / "rejects.parquet"
        self._files = ExitStack()
        self._rows = self._files.enter_context(TableWriter(self._rows_path, REMIXED))
        self._rejects = self._files.enter_context(TableWriter(self._rejects_path, REJECTED))
        #: Task type with a cap -> heap of its rows' smallest numbers, negated.
        self._lots: dict[str, list[int]] = {name: [] for name in params.caps}

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)
        for path in (self._rows_path, self._rejects_path):
            path.unlink(missing_ok=True)

    def row(self, row_id: str, template: PromptTemplate, outcome: Rendering) -> None:
        """Collect one remixed row."""
        self._rows.add(_origin(row_id, template) | _texts(outcome))
        most = self._params.caps.get(template.task_type)
        if most:
            lots = self._lots[template.task_type]
            (heapq.heappush if len(lots) < most else heapq.heappushpop)(lots, -self._number(row_id))

    def reject(
        self, row_id: str, template: PromptTemplate, reason: str, detail: str, outcome: Rendering
    ) -> None:
        """Collect one row that gave no example, with its reason."""
        why = {"reason": reason, "detail": detail}
        self._rejects.add(_origin(row_id, template) | why | _texts(outcome))

    def finish(self, out: Path, dropped: Counter[str]) -> dict[str, Any]:
        """Write the three Parquet files to ``out`` and return the counts of kept rows; rows over a
        cap are counted in ``dropped``.
        """
        self._rows.close()
        counts: Counter[tuple[str, str, str]] = Counter()
        with (
            TableWriter(out / "train.parquet", REMIXED) as train,
            TableWriter(out / "heldout.parquet", REMIXED) as held_out,
        ):
            for row in (
                row for batch in Batches(self._rows_path, REMIXED) for row in batch.to_pylist()
            ):
                if self._over_cap(row):
                    dropped["over_task_type_cap"] += 1
                    detail = f"{self._params.caps[row['task_type']]} rows are kept"
                    self._rejects.add(row | {"reason": "over_task_type_cap", "detail": detail})
                    continue
                counts[row["dataset"], row["config"], row["task_type"]] += 1
                (held_out if self._is_held_out(row["context"]) else train).add(row)
        self._rejects.close()
        self._rejects_path.replace(out / "rejects.parquet")
        return {
            "train_rows": train.rows,
            "held_out_rows": held_out.rows,
            "counts": [[*key, count] for key, count in sorted(counts.items())],
        }

    def _over_cap(self, row: dict[str, Any]) -> bool:
        most = self._params.caps.get(row["task_type"])
        if most is None:
            return False
        return most == 0 or self._number(row["row_id"]) > -self._lots[row["task_type"]][0]

    def _number(self, row_id: str) -> int:
        return int(fingerprint(self._params.seed, row_id, "cap")[:16], 16)

    def _is_held_out(self, context: str) -> bool:
        """Tell by the passage, spaces and case aside, so that no passage is on both sides."""
        return (
            row_seed(self._params.seed, " ".join(context.split()).casefold(), "held-out")
            < self._params.held_out * 2**31
        )


def _texts(rendering: Rendering) -> dict[str, str]:
    return {name: getattr(rendering, name) for name in _TEXTS}


def _origin(row_id: str, template: PromptTemplate) -> dict[str, str]:
    return {
        "row_id": row_id,
        "dataset": template.dataset,
        "config": template.config,
        "template": template.name,
        "task_type": template.task_type,
    }
