"""FastAPI's `dependency_overrides`, for those who embed the application in tests of their own."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest
from alembic import command
from sqlalchemy import URL
from starlette.testclient import TestClient

from auth.bearer import get_current_user
from db import Database, get_database
from main import create_app
from tests.conftest import MakeSettings
from tests.environment import Sql, alembic, libpq_url, new_database
from tests.operations import Operation, each
from tests.support import Caller, error_locations


@pytest.fixture(scope="module")
def other_database(server_url: URL) -> Iterator[URL]:
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        yield url


@pytest.fixture
def overridden(make_settings: MakeSettings, other_database: URL) -> Iterator[Caller]:
    """Requests without a token, to an application whose user and database are overridden."""
    user = f"overridden-{uuid.uuid4()}"
    database = Database(make_settings(database_url=libpq_url(other_database)))
    app = create_app(make_settings())
    app.dependency_overrides[get_current_user] = lambda: user
    app.dependency_overrides[get_database] = lambda: database
    with TestClient(app) as client:
        yield Caller(client, user, None)
    asyncio.run(database.close())


@each()
def test_an_operation_uses_overridden_dependencies(
    overridden: Caller, other_database: URL, operation: Operation
) -> None:
    task = overridden.create()
    assert operation.send(overridden, task["id"]).status_code == operation.status
    sql = Sql(other_database)
    left = [] if operation.name == "erase_account" else [(overridden.user_id,)]
    assert sql("SELECT user_id FROM tasks WHERE id = %s", task["id"]) == left
    sql.close()


def test_query_parameters_are_checked_for_an_overridden_user(overridden: Caller) -> None:
    assert error_locations(overridden.get("/api/tasks?unknown=1")) == {""}
