"""Find Jinja expressions that print a passage: all of it, its pieces, or a part of it."""

from __future__ import annotations

from typing import Any, Literal

from jinja2 import nodes

#: What a variable holds: the passage, its pieces, perhaps a part of it, or something else.
Held = Literal["whole", "pieces", "part", "else"]

#: Filters and methods that keep the whole passage, in another case or with other spaces.
_WHOLE_FILTERS = frozenset(
    {"capitalize", "e", "escape", "forceescape", "indent", "join", "lower", "safe", "string"}
    | {"title", "trim", "upper", "wordwrap"}
)
_WHOLE_METHODS = frozenset(
    {"capitalize", "casefold", "lower", "lstrip", "rstrip", "strip", "swapcase", "title", "upper"}
)
#: Filters and methods that split a passage into pieces, or keep nearly all of them.
_PIECES_FILTERS = frozenset({"list", "map", "reject", "select"})
_PIECES_METHODS = frozenset({"split", "splitlines"})
#: Filters that print no text of their operand.
_MEASURES = frozenset({"count", "length", "wordcount"})


class PassageExpression:
    """The expression of a dataset's passage, and the variables of one template that hold it."""

    def __init__(self, passage: nodes.Template) -> None:
        self._sequence = _printed(passage)
        self._root = _root(passage)
        #: What the variables that the template sets hold; a column of that name is hidden by it.
        self._held: dict[str, Held] = {}

    def width(self, row: list[nodes.Expr]) -> int:
        """Return how many of the first expressions of ``row`` together print the passage, or 0."""
        found = bool(self._sequence) and row[: len(self._sequence)] == self._sequence
        if found and not any(_names(node) & set(self._held) for node in self._sequence):
            return len(self._sequence)
        if (
            len(row) > 1
            and self._is_slice(_unwrap(row[0]), nodes.Const(0))
            and self._is_slice(_unwrap(row[1]), _TAIL)
        ):
            return 2
        return 1 if self.is_whole(row[0]) else 0

    def is_whole(self, node: nodes.Node) -> bool:
        """Tell whether the expression is the passage, case and spaces aside."""
        if isinstance(node, nodes.Name) and node.name in self._held:
            return self._held[node.name] == "whole"
        if self._root is not None and _path(node) == _path(self._root):
            return not _names(node) & set(self._held)
        if isinstance(node, nodes.Filter) and node.node is not None:
            if node.name == "join":
                return self.is_pieces(node.node)
            return (
                node.name in _WHOLE_FILTERS or _replaces_constants(node.name, node.args)
            ) and self.is_whole(node.node)
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            kept = node.node.attr in _WHOLE_METHODS or _replaces_constants(
                node.node.attr, node.args
            )
            return kept and self.is_whole(node.node.node)
        return False

    def is_pieces(self, node: nodes.Node) -> bool:
        """Tell whether the expression is the list of all pieces, or a passage that is a list."""
        if isinstance(node, nodes.Name) and self._held.get(node.name) == "pieces":
            return True
        if (
            isinstance(node, nodes.Filter)
            and node.node is not None
            and node.name in _PIECES_FILTERS
        ):
            return self.is_pieces(node.node)
        if (
            isinstance(node, nodes.Call)
            and isinstance(node.node, nodes.Getattr)
            and node.node.attr in _PIECES_METHODS
        ):
            return self.is_whole(node.node.node)
        return self.is_whole(node)

    def reaches_text(self, node: nodes.Node) -> bool:
        """Tell whether the expression may print text of the passage."""
        if isinstance(node, (nodes.Compare, nodes.Not, nodes.Test)) or (
            isinstance(node, nodes.Filter) and node.name in _MEASURES
        ):
            return False
        if self.is_whole(node) or (
            isinstance(node, nodes.Name) and self._held.get(node.name, "else") != "else"
        ):
            return True
        return any(self.reaches_text(inner) for inner in node.iter_child_nodes())

    def remember(self, target: nodes.Node, value: nodes.Node) -> None:
        """Note what a variable holds from here on: the passage, its pieces, a part, or none."""
        if not isinstance(target, nodes.Name):
            self.remember_part(target, value)
        elif self.is_whole(value):
            self._held[target.name] = "whole"
        elif self.is_pieces(value):
            self._held[target.name] = "pieces"
        else:
            self.remember_part(target, value)

    def remember_part(self, target: nodes.Node, value: nodes.Node) -> None:
        """Note variables that hold a part of the passage, or none of it."""
        held: Held = "part" if self.reaches_text(value) else "else"
        self._held |= dict.fromkeys(_names(target), held)

    def hide(self, target: nodes.Node) -> None:
        """Note variables that hold what is already rewritten, or is not known."""
        self._held |= dict.fromkeys(_names(target), "else")

    def held(self) -> dict[str, Held]:
        """Return what the variables hold here."""
        return dict(self._held)

    def hold(self, *ways: dict[str, Held]) -> None:
        """Go on with what the variables hold at the end of one of several ways through a template.

        A variable that they disagree on may hold the passage, and is not taken for it.
        """
        self._held = {}
        for name in {name for way in ways for name in way}:
            is_root = isinstance(self._root, nodes.Name) and self._root.name == name
            own: Held = "whole" if is_root else "else"
            kinds = {way.get(name, own) for way in ways}
            self._held[name] = kinds.pop() if len(kinds) == 1 else "part"

    def _is_slice(self, node: nodes.Node, piece: nodes.Node) -> bool:
        return isinstance(node, nodes.Getitem) and node.arg == piece and self.is_whole(node.node)


_TAIL = nodes.Slice(nodes.Const(1), None, None)


def find_printed(node: nodes.Expr) -> list[tuple[nodes.Node, str]]:
    """Return the places (holder, field) of the operands whose text an expression prints, plain or
    formatted.

    Examples: ``(context ~ title) | upper``, ``a if b else c`` without its condition,
    ``"\\n".join([...])``, a macro's arguments. Empty for other expressions.
    """
    if isinstance(node, (nodes.Add, nodes.Concat, nodes.List, nodes.Tuple)):
        return [(node, name) for name in ("nodes", "items", "left", "right") if hasattr(node, name)]
    if isinstance(node, nodes.CondExpr):
        return [(node, "expr1"), *([(node, "expr2")] if node.expr2 is not None else [])]
    if isinstance(node, nodes.Filter) and node.node is not None and node.name in _WHOLE_FILTERS:
        return [(node, "node")]
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return (
            [(node.node, "node"), (node, "args")]
            if node.node.attr in {*_WHOLE_METHODS, "join"}
            else []
        )
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name):
        return [(node, "args")]
    return []


def is_printed_alone(loop: nodes.For) -> bool:
    """Tell whether a loop prints each of its items, and besides only fixed text and its counter."""
    targets = _names(loop.target)
    printed = {name for output in loop.find_all(nodes.Output) for name in _names(output)}
    return (
        loop.test is None
        and not loop.else_
        and bool(printed & targets)
        and printed <= targets | {"loop"}
    )


def _names(node: nodes.Node) -> set[str]:
    names = {name.name for name in node.find_all(nodes.Name)}
    return names | {node.name} if isinstance(node, nodes.Name) else names


def _printed(passage: nodes.Template) -> list[nodes.Expr]:
    """Return the expressions that a passage prints, if it only prints."""
    return (
        list(passage.body[0].nodes)
        if len(passage.body) == 1 and isinstance(passage.body[0], nodes.Output)
        else []
    )


def _root(passage: nodes.Template) -> nodes.Node | None:
    """Return the column of a passage, without the filters around it; None if it has several."""
    printed = _printed(passage)
    if len(printed) == 1:
        return _unwrap(printed[0])
    if len(printed) == 2:  # the head and the tail of one text, each with filters of its own
        head, tail = (_unwrap(node) for node in printed)
        return (
            head.node
            if isinstance(head, nodes.Getitem)
            and isinstance(tail, nodes.Getitem)
            and head.node == tail.node
            else None
        )
    loops = [node for node in passage.body if isinstance(node, nodes.For)]
    return _unwrap(loops[0].iter) if len(loops) == 1 else None


def _unwrap(node: nodes.Node) -> nodes.Node:
    """Return what filters and methods are applied to."""
    while True:
        if isinstance(node, nodes.Filter) and node.node is not None:
            node = node.node
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            node = node.node.node
        else:
            return node


def _path(node: nodes.Node) -> Any:
    """Return a column's path as a tuple, equal for ``a.b`` and ``a['b']``; else the expression."""
    if isinstance(node, nodes.Name):
        return (node.name,)
    last = step(node)
    inner = (
        _path(node.node)
        if isinstance(node, (nodes.Getattr, nodes.Getitem)) and last is not None
        else None
    )
    return (*inner, last) if isinstance(inner, tuple) else node


def step(node: nodes.Node) -> Any:
    """Return the name or number that ``a.name`` or ``a["name"]`` looks up, else None."""
    if isinstance(node, nodes.Getattr):
        return node.attr
    return (
        node.arg.value
        if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const)
        else None
    )


def _replaces_constants(name: str, arguments: list[nodes.Expr]) -> bool:
    """Tell whether it is ``replace`` with fixed texts, which only formats a passage."""
    return name == "replace" and all(isinstance(argument, nodes.Const) for argument in arguments)
