"""Supervision sources and mixes of them: what is written, what is refused, how many rows."""

from __future__ import annotations

import re

import pytest

from tasks.core.errors import PipelineError
from tasks.core.mix import PATTERN, SOURCES, parse_mix
from tasks.core.overlay import overlay
from tasks.core.params import parse_params
from tasks.core.yaml_file import read_yaml
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("text", "written", "generator"),
    [
        *((name, name, name if name in ("bonito", "prompted") else "") for name in SOURCES),
        (" bonito + constructed : .50 ", "bonito+constructed:0.5", "bonito"),
        ("constructed+prompted:0.25", "constructed+prompted:0.25", "prompted"),
        ("tapt+p3+constructed:0.30", "tapt+p3+constructed:0.3", ""),
    ],
)
def test_a_mix_has_one_spelling_and_at_most_one_generator(
    text: str, written: str, generator: str
) -> None:
    mix = parse_mix(text)
    assert str(mix) == written and mix.generator == generator
    assert parse_mix(written) == parse_mix(str(mix))
    assert text == "none" or re.fullmatch(PATTERN, text), "an editor would mark it as wrong"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bonitto", "unknown supervision 'bonitto' (did you mean 'bonito'?)"),
        ("bonito+", "unknown supervision '' (known: bonito, constructed"),
        ("bonito+claims:0.5", "unknown supervision 'claims'"),
        ("bonito:0.5", "the first source comes whole: write 'bonito' without a share"),
        ("bonito:0.5+tapt", "the first source comes whole"),
        ("bonito+tapt:half", "the share of 'tapt', 'half', is not a number between 0 and 1"),
        ("bonito+tapt:", "the share of 'tapt', '', is not a number"),
        ("bonito+tapt:0.0", "'0.0', is not a number between 0 and 1"),
        ("bonito+tapt:1", "'1', is not a number between 0 and 1"),
        ("bonito+tapt:-0.5", "'-0.5', is not a number between 0 and 1"),
        ("bonito+tapt:0.5+constructed:0.5", "must sum to less than 1"),
        ("bonito+tapt:0.5+tapt:0.2", "'tapt' is in the mix twice"),
        ("bonito+none", "none means no training: it cannot be in a mix"),
        (
            "bonito+prompted:0.5",
            "bonito and prompted cannot be in one mix: a run has one generator",
        ),
        ("labelled+p3", "p3 and labelled cannot be in one mix: both are read from supervise.rows"),
    ],
)
def test_a_bad_mix_is_one_line(text: str, message: str) -> None:
    values = overlay(read_yaml(ROOT / "params.yaml"), {"supervise": {"source": text}})
    with pytest.raises(PipelineError, match=re.escape(message)) as refused:
        parse_params(values, "params.yaml")
    assert "supervise.source" in str(refused.value) and "\n" not in str(refused.value)


def test_a_mix_written_as_a_mapping_is_refused() -> None:
    values = overlay(read_yaml(ROOT / "params.yaml"), {"supervise": {"source": {"bonito": 0.5}}})
    with pytest.raises(PipelineError, match="supervise"):
        parse_params(values, "params.yaml")


@pytest.mark.parametrize(
    ("text", "whole", "most", "expected"),
    [
        ("bonito", 7, 0, (7, {})),
        ("bonito", 7, 5, (5, {})),
        ("bonito+constructed", 7, 9, (7, {})),
        ("bonito+constructed:0.5", 7, 0, (7, {"constructed": 7})),
        ("bonito+constructed:0.3", 70, 0, (70, {"constructed": 30})),
        ("bonito+constructed:0.3", 70, 10, (7, {"constructed": 3})),
        ("bonito+constructed:0.3", 7, 100, (7, {"constructed": 3})),
        ("bonito+constructed:0.5", 7, 1, (1, {"constructed": 0})),
        ("bonito+tapt:0.2+constructed:0.3", 50, 0, (50, {"tapt": 20, "constructed": 30})),
    ],
)
def test_rows_are_allotted_by_the_shares_of_the_rows_together(
    text: str, whole: int, most: int, expected: tuple[int, dict[str, int]]
) -> None:
    assert parse_mix(text).allot(whole, most) == expected


def test_shares_are_met_to_within_a_row_and_no_row_is_too_many() -> None:
    mix = parse_mix("bonito+tapt:0.333+constructed:0.21")
    for whole in range(1, 60):
        of_whole, _ = mix.allot(whole)
        assert of_whole == whole
        for most in range(1, 60):
            of_whole, shared = mix.allot(whole, most)
            total = of_whole + sum(shared.values())
            assert 0 < of_whole <= whole and total <= most
            assert abs(shared["tapt"] - 0.333 * total) < 1
            assert abs(shared["constructed"] - 0.21 * total) < 1
