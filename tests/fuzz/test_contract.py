"""The contract fuzz in the test suite: the application passes all checks."""

from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.conftest import Route
from tests.fuzz.engine import fuzz
from tests.fuzz.situations import OUT_OF_SIGHT, SITUATIONS
from tests.not_run import ROUTES
from tests.test_specs import clauses

PHASES = {"examples", "coverage", "fuzzing", "stateful"}


@pytest.mark.spec("contract.openapi", "contract.statuses", "tasks.isolation", "auth.bearer", "tasks.durable")
@pytest.mark.parametrize("route", ROUTES[-1:], indirect=True)
def test_the_application_conforms_to_the_committed_contract(
    migrated: URL, route: Route, tmp_path: Path
) -> None:
    """Through PgBouncer if it is installed; the services of the set-ups connect directly."""
    report = fuzz(migrated, tmp_path, service_database=route(migrated))
    assert report.errors == []
    assert not report.failures, "\n".join(report.failures)
    # Every phase, status and check occurred.
    assert report.phases == PHASES
    assert report.statuses.keys() >= {200, 201, 204, 400, 401, 404, 415, 422}
    assert report.checks.keys() >= {"object_level_authorization", "ignored_auth", "use_after_free"}


def test_every_clause_has_a_situation_or_a_reason_for_having_none() -> None:
    proven = {clause for each in SITUATIONS.values() for clause in each.clauses}
    excused = {clause for clause in clauses() if clause.startswith(tuple(OUT_OF_SIGHT))}
    assert sorted(set(clauses()) - proven - excused) == [], "clauses without a situation"
    assert sorted(proven & excused) == [], "clauses with a situation and a reason for having none"
    assert sorted(proven - set(clauses())) == [], "situations of no clause"
    unused = [prefix for prefix in OUT_OF_SIGHT if not any(each.startswith(prefix) for each in clauses())]
    assert unused == [], "reasons for no clause"
