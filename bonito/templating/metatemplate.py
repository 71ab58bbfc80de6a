"""Meta-templates: a prompt template whose passage is the placeholder ``{{context}}``.

The template is parsed by Jinja and its syntax tree is changed, so it does not matter how the
passage is written: with other spaces, through filters (``upper``, ``trim``, ``join``), string
methods, concatenation, a variable, or a loop over its pieces.
"""

from __future__ import annotations

from dataclasses import dataclass

from jinja2 import Template as Compiled
from jinja2 import nodes
from jinja2.exceptions import TemplateError

from bonito.templating.expressions import PassageExpression, find_printed, is_printed_alone, step
from bonito.templating.sandbox import Sandbox
from bonito.templating.templates import PromptTemplate
from tasks.core.errors import did_you_mean

#: The passage in a meta-template.
PLACEHOLDER = "{{context}}"
#: The placeholder while a template is rendered: one private-use character, which no filter for case
#: or spaces changes.
MARK = "\ue0c7"


class Unconvertible(Exception):
    """A template has no meta-template; ``status`` is one word for tables."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class MetaTemplate:
    """A compiled meta-template, which renders :data:`MARK` for the passage; ``choices`` renders its
    answer choices.
    """

    template: PromptTemplate
    body: Compiled
    choices: Compiled | None


def convert(template: PromptTemplate, passage: str, sandbox: Sandbox) -> MetaTemplate:
    """Replace every expression that inserts the passage, which is Jinja text such as ``{{ article
    }}``.

    Raises :class:`Unconvertible` with the status ``syntax``, ``refused``, ``part`` or
    ``no_passage``. The template is only compiled, but call it under limits: Jinja folds some
    constants there.
    """
    try:
        tree = sandbox.parse(template.jinja)
        _refuse_insides(tree)
        _refuse_unknown(tree, sandbox)
        _Rewriter(PassageExpression(sandbox.parse(passage))).run(tree)
        body = Compiled.from_code(sandbox, sandbox.compile(tree), sandbox.make_globals(None))
        return MetaTemplate(
            template,
            body,
            sandbox.from_string(template.answer_choices) if template.answer_choices else None,
        )
    except TemplateError as error:
        raise Unconvertible("syntax", f"not valid Jinja: {error}") from error


def _refuse_insides(tree: nodes.Template) -> None:
    """Refuse access to Python's internals first; the sandbox would stop it only when rendered."""
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        name = step(node)
        if isinstance(name, str) and name.startswith("_"):
            raise Unconvertible(
                "refused", f"it reads the attribute {name!r}, which templates may not"
            )


def _refuse_unknown(tree: nodes.Template, sandbox: Sandbox) -> None:
    """Refuse an unknown filter or test; Jinja reports it only on the first row that needs it."""
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        known = sandbox.filters if isinstance(node, nodes.Filter) else sandbox.tests
        if node.name not in known:
            kind, hint = type(node).__name__.lower(), did_you_mean(node.name, known)
            raise Unconvertible("syntax", f"there is no {kind} {node.name!r}{hint}")


class _Rewriter:
    """Walks a template in rendering order, puts the placeholder where the passage is printed, and
    counts passages and parts of them.
    """

    def __init__(self, passage: PassageExpression) -> None:
        self.passage = passage
        self.replaced = 0
        self.parts = 0

    def run(self, tree: nodes.Template) -> None:
        """Rewrite a whole template in place."""
        self.body(tree.body)
        if not self.replaced and self.parts:
            raise Unconvertible(
                "part",
                "it inserts a part of the passage, or a changed one: the placeholder is all of it",
            )
        if not self.replaced:
            raise Unconvertible("no_passage", "it never inserts the passage")

    def body(self, statements: list[nodes.Node]) -> None:
        statements[:] = [self.statement(statement) for statement in statements]

    def statement(self, node: nodes.Node) -> nodes.Node:
        """Return the replacement of one statement, its inner statements rewritten."""
        if isinstance(node, nodes.Output):
            node.nodes = self.printed(node.nodes)
            return node
        if (
            isinstance(node, nodes.For)
            and self.passage.is_pieces(node.iter)
            and is_printed_alone(node)
        ):
            return nodes.Output([self.mark()], lineno=node.lineno)
        if isinstance(node, nodes.Assign):
            self.passage.remember(node.target, node.node)
        elif isinstance(node, nodes.If):
            self.branches(node)
        else:
            self.scope(node)
        if isinstance(node, nodes.AssignBlock):
            self.passage.hide(node.target)
        return node

    def branches(self, node: nodes.If) -> None:
        """Rewrite the branches of a condition; only one of them sets its variables."""
        before, after = self.passage.held(), []
        for body in (node.body, *(inner.body for inner in node.elif_), node.else_):
            self.passage.hold(before)
            self.body(body)
            after.append(self.passage.held())
        self.passage.hold(*after)

    def scope(self, node: nodes.Node) -> None:
        """Rewrite the inner statements of a loop, macro or block, whose variables end with it."""
        before = self.passage.held()
        if isinstance(node, nodes.For):
            self.passage.remember_part(node.target, node.iter)
        elif isinstance(node, nodes.With):
            for target, value in zip(node.targets, node.values, strict=True):
                self.passage.remember(target, value)
        elif isinstance(node, (nodes.Macro, nodes.CallBlock)):
            for argument in node.args:
                self.passage.hide(argument)
        for inner in ("body", "else_"):
            if hasattr(node, inner):
                self.body(getattr(node, inner))
        self.passage.hold(before)

    def printed(self, row: list[nodes.Expr]) -> list[nodes.Expr]:
        """Rewrite expressions that are printed in a row; several together may be the passage
        (``{{x[0]|upper}}{{x[1:]}}``).
        """
        result: list[nodes.Expr] = []
        while row:
            width = self.passage.width(row)
            result.append(self.mark() if width else self.value(row[0]))
            row = row[max(width, 1) :]
        return result

    def value(self, node: nodes.Expr) -> nodes.Expr:
        """Return a printed expression with the placeholder for every passage that it prints."""
        if self.passage.is_whole(node):
            return self.mark()
        inside = find_printed(node)
        if not inside:
            self.parts += self.passage.reaches_text(node)
        for holder, name in inside:
            held = getattr(holder, name)
            setattr(
                holder,
                name,
                [self.value(inner) for inner in held]
                if isinstance(held, list)
                else self.value(held),
            )
        return node

    def mark(self) -> nodes.Expr:
        self.replaced += 1
        return nodes.Const(MARK)
