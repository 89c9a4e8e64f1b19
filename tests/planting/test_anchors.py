"""Where an edit applies, and what it leaves as it is."""

from textwrap import dedent

import pytest

from tests.planting.anchors import Edit, NotAnchored, apply

FILE = dedent('''\
    LIMIT: int = 5
    QUERY = f"SELECT {LIMIT}" "   FROM tasks" " WHERE a"
    NAMES = ("a", "b")

    def read(limit=LIMIT):
        """Read it."""
        if limit > 5 and LIMIT:  # why
            return open("x",
                        mode="r")
        log("no")
        return None

    class Reader:
        size = 1

        @staticmethod
        @cache
        async def read(limit):
            a()
            await b()
            return limit > 5
''')


def lines(place: str, old: str, new: str, *, sql: bool = False) -> list[str]:
    """The lines of FILE that the edit changes or adds."""
    after = apply(Edit(f"file.py::{place}", old, new, sql), FILE)
    compile(after, "file.py", "exec")
    return [line.strip() for line in after.splitlines() if line.strip() and line not in FILE.splitlines()]


@pytest.mark.parametrize(
    ("place", "old", "new", "changed"),
    [
        ("LIMIT", "5", "6", ["LIMIT: int = 6"]),
        ("<module>", '("a", "b")', '("b",)', ['NAMES = (("b",))']),
        ("<module>", '"b"', "", ['NAMES = ("a", )']),
        ("read", "limit > 5", "limit or LIMIT", ["if (limit or LIMIT) and LIMIT:  # why"]),
        ("read", 'open("x", mode="r")', 'open("y")', ['return open("y")']),
        ("read", 'mode="r"', 'mode="w"', ['mode="w")']),
        ("read", "mode='r'", "", [")"]),
        ("read", 'log("no")', "", ["pass"]),
        ("read", 'log("no")\nreturn None', "return 1", ["return 1"]),
        ("read", 'log("no")', "for each in ():\n    log(each)", ["for each in ():", "log(each)"]),
        ("Reader.read", "cache", "", []),
        ("Reader.read", "a()\nawait b()", "await b()\na()", []),
        ("Reader.size", "size = 1", "size = 2", ["size = 2"]),
        ("Reader", "limit > 5", "True", ["return True"]),
    ],
)
def test_code_is_matched_as_syntax(place: str, old: str, new: str, changed: list[str]) -> None:
    assert lines(place, old, new) == changed


def test_sql_is_matched_across_string_literals() -> None:
    old, new = "FROM tasks WHERE a", "FROM tasks"
    assert lines("QUERY", old, new, sql=True) == ['QUERY = f"SELECT {LIMIT}" "   FROM tasks"']


@pytest.mark.parametrize(
    ("place", "old"),
    [
        ("write", "limit"),
        ("Reader.write", "limit"),
        ("<module>", "limit > 5"),
        ("read", "limit < 5"),
        ("NAMES", "'c'"),
        ("Reader.read", "limit > 5; a()"),
    ],
)
def test_code_that_is_absent_is_refused(place: str, old: str) -> None:
    with pytest.raises(NotAnchored):
        lines(place, old, "1")


def test_code_that_occurs_twice_is_refused() -> None:
    with pytest.raises(NotAnchored, match="2 times"):
        apply(Edit("file.py::read", "x", "y"), "def read():\n    return x + x\n")


def test_formatting_and_comments_do_not_matter() -> None:
    edit = Edit("file.py::read", "f(a, b)\nreturn a", "return b")
    before = "def read():\n    f(\n        a,  # first\n        b,\n    )\n    # Why.\n    return (a)\n"
    assert apply(edit, before) == "def read():\n    return b\n"
