"""The suites of Great Expectations: one for the rows of all task types, one for the balance of
their labels.

The first is declared on the columns of :mod:`tasks.validate.checks`. Great Expectations decides
which rows fail; this module passes it bounded chunks and gets the failing rows back by their index.
A validation has its price whatever the number of rows, so there is none for each task type: what an
expectation does not ask of a row's type is missing there, and missing values fail nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tasks.validate.data_docs import write_pages
from tasks.validate.expectations import LABEL_BALANCE, Check

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

#: Name of the frame's index: Great Expectations returns it for the rows that fail.
_ROW = "row"
#: Name of the suite of the rows, and of the folder of its pages.
_ROWS = "instructions"
#: Failing rows that a page of the Data Docs shows for each expectation.
_SHOWN = 20


class Suites:
    """The suites of a run, kept in memory, and the results that the Data Docs show."""

    def __init__(self, every: Sequence[Check], docs: Path) -> None:
        """Prepare the suites for ``every`` check; the Data Docs will be written to ``docs``."""
        self.checks = tuple(every)
        self._docs = docs
        self._context = _context()
        source = self._context.data_sources.add_pandas("predictions")
        self._batch = source.add_dataframe_asset("rows").add_batch_definition_whole_dataframe(
            "chunk"
        )
        self._suites: dict[str, Any] = {}
        self._results: dict[str, list[ExpectationSuiteValidationResult]] = {}

    def of(self, task_type: str) -> tuple[Check, ...]:
        """Return the checks of a task type."""
        return tuple(check for check in self.checks if check.is_for(task_type))

    def failing(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return check name -> index values of the rows of ``frame`` that fail it.

        ``frame`` has a unique integer index, ``task_type`` (a name a row), the checks' columns, and
        ``row_id`` to show in the Data Docs.
        """
        result = self._validate(_ROWS, self.checks, _asked(frame, self.checks))
        failing = {}
        for outcome in result.results:
            config: Any = outcome.expectation_config
            if "unexpected_index_list" not in outcome.result:
                raise RuntimeError(
                    f"Great Expectations could not evaluate {config.meta['name']}: "
                    f"{outcome.exception_info}"
                )
            rows = [row for block in outcome.result["unexpected_index_list"] for row in block[_ROW]]
            failing[config.meta["name"]] = np.array(rows, np.int64)
            shown = frame.loc[rows[:_SHOWN], ["row_id", "task_type", config.kwargs["column"]]]
            outcome.result = _shown(outcome.result, shown)
        return failing

    def record_balance(self, counts: dict[str, dict[str, int]], most: float) -> dict[str, bool]:
        """Record and return for each task type whether no label has more than the share ``most`` of
        its rows.

        ``counts`` is task type -> label -> kept rows.
        """
        shares = pd.DataFrame(
            {
                name: pd.Series([rows / sum(labels.values()) for rows in labels.values()])
                for name, labels in counts.items()
            }
        ).rename_axis(_ROW)
        says = f"no label makes up more than {most:.0%} of the rows that are kept"
        checks = [Check(LABEL_BALANCE, name, f"{name}: {says}", high=most) for name in counts]
        result = self._validate(LABEL_BALANCE, checks, shares)
        balanced = {}
        for outcome in result.results:
            balanced[outcome.expectation_config.kwargs["column"]] = bool(outcome.success)
            # The pages take no numbers of numpy.
            outcome.result["observed_value"] = float(outcome.result["observed_value"])
        return balanced

    def write_docs(self) -> None:
        """Write the Data Docs: Great Expectations' pages in our base, one a suite and one a chunk.

        They are rendered from the results in memory: its own site builder stores and reads every
        result as JSON, and compiles its templates for each kind of page.
        """
        from great_expectations.render.renderer import (
            ExpectationSuitePageRenderer,
            ValidationResultsPageRenderer,
        )

        suite_page, result_page = ExpectationSuitePageRenderer(), ValidationResultsPageRenderer()
        pages = {}
        for name, suite in self._suites.items():
            pages[f"expectations/{name}.html"] = suite_page.render(suite)
            for number, result in enumerate(self._results[name], 1):
                path = f"validations/{name}/chunk-{number:04d}.html"
                pages[path] = result_page.render(result)
        view = _page_view()
        write_pages(self._docs, {path: view.render(page) for path, page in pages.items()})

    def _validate(
        self, name: str, declared: Sequence[Check], frame: pd.DataFrame
    ) -> ExpectationSuiteValidationResult:
        from great_expectations import ExpectationSuite

        if name not in self._suites:
            self._suites[name] = self._context.suites.add(
                ExpectationSuite(name, expectations=[_expectation(check) for check in declared])
            )
        # With a named index and without values, failing rows come back as one list. Otherwise Great
        # Expectations looks them up one by one, 20 times slower.
        result_format = {
            "result_format": "COMPLETE",
            "unexpected_index_column_names": [_ROW],
            "exclude_unexpected_values": True,
            "return_unexpected_index_query": False,
        }
        result: ExpectationSuiteValidationResult = self._batch.get_batch(
            batch_parameters={"dataframe": frame}
        ).validate(self._suites[name], result_format=result_format)
        self._results.setdefault(name, []).append(result)
        return result


def _context() -> Any:
    """Return a context that keeps everything in memory and sends nothing."""
    from tasks.validate.library import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
        gx,
    )

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        data_docs_sites={},
        analytics_enabled=False,
        progress_bars=ProgressBarsConfig(globally=False),
    )
    return gx.get_context(project_config=config, mode="ephemeral")


@cache
def _page_view() -> Any:
    """Return what turns Great Expectations' pages into HTML, with its templates compiled once."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _asked(frame: pd.DataFrame, checks: Sequence[Check]) -> pd.DataFrame:
    """Return the checks' columns, missing where a check is not for the row's task type.

    Great Expectations compares int64 and float64 as whole columns, other types value by value.
    """
    columns = {}
    for check in checks:
        measured = frame[check.column]
        if check.types is not None:
            measured = measured.astype(np.float64).where(frame["task_type"].isin(check.types))
        columns[check.column] = measured
    return pd.DataFrame(columns, index=frame.index.rename(_ROW))


def _expectation(check: Check) -> Any:
    from great_expectations import expectations as gxe

    about: dict[str, Any] = {
        "meta": {"name": check.name},
        "description": f"{check.name}: {check.says}{_only_for(check)}",
    }
    if check.name == LABEL_BALANCE:
        return gxe.ExpectColumnMaxToBeBetween(column=check.column, max_value=check.high, **about)
    if check.value is not None:
        return gxe.ExpectColumnValuesToBeInSet(
            column=check.column, value_set=[check.value], **about
        )
    return gxe.ExpectColumnValuesToBeBetween(
        column=check.column, min_value=check.low, max_value=check.high, **about
    )


def _only_for(check: Check) -> str:
    return "" if check.types is None else f" (only {', '.join(check.types)})"


def _shown(result: dict[str, Any], rows: pd.DataFrame) -> dict[str, Any]:
    """Return a result with these failing rows (row_id, task type and value) instead of all: they
    may be the whole corpus.
    """
    kept = {
        key: value
        for key, value in result.items()
        if not key.startswith(("unexpected_index", "partial_unexpected"))
    }
    records = rows.astype(object).to_dict("records")
    values = rows.iloc[:, -1].tolist()
    return {
        **kept,
        "unexpected_index_column_names": ["row_id", "task_type"],
        "unexpected_index_list": records,
        "partial_unexpected_list": values,
        "partial_unexpected_index_list": records,
        "partial_unexpected_counts": [
            {"value": value, "count": values.count(value)} for value in dict.fromkeys(values)
        ],
    }
