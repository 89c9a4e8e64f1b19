"""Documentation: every test, file, clause and gap that docs/ refers to exists."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.environment import ROOT
from tests.test_imports import LAYERS
from tests.test_specs import clauses

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "tests/README.md"]
SECURITY = (ROOT / "docs/security.md").read_text()

PYTHON_FILE = re.compile(r"([\w./-]+\.py)(?:::(\w+))?")
TEST_WITHOUT_A_FILE = re.compile(r"(?<![\w:/])test_\w+")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
CLAUSE = re.compile(r"`\[([a-z0-9.-]+)\]`")
REQUIREMENT = re.compile(r"v5\.0\.0-\d+\.\d+\.\d+")
GAP = re.compile(r"\bG\d+\b")

STATUSES = {"met", "partly", "gap", "operator", "n/a"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def rows(first: str) -> list[list[str]]:
    """The cells of each table row whose first cell matches."""
    lines = [line for line in SECURITY.splitlines() if re.match(rf"\| {first}", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@cache
def names_in(path: Path) -> frozenset[str]:
    """The functions and classes of a module; of a file of tests only the tests."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = (node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))
    prefix = "test_" if path.name.startswith("test_") else ""
    return frozenset(name for name in names if name.startswith(prefix))


def missing(text: str) -> Iterator[str]:
    for path, name in PYTHON_FILE.findall(text):
        file = ROOT / path
        if not file.is_file() or (name and name not in names_in(file)):
            yield f"{path}::{name}" if name else path


@every_page
def test_every_test_and_module_it_names_exists(page: Path) -> None:
    assert sorted(set(missing(page.read_text()))) == []


@every_page
def test_every_test_is_named_with_its_file(page: Path) -> None:
    assert TEST_WITHOUT_A_FILE.findall(page.read_text()) == []


@every_page
def test_every_file_it_links_to_exists(page: Path) -> None:
    links = LINK.findall(page.read_text())
    assert [link for link in links if not (page.parent / link).is_file()] == []


@every_page
def test_every_clause_it_names_exists(page: Path) -> None:
    assert set(CLAUSE.findall(page.read_text())) <= set(clauses())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`tests/test_docs.py::test_no_such_test`", ["tests/test_docs.py::test_no_such_test"]),
        ("`tests/test_docs.py::missing`", ["tests/test_docs.py::missing"]),
        ("`tests/no_such_file.py`", ["tests/no_such_file.py"]),
        ("`tests/test_docs.py::test_missing_names_are_detected`, `settings.py`", []),
    ],
)
def test_missing_names_are_detected(text: str, found: list[str]) -> None:
    assert list(missing(text)) == found


def test_each_of_the_top_ten_risks_has_a_row_with_a_test() -> None:
    found = rows(r"API\d+:2023 ")
    assert [row[0].split(":")[0] for row in found] == [f"API{number}" for number in range(1, 11)]
    assert [row[0] for row in found if "::test_" not in row[-1]] == []


def test_each_requirement_has_one_row_with_a_status() -> None:
    found = rows("v5.0.0-")
    ids = [each for row in found for each in REQUIREMENT.findall(row[0])]
    assert len(ids) == len(set(ids)) > 100
    assert {row[3] for row in found} == STATUSES


def test_every_met_requirement_has_evidence() -> None:
    for requirement, _, _, status, how in rows("v5.0.0-"):
        if status == "met":
            assert re.search(r"::test_|by review|\]\(|v5\.0\.0-", how), requirement


def test_every_unmet_requirement_names_a_gap() -> None:
    known = [row[0] for row in rows(r"G\d+ ")]
    assert known == [f"G{number}" for number in range(1, len(known) + 1)]
    assert set(GAP.findall(SECURITY)) == set(known)
    for requirement, _, _, status, how in rows("v5.0.0-"):
        if status in {"partly", "gap"}:
            assert GAP.search(how), requirement


OPERATIONS = (ROOT / "docs/operations.md").read_text()
PRODUCT = [
    *ROOT.glob("*.py"),
    *(path for layer in LAYERS for path in (ROOT / layer).glob("*.py")),
]


def calls(*names: str) -> Iterator[ast.Call]:
    """Calls of functions or methods with these names in the product."""
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                yield node


def first_text(call: ast.Call) -> str | None:
    given = call.args[0] if call.args else None
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def test_the_runbook_has_every_log_message() -> None:
    logged = [first_text(call) for call in calls("log.warning", "log.error", "log.exception", "access.info")]
    assert len(logged) >= 8
    for message in logged:
        assert message is not None
        pattern = re.escape(re.sub(r"%\w", "…", message))
        assert re.search(rf"\| `{pattern}`", OPERATIONS), message


def test_the_runbook_has_every_reason_of_a_503() -> None:
    details = {first_text(call) for call in calls("unavailable", "problems.unavailable")} - {None}
    readiness = [
        node.value
        for node in ast.walk(ast.parse((ROOT / "db.py").read_text()))
        if isinstance(node, ast.Constant)
    ]
    details |= {
        text for text in readiness if isinstance(text, str) and re.fullmatch(r"(The|Row) [a-z ]+\.", text)
    }
    assert len(details) >= 8
    for detail in details:
        assert f"| `{detail}` |" in OPERATIONS, detail
