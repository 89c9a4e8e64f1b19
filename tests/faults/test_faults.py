"""A small version of `make faults`: faults of the catalogue that the fuzz notices soon."""

from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from tests.faults.__main__ import Outcome, summary
from tests.faults.entries import FAULTS
from tests.planting import verdicts
from tests.planting.verdicts import TIMEOUT, Verdict
from tests.planting.workspace import Workspace

EXPECTED_SITUATIONS = {
    "get: ownership filter dropped": "a task of somebody else or deleted",
    "the signature is not verified": "a forged token against each operation",
    "CORS is missing on errors": "the headers of every response",
    "the version is not incremented": "writers of one task at once",
    "no commit": "the first tasks of a run",
    "the last page has a next link": "pages of every size",
    "DELETE deletes all tasks of the user": "the first tasks of a run",
    "deleted tasks can be read": "a task of somebody else or deleted",
    "tokens are logged": "every request in the log",
    "errors echo the body": "every problem",
}
"""The situation in which each fault is noticed first."""


@pytest.fixture(scope="module")
def workspace(server_url: URL, database_url: URL) -> Iterator[Workspace]:
    """On the tests' server, which is already migrated: the role exists there."""
    with Workspace(server_url) as workspace:
        yield workspace


@pytest.mark.parametrize(("name", "situation"), EXPECTED_SITUATIONS.items())
def test_the_contract_fuzz_catches_it(name: str, situation: str, workspace: Workspace) -> None:
    fault = FAULTS[name]
    verdict = verdicts.by_contract_fuzz(fault.changed, workspace, fault.situation)
    assert verdict.caught_by == situation


def test_a_timeout_is_reported_as_such() -> None:
    hung, caught, missed = Verdict(TIMEOUT, 1), Verdict("a test", 1), Verdict(None, 1)
    first, second = [each for each in FAULTS.values() if not each.not_fuzzable][:2]
    outcomes = [Outcome(first, caught, hung), Outcome(second, missed, caught)]
    assert summary(outcomes, 90) == (
        "2 faults in 2 minutes: 1 of 2 that the fuzz can observe caught by it, 2 of 2 by tests; "
        "1 by a timeout."
    )
    assert [each.missed for each in outcomes] == [False, True]
