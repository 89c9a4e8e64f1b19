"""The mutation operators: each yields the edits that it makes at one node.

An operator may yield an edit that is not valid Python; the caller drops it.
"""

import ast
import re
from collections.abc import Callable, Iterator
from itertools import pairwise

from tests.mutants import sql
from tests.planting.source import Edit, Source, Span

Operator = Callable[[Source, ast.AST], Iterator[Edit]]

_NEGATED = {
    "==": "!=",
    "!=": "==",
    "<": ">=",
    "<=": ">",
    ">": "<=",
    ">=": "<",
    "is": "is not",
    "is not": "is",
    "in": "not in",
    "not in": "in",
}
_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_COMPARISON = re.compile(r"is\s+not\b|not\s+in\b|is\b|in\b|[=!<>]=|[<>]")

_ARITHMETIC = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*")}

_PREDICATES = {"where", "and_", "or_", "having"}
_WITHOUT_EFFECT_ON_TYPE = {
    *("where", "order_by", "limit", "offset", "desc", "distinct"),
    *("lower", "upper", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"),
}
"""Methods whose result has the type of their object, so that dropping the call leaves valid code."""

_TWO_ARGUMENTS = {"isinstance", "issubclass", "cast"}
"""Functions that always need their last argument."""

_WORDS = re.compile(r"\w+(?:, ?\w+)+")


def negate_comparison(source: Source, node: ast.AST) -> Iterator[Edit]:
    yield from _replace_comparison(source, node, _NEGATED)


def boundary(source: Source, node: ast.AST) -> Iterator[Edit]:
    yield from _replace_comparison(source, node, _BOUNDARY)


def _replace_comparison(source: Source, node: ast.AST, by: dict[str, str]) -> Iterator[Edit]:
    if not isinstance(node, ast.Compare):
        return
    operands = [node.left, *node.comparators]
    for gap in _gaps(source, operands):
        found = _COMPARISON.search(source.text(gap))
        new = by.get(" ".join(found[0].split())) if found else None
        if found and new:
            yield _replace_match(gap, found, new)


def swap_boolean(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`and` ↔ `or`, one at a time."""
    if isinstance(node, ast.BoolOp):
        for gap in _gaps(source, node.values):
            found = re.search(r"\b(and|or)\b", source.text(gap))
            assert found is not None
            yield _replace_match(gap, found, "or" if found[0] == "and" else "and")


def drop_not(source: Source, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        start, end = source.span(node)
        found = re.match(r"not\s*", source.text((start, end)))
        yield _replace_match((start, end), found, "")


def force_condition(source: Source, node: ast.AST) -> Iterator[Edit]:
    """A condition that is always true or always false. `while True` is not tried: it never ends."""
    tests = node.ifs if isinstance(node, ast.comprehension) else [getattr(node, "test", None)]
    for test in tests:
        if isinstance(test, ast.expr) and not isinstance(test, ast.Constant):
            if not isinstance(node, ast.While):
                yield Edit(source.span(test), b"True")
            yield Edit(source.span(test), b"False")


def swap_arithmetic(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`+` ↔ `-` and `*` ↔ `/`, except for strings, where they raise a TypeError."""
    if not isinstance(node, ast.BinOp) or type(node.op) not in _ARITHMETIC:
        return
    if any(isinstance(each, ast.JoinedStr | ast.List) or _is_text(each) for each in (node.left, node.right)):
        return
    old, new = _ARITHMETIC[type(node.op)]
    [gap] = _gaps(source, [node.left, node.right])
    yield _replace_match(gap, re.search(re.escape(old), source.text(gap)), new)


def change_number(source: Source, node: ast.AST) -> Iterator[Edit]:
    if not isinstance(node, ast.Constant) or isinstance(node.value, bool):
        return
    if isinstance(node.value, int | float):
        for new in (node.value + 1, node.value - 1):
            yield Edit(source.span(node), f"({new})".encode() if new < 0 else str(new).encode())


def flip_boolean(source: Source, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield Edit(source.span(node), str(not node.value).encode())


def change_text(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Append a letter to a string, unless it is SQL or a list of words, which have their own operators."""
    if _is_text(node) or isinstance(node, ast.JoinedStr):
        assert isinstance(node, ast.expr)
        span = source.span(node)
        text = source.text(span)
        if not sql.is_sql(text) and not _is_word_list(node):
            end = span[1] - (3 if text.endswith(('"""', "'''")) else 1)
            yield Edit((end, end), b"X")


def drop_word(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drop a word from a string such as `"title, description"`."""
    if _is_word_list(node):
        assert isinstance(node, ast.Constant)
        start = source.span(node)[0]
        for pattern in (r"\w+, ?", r", ?\w+(?=[\"'])"):
            for word in re.finditer(pattern, source.text(source.span(node))):
                yield Edit((start + word.start(), start + word.end()), b"")


def change_sql(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drop or weaken one clause of the SQL in a string."""
    if _is_text(node) or isinstance(node, ast.JoinedStr):
        assert isinstance(node, ast.expr)
        start, end = source.span(node)
        text = source.text((start, end))
        for first, last, new in sql.weakened(text) if sql.is_sql(text) else ():
            yield Edit((start + len(text[:first].encode()), start + len(text[:last].encode())), new.encode())


def weaken_predicate(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Replace a predicate in `.where(…)` or `and_(…)` by true."""
    if isinstance(node, ast.Call) and _called(node) in _PREDICATES:
        for argument in node.args:
            yield Edit(source.span(argument), b"True")


def drop_call(source: Source, node: ast.AST) -> Iterator[Edit]:
    """`x.order_by(…)` becomes `x`."""
    match node:
        case ast.Call(func=ast.Attribute(value=value, attr=name)) if name in _WITHOUT_EFFECT_ON_TYPE:
            yield Edit((source.span(value)[1], source.span(node)[1]), b"")


def drop_argument(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drop a keyword argument, or the last of several positional ones: those may have a default."""
    if not isinstance(node, ast.Call):
        return
    elements = source.elements(_inside(source, node))
    positional = [each for each in elements if source.text(each)[0] != "*"][: len(node.args)]
    for element in elements[len(node.args) :]:
        # Slots only save memory.
        if source.text(element) != "slots=True":
            yield source.without(element)
    if len(positional) > 1 and _called(node) not in _TWO_ARGUMENTS:
        yield source.without(positional[-1])


def drop_entry(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Drop an entry of a dict, list, set or tuple, except of a pair, which is unpacked."""
    if isinstance(node, ast.Dict | ast.List | ast.Set | ast.Tuple):
        if isinstance(node, ast.Tuple) and len(node.elts) == 2:
            return
        start, end = source.span(node)
        # A tuple without brackets may begin with one that has some.
        nested = isinstance(node, ast.Tuple) and node.elts and source.span(node.elts[0])[0] == start
        bracketed = source.data[start : start + 1] in b"([{" and not nested
        for element in source.elements((start + 1, end - 1)) if bracketed else ():
            yield source.without(element)


def drop_statement(source: Source, node: ast.AST) -> Iterator[Edit]:
    match node:
        case ast.Expr(value=ast.Yield() | ast.YieldFrom()):
            return
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield Edit(source.span(node), b"pass")
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Delete():
            yield Edit(source.span(node), b"pass")


def return_none(source: Source, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Return) and node.value and not _is_none(node.value):
        yield Edit(source.span(node), b"return None")


def change_raised(source: Source, node: ast.AST) -> Iterator[Edit]:
    if isinstance(node, ast.Raise) and node.exc:
        yield Edit(source.span(node.exc), b"RuntimeError")


def change_caught(source: Source, node: ast.AST) -> Iterator[Edit]:
    """An `except` that catches nothing, or everything."""
    if isinstance(node, ast.ExceptHandler) and node.type:
        yield Edit(source.span(node.type), b"ZeroDivisionError")
        if source.text(source.span(node.type)) not in {"Exception", "BaseException"}:
            yield Edit(source.span(node.type), b"Exception")


def swap_awaits(source: Source, node: ast.AST) -> Iterator[Edit]:
    """Swap two statements in a row that only await."""
    for name in ("body", "orelse", "finalbody"):
        block = getattr(node, name, None)
        for first, second in pairwise(block) if isinstance(block, list) else ():
            if _awaits(first) and _awaits(second):
                (start, middle), (begin, end) = source.span(first), source.span(second)
                parts = (begin, end), (middle, begin), (start, middle)
                yield Edit((start, end), b"".join(source.data[slice(*part)] for part in parts))


def drop_decorator(source: Source, node: ast.AST) -> Iterator[Edit]:
    for each in getattr(node, "decorator_list", ()):
        start, end = source.span(each)
        yield Edit((source.data.rindex(b"@", 0, start), end), b"")


OPERATORS: dict[str, Operator] = {
    each.__name__: each
    for each in (
        negate_comparison,
        boundary,
        swap_boolean,
        drop_not,
        force_condition,
        swap_arithmetic,
        change_number,
        flip_boolean,
        change_text,
        drop_word,
        change_sql,
        weaken_predicate,
        drop_call,
        drop_argument,
        drop_entry,
        drop_statement,
        return_none,
        change_raised,
        change_caught,
        swap_awaits,
        drop_decorator,
    )
}


def _gaps(source: Source, operands: list[ast.expr]) -> list[Span]:
    """Between each operand and the next: an operator, parentheses and white space."""
    spans = [source.span(each) for each in operands]
    return [(left[1], right[0]) for left, right in pairwise(spans)]


def _replace_match(span: Span, found: re.Match[str] | None, new: str) -> Edit:
    assert found is not None
    return Edit((span[0] + found.start(), span[0] + found.end()), new.encode())


def _inside(source: Source, node: ast.Call) -> Span:
    """Between the parentheses of a call."""
    function_end, end = source.span(node.func)[1], source.span(node)[1]
    return source.data.index(b"(", function_end) + 1, end - 1


def _called(node: ast.Call) -> str:
    """The name of the function or method."""
    return ast.unparse(node.func).rpartition(".")[2]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)


def _is_word_list(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and _WORDS.fullmatch(node.value) is not None
    )


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _awaits(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Await)
