"""The contract fuzz in the test suite: the application passes all checks."""

from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.conftest import Route
from tests.fuzz.checks import CHECK_NAMES
from tests.fuzz.engine import fuzz

PHASES = {"examples", "coverage", "fuzzing", "stateful"}


@pytest.mark.spec("contract.openapi", "contract.statuses", "tasks.isolation", "auth.bearer", "tasks.durable")
def test_the_application_conforms_to_the_committed_contract(
    migrated: URL, route: Route, tmp_path: Path
) -> None:
    report = fuzz(migrated, tmp_path, service_database=route(migrated))
    assert report.errors == []
    assert not report.failures, "\n".join(report.failures)
    # Every phase, status and check occurred.
    assert report.phases == PHASES
    assert report.statuses.keys() >= {200, 201, 204, 400, 401, 404, 415, 422}
    assert report.checks.keys() >= {"object_level_authorization", "ignored_auth", "use_after_free"}
    for check in CHECK_NAMES:
        assert report.times_applied[check] >= 50, check
