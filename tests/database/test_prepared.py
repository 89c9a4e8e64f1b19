"""Prepared statements: once for each connection, also where a pooler changes the connection."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import text

from database.session import UserSession
from db import Database
from tests.conftest import Serve
from tests.operations import CHANGING_ONE_TASK, OPERATIONS, Operation, each
from tests.protocol_proxy import ProtocolProxy
from tests.support import Caller, client_as, ok

FORGET = text("DEALLOCATE ALL; SELECT 1")
"""Leaves the connection as a new one of a pooler."""


def in_session(caller: Caller, work: Callable[[UserSession, str], object]) -> None:
    """Call this in the one database session of the caller's service."""
    assert isinstance(caller.client, TestClient)
    app, portal = caller.client.app, caller.client.portal
    assert isinstance(app, FastAPI)
    assert portal is not None
    database: Database = app.state.database
    portal.call(database.run, "", work)


def forget(session: UserSession, _: str) -> object:
    return session.rows(FORGET, {})


def always_forget(session: UserSession, _: str) -> None:
    """Each statement is prepared on a connection on which the message then does not arrive."""
    prepare = session._prepare

    def prepare_elsewhere(sql: Any) -> None:
        prepare(sql)
        session.rows(FORGET, {})

    session._prepare = prepare_elsewhere  # type: ignore[method-assign]
    session.rows(FORGET, {})


def connected(watched: Caller, database_proxy: ProtocolProxy, user_id: str) -> Caller:
    """The user at the watched service, whose connection is open and knows no statement."""
    caller = client_as(watched.client, user_id)
    caller.ids("?q=x")
    database_proxy.clear()
    return caller


def assert_prepared_once(messages: list[str], uses: int) -> None:
    [prepared] = [message for message in messages if "\nPREPARE " in message]
    limit, statement = prepared.split(";\n")
    assert limit == "QSELECT set_config('statement_timeout', '5000', true)"
    name = statement.split()[1]
    assert [f";\nEXECUTE {name}(" in message for message in messages if message != prepared] == [True] * uses


@pytest.mark.spec("schema.prepared", "tasks.round-trip")
@each(tuple(operation for operation in OPERATIONS if operation.name != "update_task"))
def test_an_operation_is_prepared_on_first_use(
    owner: Caller, watched: Caller, database_proxy: ProtocolProxy, operation: Operation
) -> None:
    watching = connected(watched, database_proxy, owner.user_id)
    for task in (owner.create()["id"] for _ in range(2)):
        assert operation.send(watching, task).is_success
    assert_prepared_once(database_proxy.messages, 2)


@pytest.mark.spec("schema.prepared", "tasks.round-trip")
@pytest.mark.parametrize("change", [{"title": "x"}, {"completed": True}, {"due_at": None}])
def test_an_update_of_one_field_is_prepared_on_first_use(
    owner: Caller, watched: Caller, database_proxy: ProtocolProxy, change: object
) -> None:
    watching = connected(watched, database_proxy, owner.user_id)
    for task in (owner.create()["id"] for _ in range(2)):
        ok(watching.patch(task, change))
    assert_prepared_once(database_proxy.messages, 2)


@pytest.mark.spec("schema.prepared")
@each(CHANGING_ONE_TASK)
@pytest.mark.parametrize("change", [forget, always_forget])
def test_a_refused_message_is_sent_again_and_takes_effect_once(
    watched: Caller, operation: Operation, change: Callable[[UserSession, str], object]
) -> None:
    task, other = (watched.create()["id"] for _ in range(2))
    assert operation.send(watched, other).is_success
    in_session(watched, change)
    assert operation.send(watched, task).is_success
    if operation.name != "delete_task":
        assert watched.read(task)["version"] == 2


@pytest.mark.spec("schema.prepared")
def test_services_that_share_connections_share_their_statements(serve: Serve) -> None:
    user_id = f"sharing-{uuid.uuid4()}"
    services = [client_as(serve(db_pool_size=1), user_id) for _ in range(3)]
    tasks = [caller.create()["id"] for caller in services]
    for caller in services:
        assert caller.ids() == tasks[::-1]


@pytest.mark.spec("schema.prepared")
@pytest.mark.parametrize("query", ["q=x", "priority=high", "due=any", "limit=200"])
def test_a_list_with_other_filters_is_not_prepared(
    watched: Caller, database_proxy: ProtocolProxy, query: str
) -> None:
    watched.create()
    database_proxy.clear()
    watched.ids(f"?{query}")
    [message] = database_proxy.messages
    assert "EXECUTE" not in message
