"""Liveness and readiness."""

import asyncio

import pytest
from sqlalchemy import URL

import db
from db import Database
from tests.conftest import MakeSettings, Route, Serve
from tests.environment import Sql, libpq_url
from tests.protocol_proxy import ProtocolProxy
from tests.support import Caller, assert_problem


def detail(serve: Serve, **changes: object) -> str:
    """The detail of the readiness problem with these settings."""
    response = serve(**changes).get("/health/ready")
    problem = assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    return str(problem["detail"])


@pytest.mark.spec("health.live", "health.anonymous")
def test_liveness_does_not_touch_the_database(serve: Serve, database_proxy: ProtocolProxy) -> None:
    response = serve(database_url=libpq_url(database_proxy.url)).get("/health/live")
    assert (response.status_code, response.json()) == (200, {"status": "live"})
    assert database_proxy.connections_opened == 0


@pytest.mark.spec("health.ready", "health.anonymous")
def test_ready_with_a_usable_database(anonymous: Caller) -> None:
    response = anonymous.get("/health/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


@pytest.mark.spec("health.ready")
def test_not_ready_without_a_database(serve: Serve) -> None:
    assert (
        detail(serve, database_url="postgres://app:hunter2@127.0.0.1:1/tasks")
        == "The database does not answer."
    )


@pytest.mark.spec("health.ready")
def test_not_ready_when_the_database_rejects_the_login(serve: Serve, service_url: URL) -> None:
    wrong = libpq_url(service_url.set(username="nobody-of-this-name", password="wrong"))
    assert detail(serve, database_url=wrong) == "The database does not answer."


@pytest.mark.spec("health.ready")
def test_not_ready_before_the_migrations(serve: Serve, empty_database: URL, route: Route) -> None:
    assert detail(serve, database_url=libpq_url(route(empty_database))) == "The schema is not migrated."


@pytest.mark.spec("health.ready", "schema.revision")
@pytest.mark.parametrize(("revision", "ready"), [("0000", False), ("9999", True)])
def test_ready_from_the_expected_revision_on(
    serve: Serve, migrated: URL, route: Route, revision: str, ready: bool
) -> None:
    sql = Sql(migrated)
    sql("UPDATE alembic_version SET version_num = %s", revision)
    sql.close()
    response = serve(database_url=libpq_url(route(migrated))).get("/health/ready")
    assert response.status_code == (200 if ready else 503)


@pytest.mark.spec("health.ready")
def test_not_ready_without_row_security(serve: Serve, migrated: URL, route: Route) -> None:
    sql = Sql(migrated)
    sql("ALTER TABLE tasks DISABLE ROW LEVEL SECURITY")
    sql.close()
    assert detail(serve, database_url=libpq_url(route(migrated))) == "Row security is not active."


@pytest.mark.spec("health.ready.once")
def test_the_readiness_result_is_cached(
    serve: Serve, database_proxy: ProtocolProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "READINESS_SECONDS", 3600)
    client = serve(database_url=libpq_url(database_proxy.url))
    client.get("/health/ready")
    database_proxy.clear()
    assert [client.get("/health/ready").status_code for _ in range(5)] == [200] * 5
    assert database_proxy.messages == []


@pytest.mark.spec("health.ready.once")
def test_concurrent_readiness_checks_share_one_query(
    make_settings: MakeSettings, database_proxy: ProtocolProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them begin before the database can answer, and no result is cached."""
    monkeypatch.setattr(db, "READINESS_SECONDS", 0)

    async def scenario() -> None:
        database = Database(make_settings(database_url=libpq_url(database_proxy.url)))
        await asyncio.gather(*(database.check_ready() for _ in range(5)))
        await database.close()

    asyncio.run(scenario())
    assert len([message for message in database_proxy.messages if "row_security_active" in message]) == 1


@pytest.mark.spec("health.ready.once")
def test_the_readiness_result_expires(
    serve: Serve, database_proxy: ProtocolProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert db.READINESS_SECONDS == 1.0
    monkeypatch.setattr(db, "READINESS_SECONDS", 0)
    client = serve(database_url=libpq_url(database_proxy.url), db_pool_size=1)
    client.get("/health/ready")
    database_proxy.clear()
    assert client.get("/health/ready").status_code == 200
    assert len(database_proxy.messages) == 1
