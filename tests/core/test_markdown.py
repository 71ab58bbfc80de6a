"""Markdown tables."""

from __future__ import annotations

from tasks.core.markdown import table


def test_pipes_and_line_breaks_stay_inside_their_cell() -> None:
    rows = [("a|b", 12345, 0.25), ("two\nlines", True, "")]
    assert table(("name", "rows", "share"), rows).splitlines() == [
        "| name | rows | share |",
        "| --- | --- | --- |",
        "| a\\|b | 12,345 | 0.25 |",
        "| two lines | True |  |",
    ]


def test_a_padded_table_is_aligned() -> None:
    lines = table(("bench", "x"), [("generate", "1.25"), ("a", "")], padded=True).splitlines()
    assert lines == [
        "| bench    | x    |",
        "| -------- | ---- |",
        "| generate | 1.25 |",
        "| a        |      |",
    ]


def test_a_table_without_rows_has_its_heads() -> None:
    assert table(("a", "b"), []) == "| a | b |\n| --- | --- |"
