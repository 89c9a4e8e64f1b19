"""A Python file as bytes with its syntax tree: where a node is, and how to replace it.

Replacing text instead of unparsing the tree leaves the rest of the file as it is, so that
the diff of a mutant is one hunk and the lines of a traceback are those of the file.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

_OPENING, _CLOSING = set("([{"), set(")]}")
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER}

Span = tuple[int, int]
"""Start and end, in bytes from the start of the file."""

Positioned = ast.expr | ast.stmt | ast.keyword | ast.excepthandler


@dataclass(frozen=True)
class Edit:
    """Replaces the bytes of `span` by `new`."""

    span: Span
    new: bytes


class Source:
    """The text of one file, its tree and the positions of its nodes."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.data = text.encode()
        self.tree = ast.parse(text)

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(len(line) for line in self.data.splitlines(keepends=True))]

    def position(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def span(self, node: Positioned) -> Span:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.position(node.lineno, node.col_offset),
            self.position(node.end_lineno, node.end_col_offset),
        )

    def text(self, span: Span) -> str:
        return self.data[slice(*span)].decode()

    def mutated(self, edit: Edit) -> str:
        start, end = edit.span
        return (self.data[:start] + edit.new + self.data[end:]).decode()

    def padded(self, edit: Edit, statement: ast.stmt) -> Edit | None:
        """The edit with as many lines as before, or None if it is not valid Python.

        Compiles only the top-level statement, which is much faster than the file. A line end
        that is not in parentheses has to be escaped, unless it ends a statement.
        """
        missing = self.data[slice(*edit.span)].count(b"\n") - edit.new.count(b"\n")
        for line_end in (b"\n", b" \\\n")[: 1 + bool(missing)]:
            candidate = Edit(edit.span, edit.new + line_end * missing)
            if self._compiles(candidate, statement):
                return candidate
        return None

    def _compiles(self, edit: Edit, statement: ast.stmt) -> bool:
        start, end = self._with_decorators(statement)
        new = self.data[start : edit.span[0]] + edit.new + self.data[edit.span[1] : end]
        try:
            compile(new, self.path, "exec", dont_inherit=True)
        except SyntaxError:
            return False
        return True

    def _with_decorators(self, statement: ast.stmt) -> Span:
        """The lines of the statement: a decorator is before its position."""
        first = min([statement.lineno, *(each.lineno for each in _decorators(statement))])
        return self.position(first, 0), self.span(statement)[1]

    def elements(self, span: Span) -> list[Span]:
        """What the commas in `span` separate, without counting those in nested brackets."""
        found: list[Span] = []
        depth, start, end = 0, -1, -1
        for token, first, last in self._tokens(span):
            if token == "," and depth == 0:
                found.append((start, end))
                start = -1
                continue
            depth += (token in _OPENING) - (token in _CLOSING)
            start, end = (first if start < 0 else start), last
        return [*found, (start, end)] if start >= 0 else found

    def without(self, span: Span) -> Edit:
        """Drop an element of a list, with the comma that follows it."""
        rest = self.data[span[1] :]
        comma = len(rest) - len(rest.lstrip()) if rest.lstrip().startswith(b",") else -1
        return Edit((span[0], span[1] + comma + 1), b"")

    def _tokens(self, span: Span) -> Iterator[tuple[str, int, int]]:
        """The tokens in `span`, in parentheses so that a line end does not end a statement."""
        text = f"({self.text(span)})"
        starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]

        def offset(place: tuple[int, int]) -> int:
            return span[0] + len(text[: starts[place[0] - 1] + place[1]].encode()) - 1

        for each in [*tokenize.generate_tokens(io.StringIO(text).readline)][1:]:
            if each.type not in _NO_CODE and offset(each.end) <= span[1]:
                yield each.string, offset(each.start), offset(each.end)


def _decorators(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return statement.decorator_list
    return []
