"""What the documents name exists: paths, make targets, modules, links, sections, settings."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import re
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.conftest import ROOT

_TOP = "tasks flows bonito tests docs datasets profiles matrices models supervision deploy schemas"
#: The first part of a path that is looked up. Others (artifacts/, local/, .runs/, data/) are made
#: by commands.
_FOLDERS = (*_TOP.split(), "requirements", "benchmarks", "scripts", ".ci")
_PATH = re.compile(
    rf"(?<![\w./:-])(?:{'|'.join(map(re.escape, _FOLDERS))})/[\w./*{{}}<>-]*(?:::\w+)?"
)
_FILE = re.compile(r"`([\w-]+\.(?:py|yaml|toml|md|dvc))`")
_MODULE = re.compile(r"python -m ([\w.]*\w)(?![\w.<])")
_IMPORT = re.compile(r"^ *from ([\w.]+) import", re.MULTILINE)
_MAKE = re.compile(r"\bmake ([a-z]+(?:-[a-z]+)*)\b")
_LINK = re.compile(r"\]\(([^)#\s]+)")
_SECTION = re.compile(r"\]\(([\w/.-]+\.md)\), \"([^\"]+)\"")
_ANCHOR = re.compile(r"\]\(([^)#\s]*)#([^)\s]+)\)")
#: Made by a command that the document shows, or an example's name.
_MADE = {"bonito/artifacts", "profiles/mine.yaml", "datasets/mine.yaml", "tests/faults"}
#: Names of settings in examples.
_MADE_SETTINGS = {"generate.x", "ingest.name"}


@cache
def tracked(*patterns: str) -> list[str]:
    command = ["git", "ls-files", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\n") if name and (ROOT / name).is_file()]
    assert names, patterns
    return names


DOCUMENTS = tracked("*.md")
#: Comments of these name paths too.
_COMMENTED = [
    *DOCUMENTS,
    *tracked("*.yaml", "*.in", "Makefile", "pyproject.toml", ".ci/*", "deploy/Dockerfile"),
    *tracked(*(f"{package}/*.py" for package in ("tasks", "flows", "bonito", "scripts"))),
]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code_of(name: str) -> str:
    """Everything in backticks, and the code blocks of a document."""
    text = text_of(name)
    code = re.findall(r"`([^`\n]+)`", text)
    if name.endswith(".md"):
        code += re.findall(r"^ {4,}\S.*$", text, re.MULTILINE)
        code += re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL)
    return "\n".join(code)


@cache
def exists(path: str) -> bool:
    """Whether a path of the repository is there, a pattern matches, or a test is defined."""
    path, _, test = path.partition("::")
    path = path.rstrip("./")
    if path in _MADE or any(path.startswith(f"{made}/") for made in _MADE):
        return True
    if re.search(r"[<{]", path):  # a placeholder
        return True
    found = list(ROOT.glob(path)) if path else []
    return bool(found) and (not test or f"def {test}(" in found[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", _COMMENTED)
def test_every_path_is_there(name: str) -> None:
    missing = sorted({path for path in _PATH.findall(text_of(name)) if not exists(path)})
    assert missing == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_of_the_root_or_beside_it_is_there(name: str) -> None:
    known = {Path(path).name for path in tracked("*")}
    made = {"CARD.md", "scores.md", "table.md", "templates.yaml", "mine.yaml", "sources.yaml"}
    assert sorted(set(_FILE.findall(text_of(name))) - known - made) == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    links = [link for link in _LINK.findall(text_of(name)) if "://" not in link]
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_anchor_is_a_heading(name: str) -> None:
    missing = [
        f"{page}#{anchor}"
        for page, anchor in _ANCHOR.findall(text_of(name))
        if "://" not in page
        and anchor not in anchors((ROOT / name).parent.joinpath(page) if page else ROOT / name)
    ]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """Return what GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_section_that_is_named_is_there(name: str) -> None:
    """``[faults.md](faults.md), "How it is tried"``: a heading, or bold words that begin a part."""
    text = re.sub(r"\s+", " ", text_of(name))
    for page, section in _SECTION.findall(text):
        other = re.sub(r"\s+", " ", text_of(f"{Path(name).parent}/{page}"))
        assert f"# {section} " in other or f"**{section}" in other, (page, section)


def test_the_list_of_pages_has_all_of_them() -> None:
    listed = set(_LINK.findall(text_of("docs/README.md")))
    pages = {Path(name).name for name in tracked("docs/*.md")} - {"README.md"}
    assert pages - listed == set()


@pytest.mark.parametrize("name", sorted({*DOCUMENTS} - {"CHANGELOG.md"}))
def test_every_setting_that_is_named_exists(name: str) -> None:
    settings = {
        f"{section}.{key}"
        for file in ("params.json", "bonito-params.json")
        for section, key in settings_of(ROOT / "schemas" / file)
    }
    sections = "|".join({setting.partition(".")[0] for setting in settings})
    named = re.findall(rf"(?<![\w./-])((?:{sections})\.(?!md\b)[a-z_]+)", code_of(name))
    assert sorted({*named} - settings - _MADE_SETTINGS) == []


def settings_of(schema: Path) -> Iterator[tuple[str, str]]:
    """Yield section and key of each setting that a schema has."""
    found = json.loads(schema.read_text(encoding="utf-8"))
    for section, told in found["properties"].items():
        (reference,) = re.findall(r"#/\$defs/(\w+)", json.dumps(told))
        yield from ((section, key) for key in found["$defs"][reference]["properties"])


@pytest.mark.parametrize("name", _COMMENTED)
def test_every_command_exists(name: str) -> None:
    text = text_of(name)
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    assert "run" in targets
    said = set(_MAKE.findall(code_of(name)))
    assert sorted(said - targets) == []
    assert [module for module in ours(_MODULE.findall(text)) if not runs(module)] == []
    assert [module for module in ours(_IMPORT.findall(text)) if spec_of(module) is None] == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_takes_the_pinned_packages(name: str) -> None:
    """The machine's own Python has none of them."""
    bare = re.findall(r"^ *(python (?:-m|scripts/).*)", text_of(name), re.MULTILINE)
    assert bare == []


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_name_in_a_snippet_exists(name: str) -> None:
    assert [name for code in snippets(text_of(name)) for name in unknown_names(code)] == []


def snippets(text: str) -> list[str]:
    """The Python of a document that imports modules of this repository: its indented and fenced
    blocks, without the shell around them.
    """
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE)
    blocks += re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    inner = [re.sub(r".*<<'END'\n|^ *END$", "", block, flags=re.MULTILINE) for block in blocks]
    return [textwrap.dedent(code) for code in inner if ours(_IMPORT.findall(code))]


def unknown_names(code: str) -> list[str]:
    """What a snippet imports from our modules, or takes from them or their classes, in vain."""
    tree, known, unknown = ast.parse(code), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and ours([node.module]):
            for alias in node.names:
                found = member(importlib.import_module(node.module), alias.name)
                known[alias.asname or alias.name] = found
                unknown += [f"{node.module}.{alias.name}"] if found is None else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            holder = known.get(node.value.id)
            if inspect.ismodule(holder) or inspect.isclass(holder):
                unknown += [ast.unparse(node)] if member(holder, node.attr) is None else []
    return unknown


def member(holder: object, name: str) -> object:
    """The attribute of a module or class, or the module in a package; None where there is none."""
    inside = f"{holder.__name__}.{name}" if inspect.ismodule(holder) else ""
    if inside and not hasattr(holder, name) and spec_of(inside):
        return importlib.import_module(inside)
    return getattr(holder, name, None)


def ours(modules: list[str]) -> list[str]:
    return [module for module in modules if module.partition(".")[0] in _FOLDERS]


def runs(module: str) -> bool:
    """Whether ``python -m module`` finds something to run."""
    found = spec_of(module)
    if found is None or found.submodule_search_locations is None:
        return found is not None
    return spec_of(f"{module}.__main__") is not None


def spec_of(module: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_fit_a_screen(name: str) -> None:
    """Tables and the lines of pictures may be longer."""
    long = [line for line in text_of(name).splitlines() if len(line) > 100 and line[0] != "|"]
    assert long == []


def test_the_changelog_says_nothing_twice() -> None:
    entries = re.split(r"\n(?=- |#)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    counts = Counter(entry.strip() for entry in entries if entry.startswith("- "))
    assert [entry for entry, count in counts.items() if count > 1] == []


def test_readme_is_read_in_a_minute() -> None:
    lines = text_of("README.md").splitlines()
    assert len(lines) <= 130
    assert next(i for i, line in enumerate(lines) if line == "## Your own documents") < 20


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("see tasks/spread.py", lambda text: [p for p in _PATH.findall(text) if not exists(p)]),
        ("python -m tasks.nothing", lambda text: [m for m in _MODULE.findall(text) if not runs(m)]),
        (
            "tests/test_graph.py::test_none",
            lambda t: [p for p in _PATH.findall(t) if not exists(p)],
        ),
        (
            "    .venv/bin/python - <<'END'\n    from tasks.ingest.readers import document\n"
            "    print(document.Nothing())\n    END\n",
            lambda text: unknown_names(snippets(text)[0]),
        ),
        ("    from tasks.core import gone\n", lambda text: unknown_names(snippets(text)[0])),
    ],
)
def test_what_is_not_there_is_found(text: str, check: object) -> None:
    assert callable(check)
    assert check(text)
