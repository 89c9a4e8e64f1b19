"""FastAPI's `dependency_overrides`, for those who embed the application in tests of their own."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import URL
from starlette.testclient import TestClient

from auth.bearer import get_current_user
from db import Database, get_database
from main import create_app
from tests.conftest import MakeSettings
from tests.environment import Sql, libpq_url
from tests.operations import Operation, each
from tests.support import Caller, error_locations

USER = "overridden-user"


@pytest.fixture
def overridden(make_settings: MakeSettings, migrated: URL) -> Iterator[Caller]:
    """Requests without a token, to an application whose user and database are overridden."""
    database = Database(make_settings(database_url=libpq_url(migrated)))
    app = create_app(make_settings())
    app.dependency_overrides[get_current_user] = lambda: USER
    app.dependency_overrides[get_database] = lambda: database
    with TestClient(app) as client:
        yield Caller(client, USER, None)
    asyncio.run(database.close())


@each()
def test_an_operation_uses_overridden_dependencies(
    overridden: Caller, migrated: URL, operation: Operation
) -> None:
    task = overridden.create()
    assert operation.send(overridden, task["id"]).status_code == operation.status
    sql = Sql(migrated)
    assert sql("SELECT DISTINCT user_id FROM tasks") == [(USER,)]
    sql.close()


def test_query_parameters_are_checked_for_an_overridden_user(overridden: Caller) -> None:
    assert error_locations(overridden.get("/api/tasks?unknown=1")) == {""}
