"""A small version of `make faults`. The faults are in `catalogue.toml`."""

import pytest
from sqlalchemy import URL

from tests.environment import ROOT, libpq_url
from tests.faults.__main__ import by_contract_fuzz
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.injection import NotInjected, apply_edit

EXPECTED_SITUATIONS = {
    "get: ownership filter dropped": "a user id that looks like the owners",
    "the signature is not verified": "a forged token against each operation",
    "CORS is missing on errors": "every response to a probe",
    "the version is not incremented": "writers of one task at once",
    "no commit": "the first tasks of a run",
    "the last page has a next link": "pages of every size",
    "DELETE deletes all tasks of the user": "the first tasks of a run",
    "deleted tasks can be read": "a task of somebody else or deleted",
    "tokens are logged": "every request in the log",
    "errors echo the body": "every response to a probe",
}
"""The situation in which each fault is noticed first."""


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_can_be_injected(fault: Fault) -> None:
    """The text to replace exists, and the edited source compiles."""
    sources: dict[str, str] = {}
    for edit in fault.edits:
        source = sources.get(edit.path) or (ROOT / edit.path).read_text()
        sources[edit.path] = apply_edit(edit, source)
    for path, source in sources.items():
        compile(source, path, "exec")


def test_a_fault_whose_code_has_changed_is_not_injected() -> None:
    edit = next(iter(FAULTS.values())).edits[0]
    with pytest.raises(NotInjected):
        apply_edit(edit, "another source")


@pytest.mark.parametrize(("name", "situation"), EXPECTED_SITUATIONS.items())
def test_the_contract_fuzz_catches_it(name: str, situation: str, server_url: URL, database_url: URL) -> None:
    """On the tests' server, which is already migrated: the role exists there."""
    assert by_contract_fuzz(name, libpq_url(server_url)).caught_by == situation
