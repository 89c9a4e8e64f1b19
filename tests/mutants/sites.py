"""Walks the nodes of a file that may be mutated, each with the name of its function or class.

Left out: docstrings, annotations (but not the constraints in `Annotated[…]`), `__all__`,
type variables, `assert` (it narrows types), and what only a type checker runs.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, replace

_TYPE_VARIABLES = {"TypeVar", "ParamSpec"}


@dataclass(frozen=True)
class Site:
    """`name` is the qualified name of the enclosing function or class, empty at the top level."""

    node: ast.AST
    name: str
    statement: ast.stmt
    """The top-level statement."""


def sites(tree: ast.Module) -> Iterator[Site]:
    for statement in tree.body:
        yield from _walk(Site(statement, "", statement))


def _walk(site: Site) -> Iterator[Site]:
    if _is_left_out(site.node):
        return
    if isinstance(site.node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        site = replace(site, name=f"{site.name}.{site.node.name}".lstrip("."))
    yield site
    for child in _children(site.node):
        yield from _walk(replace(site, node=child))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name in {"annotation", "returns"}:
                yield from _constraints(child)
            elif isinstance(child, ast.AST):
                yield child


def _constraints(annotation: ast.AST | None) -> Iterator[ast.AST]:
    """What follows the type in every `Annotated[…]` of an annotation."""
    for node in ast.walk(annotation) if annotation else ():
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Annotated":
            assert isinstance(node.slice, ast.Tuple)
            yield from node.slice.elts[1:]


def _is_left_out(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.Expr(value=ast.Constant()) | ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.Assign(value=ast.Call(func=ast.Name(id=name))):
            return name in _TYPE_VARIABLES
    return False
