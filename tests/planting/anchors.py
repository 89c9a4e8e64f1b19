"""Edits that are anchored in the code by names and syntax, not by lines of text.

An edit names a function, a class or an assignment, and the code in it that it replaces. The
code is compared as a syntax tree, so that formatting, comments and line breaks do not matter.
It must occur exactly once in that place.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import dedent, indent

from tests.planting import source
from tests.planting.source import Source

MODULE = "<module>"
"""The place that is outside all functions and classes."""

_GAP = r"""(?:\s|["']\s*f?["'])+"""
"""White space in SQL, also where one string literal ends and the next one begins."""

_ATOMS = (
    *(ast.Name, ast.Attribute, ast.Call, ast.Constant, ast.Subscript, ast.Starred),
    *(ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp),
)
"""Expressions that mean the same in any place without parentheses."""

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class NotAnchored(Exception):
    """The place does not exist, or does not have the code exactly once."""


@dataclass(frozen=True)
class Edit:
    """Replaces `old` by `new` in `place`, such as `services/tasks.py::update_task`.

    `old` and `new` are statements, an expression, or a keyword argument `name=value`. An empty
    `new` drops the code, with its comma. With `sql` they are parts of the text of a string literal,
    in which any white space matches any other.
    """

    place: str
    old: str
    new: str
    sql: bool = False

    @property
    def path(self) -> str:
        return self.place.partition("::")[0]

    @property
    def name(self) -> str:
        return self.place.partition("::")[2]


def apply(edit: Edit, text: str) -> str:
    """The text of the file with the edit. Raises NotAnchored."""
    file = Source(edit.path, text)
    nodes = [*_nodes(file.tree, edit)]
    matches = _sql(file, nodes, edit) if edit.sql else _code(file, nodes, edit)
    found = {each.span: each for each in matches}
    if len(found) != 1:
        raise NotAnchored(f"{edit.place} has this {len(found)} times, not once: {edit.old}")
    return file.mutated(*found.values())


def _nodes(tree: ast.Module, edit: Edit) -> Iterator[ast.AST]:
    if edit.name == MODULE:
        return _walk(tree, lambda child: not isinstance(child, _DEFINITIONS))
    scope: ast.AST = tree
    for part in edit.name.split("."):
        named = [each for each in getattr(scope, "body", []) if part in _names(each)]
        if len(named) != 1:
            raise NotAnchored(f"{edit.place} exists {len(named)} times, not once")
        [scope] = named
    return _walk(ast.Module([scope], []), lambda _: True)  # type: ignore[list-item]


def _names(statement: ast.stmt) -> Iterator[str]:
    """What a definition or an assignment defines."""
    if isinstance(statement, _DEFINITIONS):
        yield statement.name
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    for target in filter(None, targets):
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


def _walk(node: ast.AST, wanted: Callable[[ast.AST], bool]) -> Iterator[ast.AST]:
    """The node and what it contains, except for the parts of f-strings, which have no position."""
    yield node
    if not isinstance(node, ast.JoinedStr):
        for child in filter(wanted, ast.iter_child_nodes(node)):
            yield from _walk(child, wanted)


def _sql(file: Source, nodes: Sequence[ast.AST], edit: Edit) -> Iterator[source.Edit]:
    pattern = re.compile(_GAP.join(map(re.escape, edit.old.split())))
    for node in nodes:
        if isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        ):
            start, end = file.span(node)
            text = file.text((start, end))
            for found in pattern.finditer(text):
                first, last = (start + len(text[:place].encode()) for place in found.span())
                yield source.Edit((first, last), edit.new.encode())


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _code(file: Source, nodes: Sequence[ast.AST], edit: Edit) -> Iterator[source.Edit]:
    old, new = (ast.parse(dedent(snippet).strip()).body for snippet in (edit.old, edit.new))
    match old:
        case [ast.Expr(value=value)] if not new or _is_expression(new):
            yield from _expressions(file, nodes, value, edit.new)
        case [ast.Assign(targets=[ast.Name(id=name)], value=value)]:
            keyword = ast.keyword(name, value)
            same = (each for each in nodes if isinstance(each, ast.keyword) and _equal([each], [keyword]))
            for each in same:
                span = file.span(each)
                yield source.Edit(span, edit.new.strip().encode()) if new else file.without(span)
            yield from _statements(file, nodes, old, edit.new)
        case _:
            yield from _statements(file, nodes, old, edit.new)


def _is_expression(body: list[ast.stmt]) -> bool:
    return len(body) == 1 and isinstance(body[0], ast.Expr)


def _equal(these: Sequence[ast.AST], those: Sequence[ast.AST]) -> bool:
    return len(these) == len(those) and all(
        type(one) is type(other) and ast.dump(one) == ast.dump(other)
        for one, other in zip(these, those, strict=True)
    )


def _expressions(file: Source, nodes: Sequence[ast.AST], wanted: ast.expr, new: str) -> Iterator[source.Edit]:
    whole = {id(each.value) for each in nodes if isinstance(each, ast.Expr)}
    decorators = {id(each) for node in nodes for each in getattr(node, "decorator_list", [])}
    for node in nodes:
        if not isinstance(node, ast.expr) or not _equal([node], [wanted]):
            continue
        start, end = file.span(node)
        if new.strip():
            yield source.Edit((start, end), _parenthesized(new.strip(), node).encode())
        elif id(node) in whole:
            yield source.Edit((start, end), b"pass")
        elif id(node) in decorators:
            yield source.Edit((file.data.rindex(b"@", 0, start), end), b"")
        else:
            yield file.without((start, end))


def _parenthesized(new: str, old: ast.expr) -> str:
    node = ast.parse(new, mode="eval").body
    is_atom = isinstance(node, _ATOMS) and not (isinstance(node, ast.Constant) and "\n" in new)
    return new if is_atom and not isinstance(old, ast.GeneratorExp) else f"({new})"


def _statements(
    file: Source, nodes: Sequence[ast.AST], wanted: list[ast.stmt], new: str
) -> Iterator[source.Edit]:
    for node in nodes:
        for field in ("body", "orelse", "finalbody"):
            block = getattr(node, field, [])
            for start in range(len(block) - len(wanted) + 1 if isinstance(block, list) else 0):
                found = block[start : start + len(wanted)]
                if _equal(found, wanted):
                    first, last = file.span(found[0]), file.span(found[-1])
                    code = indent(dedent(new).strip(), " " * found[0].col_offset).lstrip() or "pass"
                    yield source.Edit((first[0], last[1]), code.encode())
