"""YAML that a person wrote, read strictly; every error is one line.

Beyond PyYAML's safe loader: a key given twice is an error, aliases cannot grow a file without
bound, and a date is text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tasks.core.errors import PipelineError

#: Most values of a file after its aliases are expanded.
_MOST_VALUES = 1_000_000


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; every problem is one :class:`PipelineError` that names the file."""
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError as error:
        raise PipelineError(f"{path} does not exist") from error
    except OSError as error:
        raise PipelineError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PipelineError(
            f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8"
        ) from error
    if not isinstance(values, dict):
        raise PipelineError(f"{path} must be a YAML mapping")
    return values


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text; ``where`` names it in the error."""
    try:
        return yaml.load(text, StrictLoader)  # noqa: S506 - a subclass of the safe loader
    except RecursionError as error:
        raise PipelineError(f"{where} is not valid YAML: nested too deeply") from error
    # The last three are PyYAML's own, where a tag such as !!bool is not that of its value.
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise PipelineError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error


class StrictLoader(yaml.SafeLoader):
    """The safe loader, without dates; a key given twice is an error."""

    #: Without dates: no setting is one, and `2024-13-45` looks like a date but is none.
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own declaration
        first: [(tag, form) for tag, form in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None and _size(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(f"its aliases stand for more than {_MOST_VALUES:,} values")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"key {twice!r} is given twice (mapping of line {line})")
        return super().construct_mapping(node, deep)


def _size(node: Any, sizes: dict[int, int]) -> int:
    """Return the number of values of a node; those of aliases count at every use."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_VALUES + 1  # seen again inside itself: endless
        parts = (part for entry in node.value for part in _parts(entry))
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def _parts(entry: Any) -> tuple[Any, ...]:
    return entry if isinstance(entry, tuple) else (entry,)
