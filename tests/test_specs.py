"""Every clause of the specification has a test, and every spec mark a clause."""

import ast
import re
from collections import Counter
from collections.abc import Iterator

from tests.environment import ROOT

CLAUSE = re.compile(r"^\s*- `\[([a-z0-9.-]+)\]`", re.MULTILINE)
PAGES = [ROOT / "specs/api/rest-endpoints.md", ROOT / "specs/database/schema.md"]


def clauses() -> list[str]:
    return [clause for page in PAGES for clause in CLAUSE.findall(page.read_text())]


def marks() -> Iterator[str]:
    """The clause IDs of every `@pytest.mark.spec` in the tests."""
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec":
                yield from (ast.literal_eval(argument) for argument in node.args)


def test_every_clause_has_a_test_and_every_mark_a_clause() -> None:
    specified, proven = set(clauses()), set(marks())
    assert sorted(specified - proven) == [], "clauses without a test"
    assert sorted(proven - specified) == [], "marks without a clause"


def test_clause_ids_are_unique() -> None:
    assert [clause for clause, count in Counter(clauses()).items() if count > 1] == []


def test_every_normative_sentence_has_an_id() -> None:
    """Every list item on the specification pages is a clause and has an ID."""
    for page in PAGES:
        items = re.findall(r"^\s*- .*", page.read_text(), re.MULTILINE)
        assert [item for item in items if not CLAUSE.match(item)] == []
