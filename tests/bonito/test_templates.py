"""Templates and their types are read as they are written, and what is wrong with a file is said."""

from pathlib import Path

import pytest
from jinja2.exceptions import SecurityError, UndefinedError

from bonito.sources import load_datasets
from bonito.templating.sandbox import BadLabel, Choices, Sandbox, protect, split
from bonito.templating.templates import load_task_types, load_templates
from tasks.core.errors import PipelineError

ONE = """dataset: toy
templates:
  a1: !Template
    answer_choices: No ||| Yes
    id: a1
    jinja: '{{text}} Good? ||| {{answer_choices[label]}}'
    metadata: !TemplateMetadata
      original_task: true
    name: is it good
    reference: ''
"""


def folder(tmp_path: Path, text: str = ONE, place: str = "toy") -> Path:
    path = tmp_path / "templates" / place / "templates.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return tmp_path / "templates"


def test_a_template_is_read_with_its_type(tmp_path: Path) -> None:
    (template,) = load_templates(
        folder(tmp_path, place="toy/small"), {("toy", "small", "is it good"): "sentiment"}
    )
    assert template.key == ("toy", "small", "is it good")
    assert (template.answer_choices, template.task_type) == ("No ||| Yes", "sentiment")
    assert str(template) == "toy/small: is it good"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("templates: [", "not a promptsource file"),
        ("dataset: toy", "no mapping 'templates'"),
        ("templates: {a: {name: x}}", "needs 'name' and 'jinja'"),
        ("templates: {a: !!python/object/apply:os.system [true]}", "not a promptsource file"),
        ("templates: {a: {name: x, jinja: y, answer_choices: [No, Yes]}}", "must be one text"),
        (ONE + ONE[ONE.index("  a1") :].replace("is it good", "is it bad"), "'a1' is given twice"),
        (
            ONE + ONE[ONE.index("  a1") :].replace("a1:", "a2:"),
            "two templates are called 'is it good'",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(PipelineError, match=r"templates\.yaml") as caught:
        load_templates(folder(tmp_path, text), {})
    assert said in str(caught.value)


def test_a_folder_without_templates_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"holds no templates\.yaml"):
        load_templates(tmp_path, {})


def test_task_types_are_checked_by_line(tmp_path: Path) -> None:
    table = tmp_path / "types.csv"
    table.write_text(
        "dataset_name,dataset_config_name,template_name,task_type\ntoy,,a,sentiment\ntoy,,b,sentimant\n"
    )
    with pytest.raises(PipelineError, match=r"types\.csv, line 3: .*did you mean 'sentiment'"):
        load_task_types([table])


_HEAD = b"dataset_name,dataset_config_name,template_name,task_type\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (_HEAD + b"toy,a,sentiment\n", "line 2 does not have 4 cells"),
        (_HEAD + b"toy,,a,b,sentiment\n", "line 2 does not have 4 cells"),
        (_HEAD + b"toy,,\xe9,sentiment\n", "cannot be read as a table of UTF-8"),
        (b"dataset_name,template_name,task_type\n", "lacks the column 'dataset_config_name'"),
        (b"", "lacks the column 'dataset_name'"),
    ],
)
def test_a_bad_table_of_task_types_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "types.csv").write_bytes(content)
    with pytest.raises(PipelineError, match=r"types\.csv") as caught:
        load_task_types([tmp_path / "types.csv"])
    assert said in str(caught.value)


def test_a_table_of_task_types_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """As those that a spreadsheet writes."""
    (tmp_path / "types.csv").write_bytes(b"\xef\xbb\xbf" + _HEAD + b"toy,,a,exqa\n")
    assert load_task_types([tmp_path / "types.csv"]) == {("toy", "", "a"): "exqa"}


def test_the_shipped_tables_hold_what_the_paper_states() -> None:
    types = load_task_types([Path("bonito/task_types.csv")])
    datasets = load_datasets([Path("bonito/datasets.yaml")])
    assert (len(types), len(set(types.values())), len(datasets)) == (323, 16, 39)
    assert {key[:2] for key in types} <= set(datasets)
    assert datasets["anli", ""].split == "train_r3"


def test_the_sandbox_is_strict_closed_and_bounded() -> None:
    sandbox = Sandbox()
    for jinja, error in (
        ("{{ missing }}", UndefinedError),
        ("{{ x.__class__ }}", SecurityError),
        ("{{ x | attr('__class__') }}", SecurityError),
        ("{{ 'x' * 10000000 }}", SecurityError),
        ("{{ 9 ** 999999 }}", SecurityError),
    ):
        with pytest.raises(error):
            sandbox.from_string(jinja).render(x="text")
    with pytest.raises(SecurityError):
        sandbox.from_string("{{ x.append(1) }}").render(x=[])


def test_promptsource_filters() -> None:
    sandbox = Sandbox()
    assert (
        sandbox.from_string("{{ x | most_frequent | join(',') }}").render(
            x=["b", "a", "b", "a", "c"]
        )
        == "b,a"
    )
    drawn = []
    for seed in (1, 2, 1, 3):
        sandbox.seed(seed)
        drawn.append(sandbox.from_string("{{ x | choice }}").render(x=list(range(1000))))
    assert drawn[0] == drawn[2]
    assert len(set(drawn)) == 3


def test_pipes_inside_a_row_split_nothing() -> None:
    row = protect({"text": "a ||| b", "answers": {"text": ["c|||d"]}})
    assert split(Sandbox().from_string("{{ text }} ||| {{ answers.text[0] }}").render(row)) == [
        "a ||| b",
        "c|||d",
    ]


@pytest.mark.parametrize("label", [-1, 2])
def test_a_label_outside_the_choices_is_refused(label: int) -> None:
    with pytest.raises(
        BadLabel, match=f"label {label} is out of range: the template has 2 answer choices"
    ):
        Choices(["No", "Yes"])[label]
