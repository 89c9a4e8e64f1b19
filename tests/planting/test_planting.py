"""What `make faults` and `make mutants` share: the workspace, and the outcome of a run in it."""

import pytest

from tests.environment import ROOT
from tests.planting.modules import modules
from tests.planting.processes import Done, run_python
from tests.planting.verdicts import DOES_NOT_START, TIMEOUT, Inconclusive, caught_by, covering_tests
from tests.planting.workspace import Workspace


def test_the_covering_tests_exist() -> None:
    for path in modules():
        assert [name for name in covering_tests([path]) if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize(
    ("done", "caught"),
    [
        (Done(0, "1 passed", False), None),
        (Done(1, "FAILED tests/a.py::test_b[c d] - assert 1", False), "tests/a.py::test_b"),
        (Done(1, "ERROR tests/a.py - ImportError", False), "tests/a.py"),
        (Done(4, "ImportError while loading conftest", False), DOES_NOT_START),
        (Done(1, "Timeout (0:01:00)!", False), TIMEOUT),
        (Done(-15, "", True), TIMEOUT),
    ],
)
def test_the_outcome_of_a_run(done: Done, caught: str | None) -> None:
    assert caught_by(done) == caught


def test_a_run_without_tests_is_no_outcome() -> None:
    with pytest.raises(Inconclusive, match="no test ran"):
        caught_by(Done(5, "1 deselected", False))


def test_outdated_bytecode_is_not_used() -> None:
    """The files have the same size, and are written within the same second."""
    show = ["-c", "import database; print(database.VALUE)"]
    with Workspace() as workspace:
        for value in "123":
            with workspace.plant({"database/__init__.py": f"VALUE = {value}\n"}):
                assert run_python(show, workspace.root, seconds=30).output.split() == [value]
        assert "AttributeError" in run_python(show, workspace.root, seconds=30).output
