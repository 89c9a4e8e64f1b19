"""A small version of `make mutants`: the operators, the workspace, and one real mutant in it."""

import difflib
from collections import Counter
from textwrap import dedent

import pytest
from sqlalchemy import URL

from tests.environment import ROOT, libpq_url
from tests.mutants.equivalent import EQUIVALENT, NOT_OBSERVABLE
from tests.mutants.generation import Mutant, all_mutants, mutants
from tests.mutants.operators import OPERATORS
from tests.planting.modules import modules
from tests.planting.verdicts import caught_by, covering_tests
from tests.planting.workspace import Workspace

EXPECTED: dict[str, list[tuple[str, list[str]]]] = {
    "negate_comparison": [
        ("a == b", ["a != b"]),
        ("a is not None", ["a is None"]),
        ("a not in (b, c)", ["a in (b, c)"]),
        ("a < b <= c", ["a >= b <= c", "a < b > c"]),
    ],
    "boundary": [("a < b", ["a <= b"]), ("a >= (b)", ["a > (b)"]), ("a == b", [])],
    "swap_boolean": [("a and (b or c)", ["a or (b or c)", "a and (b and c)"])],
    "drop_not": [("not a", ["a"]), ("not (a and b)", ["(a and b)"])],
    "force_condition": [
        ("if a: b()", ["if True: b()", "if False: b()"]),
        ("while a: b()", ["while False: b()"]),
        ("[a for a in b if c]", ["[a for a in b if True]", "[a for a in b if False]"]),
        ("if (a and\n    b): c()", ["if (True\n): c()", "if (False\n): c()"]),
    ],
    "swap_arithmetic": [("a + b * c", ["a - b * c", "a + b / c"]), ("'a' + b", [])],
    "change_number": [("x = 5", ["x = 6", "x = 4"]), ("x = 0", ["x = 1", "x = (-1)"])],
    "flip_boolean": [("f(a=True)", ["f(a=False)"])],
    "change_text": [
        ("x = 'é'", ["x = 'éX'"]),
        ("x = b''", ["x = b'X'"]),
        ("x = f'{a} b'", ["x = f'{a} bX'"]),
        ("'a docstring'", []),
        ("x: 'Forward'", []),
        ("__all__ = ['x']", []),
    ],
    "drop_word": [("x = 'title, tags'", ["x = 'tags'", "x = 'title'"])],
    "change_sql": [
        ("x = 'ALTER TABLE t FORCE ROW LEVEL SECURITY'", ["x = 'ALTER TABLE t NO FORCE ROW LEVEL SECURITY'"]),
        ("x = 'GRANT SELECT, INSERT ON t'", ["x = 'GRANT INSERT ON t'", "x = 'GRANT SELECT ON t'"]),
        ("x = 'deleted_at IS NULL'", ["x = 'deleted_at IS NOT NULL'"]),
        ("x = 'version >= 1'", ["x = 'version > 1'", "x = 'version >= 2'", "x = 'version >= 0'"]),
        (
            "x = 'CREATE POLICY p USING (f(a)) WITH CHECK (b)'",
            [
                "x = 'CREATE POLICY p USING (true) WITH CHECK (b)'",
                "x = 'CREATE POLICY p USING (f(a)) WITH CHECK (true)'",
            ],
        ),
        ("x = 'title, description'", []),
    ],
    "weaken_predicate": [
        ("q.where(a == b)", ["q.where(True)"]),
        ("and_(a, b)", ["and_(True, b)", "and_(a, True)"]),
    ],
    "drop_call": [("q.order_by(a).limit(1)", ["q.order_by(a)", "q.limit(1)"])],
    "drop_argument": [
        ("f(a, b, c=1)", ["f(a, b, )", "f(a,  c=1)"]),
        ("f(a)", []),
        ("isinstance(a, b)", []),
        ("f(\n    a=1,\n    b=2,\n)", ["f(\n    \n    b=2,\n)", "f(\n    a=1,\n    \n)"]),
    ],
    "drop_entry": [
        ("x = {'a': 1, 'b': 2}", ["x = { 'b': 2}", "x = {'a': 1, }"]),
        ("x = [a, (b, c)]", ["x = [ (b, c)]", "x = [a, ]"]),
        ("x = (a, b, c)", ["x = ( b, c)", "x = (a,  c)", "x = (a, b, )"]),
    ],
    "drop_statement": [
        ("f()", ["pass"]),
        ("a.b = 1", ["pass"]),
        ("a += 1", ["pass"]),
        ("raise E", ["pass"]),
        ("a = 1", []),
        ("f(\n    a\n)", ["pass\n\n"]),
    ],
    "return_none": [("def f(): return 1", ["def f(): return None"]), ("def f(): return None", [])],
    "change_raised": [("raise E(1) from e", ["raise RuntimeError from e"]), ("raise", [])],
    "change_caught": [
        (
            "try: a()\nexcept E: b()",
            ["try: a()\nexcept ZeroDivisionError: b()", "try: a()\nexcept Exception: b()"],
        )
    ],
    "swap_awaits": [
        (
            "async def f():\n    await a()\n    # why\n    await b()",
            ["async def f():\n    await b()\n    # why\n    await a()"],
        )
    ],
    "drop_decorator": [("@cache\ndef f(): ...", ["\ndef f(): ..."])],
}

OWNERSHIP = "services/tasks.py::<module>::weaken_predicate::1"
ITS_TEST = "tests/tasks/test_isolation.py::test_statements_keep_users_apart_without_row_security"


def by(operator: str, snippet: str) -> list[str]:
    return [each.text for each in mutants("snippet.py", snippet) if f"::{operator}::" in each.identity]


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_makes_the_expected_mutants(operator: str) -> None:
    for snippet, expected in EXPECTED[operator]:
        assert by(operator, snippet) == expected


def test_constraints_in_annotations_are_mutated_but_not_types() -> None:
    found = [each.text for each in mutants("snippet.py", "x: Annotated[Literal['a'], Field(ge=1)]")]
    assert "x: Annotated[Literal['a'], Field(ge=2)]" in found
    assert not [text for text in found if "aX" in text]


def test_an_id_has_the_qualified_name_and_is_stable() -> None:
    snippet = dedent("""
        class A:
            def f(self):
                return a == b or a == c
    """)
    found = [each.identity for each in mutants("a.py", snippet)]
    assert "a.py::A.f::negate_comparison::2" in found
    after = [each.identity for each in mutants("a.py", f"import b\n\nB = b.c == 1\n{snippet}")]
    assert set(found) <= set(after)


def test_every_module_has_mutants_and_every_mutant_its_own_id() -> None:
    found = [each for path in modules() for each in mutants(path, (ROOT / path).read_text())]
    assert {each.path for each in found} == {*modules()}
    assert [name for name, count in Counter(each.identity for each in found).items() if count > 1] == []


@pytest.mark.parametrize("path", modules())
def test_every_mutant_compiles_and_keeps_the_lines(path: str) -> None:
    before = (ROOT / path).read_text().count("\n")
    for mutant in all_mutants().values():
        if mutant.path == path:
            compile(mutant.text, mutant.identity, "exec", dont_inherit=True)
            assert mutant.text.count("\n") == before, mutant.identity


def test_a_diff_is_one_hunk() -> None:
    assert {each.diff.count("\n@@ ") for each in all_mutants().values()} == {1}


def test_every_recorded_exception_matches_a_mutant() -> None:
    found = all_mutants()
    assert [name for name in EQUIVALENT if name not in found] == []
    assert [each for each in NOT_OBSERVABLE if not any(name.startswith(each) for name in found)] == []


def test_a_planted_mutant_is_seen_by_processes_and_the_workspace_is_restored(server_url: URL) -> None:
    mutant = all_mutants()[OWNERSHIP]
    assert ITS_TEST.partition("::")[0] in covering_tests([mutant.path])
    with Workspace() as workspace:
        file = workspace.root / mutant.path
        with workspace.plant({mutant.path: mutant.text}):
            assert changed_lines(mutant, file.read_text()) == ["    True,"]
            done = workspace.python.run(
                "pytest",
                ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", ITS_TEST, "-k", "not pooled"],
                seconds=60,
                TEST_DATABASE_URL=libpq_url(server_url),
            )
            assert caught_by(done) == ITS_TEST, done.output
        assert file.read_bytes() == (ROOT / mutant.path).read_bytes()
    assert not workspace.root.exists()


def changed_lines(mutant: Mutant, text: str) -> list[str]:
    lines = difflib.ndiff(mutant.source.data.decode().splitlines(), text.splitlines())
    return [line[2:] for line in lines if line.startswith("+ ")]
