"""Clients that follow the changes while others write, worker processes die, and the trash is purged."""

from pathlib import Path
from threading import Event

import pytest
from sqlalchemy import URL

from tests.conftest import Route
from tests.environment import Sql
from tests.process.service import running_service, service_environment
from tests.soak import Soak


@pytest.mark.spec("changes.complete", "changes.expired", "schema.feed.order", "batch.at-once")
def test_followers_have_every_task_whatever_happens(
    database_url: URL, route: Route, tmp_path: Path, sql: Sql
) -> None:
    """A short form of `make soak`."""
    environment = service_environment(route(database_url), WEB_CONCURRENCY="2", DB_POOL_TIMEOUT="30")
    with running_service(environment, tmp_path / "output") as service:
        report = Soak(service, sql, users=2, writers=6, followers=6, written=Event()).run(seconds=12)
    assert report.kills > 1
    assert report.restarts > 0
    assert report.writes > 100
    assert report.differences == 0
