"""What `make faults` and `make mutants` share: the workspace, and the outcome of a run in it."""

import pytest

from tests.environment import ROOT
from tests.planting.modules import modules
from tests.planting.processes import Done
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
    with Workspace() as workspace:
        for value in "123":
            with workspace.plant({"database/__init__.py": f"print({value})\n"}):
                assert workspace.python.run("database.session", [], seconds=30).output.split() == [value]
        assert workspace.python.run("database.session", [], seconds=30) == Done(0, "", timed_out=False)


def test_a_run_that_takes_too_long_is_stopped() -> None:
    hangs = "import signal\nsignal.pause()\n"
    with Workspace() as workspace, workspace.plant({"models.py": hangs}):
        assert workspace.python.run("models", [], seconds=0.5).timed_out
        # The next run is not affected.
        assert workspace.python.run("settings", [], seconds=30) == Done(0, "", timed_out=False)
