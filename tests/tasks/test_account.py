"""Deleting and exporting everything that belongs to a user."""

import asyncio
import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from db import Database
from services import account
from tests.conftest import MakeSettings
from tests.database.test_feed import feed
from tests.environment import Sql, without_row_security
from tests.factories import full_task, new_task
from tests.protocol_proxy import ProtocolProxy
from tests.support import ACCOUNT, TASKS, Caller, assert_problem, client_as, ok

EXPORT = f"{ACCOUNT}/export"


def erase(caller: Caller) -> None:
    response = caller.request("DELETE", ACCOUNT)
    assert (response.status_code, response.content) == (204, b"")


def exported(caller: Caller) -> list[dict[str, Any]]:
    return parsed(caller.get(EXPORT))


def parsed(response: Response) -> list[dict[str, Any]]:
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text == "" or response.text.endswith("}\n")
    return [json.loads(line) for line in response.text.split("\n")[:-1]]


def add_tasks(sql: Sql, user_id: str, count: int, deleted: int = 0) -> None:
    """The first of them are deleted. With positions, because a feed moves on slowly in one transaction."""
    sql(
        "INSERT INTO tasks (user_id, id, title, deleted_at, seq)"
        " SELECT %s, gen_random_uuid(), 'x', CASE WHEN n <= %s THEN now() END, n"
        " FROM generate_series(1, %s) n",
        user_id,
        deleted,
        count,
    )
    sql("INSERT INTO feeds (user_id, live_tasks) VALUES (%s, %s)", user_id, count - deleted)


def rows_of(sql: Sql, user_id: str) -> dict[str, int]:
    """How many rows each table has of the user."""
    tables = sql(
        "SELECT table_name FROM information_schema.columns"
        " WHERE column_name = 'user_id' AND table_schema = current_schema()"
    )
    assert len(tables) >= 3
    count = "SELECT count(*) FROM {} WHERE user_id = %s"
    return {table: sql(count.format(table), user_id)[0][0] for (table,) in tables}


@pytest.mark.spec("account.erase", "tasks.isolation")
def test_every_row_of_the_user_is_deleted_and_no_other(owner: Caller, stranger: Caller, sql: Sql) -> None:
    for caller in (owner, stranger):
        caller.create()
        caller.delete(caller.create()["id"])
        ok(caller.post(new_task(), headers={"Idempotency-Key": "k"}), 201)
    before = stranger.get().json(), rows_of(sql, stranger.user_id), feed(sql, stranger.user_id)
    assert 0 not in rows_of(sql, owner.user_id).values()
    erase(owner)
    assert set(rows_of(sql, owner.user_id).values()) == {0}
    assert (stranger.get().json(), rows_of(sql, stranger.user_id), feed(sql, stranger.user_id)) == before


@pytest.mark.spec("account.erase")
def test_an_account_without_rows_can_be_deleted(owner: Caller, sql: Sql) -> None:
    for _ in range(2):
        erase(owner)
    assert set(rows_of(sql, owner.user_id).values()) == {0}


@pytest.mark.spec("account.erase.after", "schema.feed.first")
def test_the_user_can_begin_again(owner: Caller, sql: Sql) -> None:
    body = full_task(id=str(uuid.uuid4()))
    keyed = {"Idempotency-Key": "k"}
    first = owner.post(body, headers=keyed)
    owner.patch(body["id"], {"title": "x"})
    lists = owner.get(TASKS).headers["etag"]
    [[last]] = sql("SELECT seq FROM feeds WHERE user_id = %s", owner.user_id)
    erase(owner)
    assert owner.ids() == []
    again = owner.post(body, headers=keyed)
    assert again.status_code == 201
    assert "idempotency-replayed" not in again.headers
    assert again.headers["etag"] != first.headers["etag"]
    [(seq, purged_seq)] = sql("SELECT seq, purged_seq FROM feeds WHERE user_id = %s", owner.user_id)
    assert last < purged_seq == seq
    response = owner.patch(body["id"], {"title": "x"}, headers={"If-Match": first.headers["etag"]})
    assert_problem(response, 412, "precondition-failed")
    assert owner.get(TASKS, headers={"If-None-Match": lists}).status_code == 200


@pytest.mark.spec("account.erase.at-once", "tasks.round-trip")
def test_up_to_20000_tasks_take_one_message_and_more_take_more(
    watched: Caller, database_proxy: ProtocolProxy, sql: Sql
) -> None:
    erase(watched)
    for tasks, messages in ((20_000, 1), (20_001, 2)):
        add_tasks(sql, watched.user_id, tasks, deleted=11_000)
        database_proxy.clear()
        erase(watched)
        assert len(database_proxy.messages) == messages
        assert set(rows_of(sql, watched.user_id).values()) == {0}


@pytest.mark.spec("account.erase.at-once", "account.erase.after", "schema.feed.count")
def test_a_deletion_that_is_interrupted_leaves_a_feed_that_agrees(
    make_settings: MakeSettings, owner: Caller, sql: Sql
) -> None:
    add_tasks(sql, owner.user_id, 25_000, deleted=12_000)
    [[last]] = sql("SELECT seq FROM feeds WHERE user_id = %s", owner.user_id)

    async def erase_some() -> bool:
        database = Database(make_settings())
        try:
            return await database.write(owner.user_id, account.erase)
        finally:
            await database.close()

    assert not asyncio.run(erase_some())
    [[live]] = sql("SELECT count(*) FROM tasks WHERE user_id = %s AND deleted_at IS NULL", owner.user_id)
    assert rows_of(sql, owner.user_id)["tasks"] == 5_000
    assert sql("SELECT live_tasks FROM feeds WHERE user_id = %s", owner.user_id) == [(live,)]
    # No position from before can be continued: what was deleted left nothing that would say so.
    assert sql(
        "SELECT purged_seq > %s, seq >= purged_seq FROM feeds WHERE user_id = %s", last, owner.user_id
    )[0] == (True, True)
    erase(owner)
    assert set(rows_of(sql, owner.user_id).values()) == {0}


@pytest.mark.spec("account.erase", "tasks.concurrent")
def test_it_can_race_with_writes(owner: Caller, sql: Sql) -> None:
    with ThreadPoolExecutor(10) as threads:
        writes = [threads.submit(owner.post, new_task()) for _ in range(20)]
        erasing = [threads.submit(owner.request, "DELETE", ACCOUNT) for _ in range(3)]
        writes += [threads.submit(owner.post, new_task()) for _ in range(20)]
    assert {each.result().status_code for each in writes} == {201}
    assert {each.result().status_code for each in erasing} == {204}
    counted = sql("SELECT live_tasks FROM feeds WHERE user_id = %s", owner.user_id) or [(0,)]
    assert counted == [(len(owner.ids("?limit=200")),)]


@pytest.mark.spec("account.export", "tasks.isolation")
def test_it_has_every_task_of_the_user_and_no_other(owner: Caller, stranger: Caller) -> None:
    stranger.create()
    tasks = [owner.create(), owner.create(**full_task()), owner.create(title='é\u2028\n"')]
    gone = owner.create()
    owner.delete(gone["id"])
    [deleted] = owner.get(f"{TASKS}?deleted=true").json()
    assert exported(owner) == sorted([*tasks, deleted], key=lambda task: str(task["id"]))


@pytest.mark.spec("account.export", "tasks.isolation")
def test_it_is_limited_to_the_user_without_row_security(owner: Caller, stranger: Caller, sql: Sql) -> None:
    stranger.create()
    task = owner.create()
    with without_row_security(sql):
        assert exported(owner) == [task]


@pytest.mark.spec("account.export")
def test_the_export_of_nothing_is_empty(owner: Caller) -> None:
    assert exported(owner) == []


@pytest.mark.spec("account.export")
def test_it_is_offered_as_a_file(owner: Caller) -> None:
    assert owner.get(EXPORT).headers["content-disposition"] == 'attachment; filename="tasks.ndjson"'


@pytest.mark.spec("account.export.pages")
@pytest.mark.parametrize("count", [99, 100, 101, 250])
def test_it_reads_pages_of_100_tasks(
    watched: Caller, database_proxy: ProtocolProxy, sql: Sql, count: int
) -> None:
    add_tasks(sql, watched.user_id, count)
    for _ in range(2):
        database_proxy.clear()
        tasks = exported(watched)
    assert len({task["id"] for task in tasks}) == len(tasks) == count
    assert len(database_proxy.messages) == count // 100 + 1


@pytest.mark.spec("account.export.pages", "http.head")
def test_a_head_reads_one_page(watched: Caller, database_proxy: ProtocolProxy, sql: Sql) -> None:
    add_tasks(sql, watched.user_id, 250)
    exported(watched)
    database_proxy.clear()
    assert watched.request("HEAD", EXPORT).status_code == 200
    assert len(database_proxy.messages) == 1


@pytest.mark.spec("account.export.pages")
@pytest.mark.parametrize("count", [12, 13, 14, 26, 99, 100, 120])
def test_a_page_of_long_tasks_has_fewer(owner: Caller, sql: Sql, count: int) -> None:
    add_tasks(sql, owner.user_id, count)
    long = "UPDATE tasks SET description = repeat(U&'\\+01F600', 5000), seq = -seq WHERE user_id = %s"
    sql(long, owner.user_id)
    tasks = exported(owner)
    assert len({task["id"] for task in tasks}) == len(tasks) == count


@pytest.mark.spec("account.export.pages")
def test_a_task_with_the_lowest_id_is_exported(owner: Caller) -> None:
    task = owner.create(id=str(uuid.UUID(int=0)))
    assert exported(owner) == [task]


@pytest.mark.spec("account.export")
@pytest.mark.parametrize("query", ["?limit=1", "?cursor=x", "?user_id=somebody"])
@pytest.mark.parametrize(("method", "path"), [("GET", EXPORT), ("DELETE", ACCOUNT)])
def test_no_parameter_is_taken(owner: Caller, method: str, path: str, query: str) -> None:
    task = owner.create()
    assert_problem(owner.request(method, f"{path}{query}"), 422, "invalid-request")
    assert owner.get().json() == [task]


@pytest.mark.spec("auth.scope.limits")
@pytest.mark.parametrize("scope", ["tasks:read tasks:write", "account", "account:*", "account:delete_", ""])
def test_the_account_needs_scopes_of_its_own(client: TestClient, scope: str) -> None:
    user_id = f"scoped-{uuid.uuid4()}"
    task = client_as(client, user_id).create()
    caller = client_as(client, user_id, scope=scope)
    for method, path in (("DELETE", ACCOUNT), ("GET", EXPORT), ("HEAD", EXPORT)):
        for query in ("", "?unknown=1"):
            assert caller.request(method, path + query).status_code == 403
    assert client_as(client, user_id).get().json() == [task]


@pytest.mark.spec("auth.scope.limits")
def test_each_scope_of_the_account_allows_one_operation(client: TestClient) -> None:
    user_id = f"scoped-{uuid.uuid4()}"
    task = client_as(client, user_id).create()
    exporter, eraser = (client_as(client, user_id, scope=f"account:{name}") for name in ("export", "delete"))
    assert exported(exporter) == [task]
    assert exporter.request("DELETE", ACCOUNT).status_code == 403
    assert eraser.get(EXPORT).status_code == 403
    for caller in (exporter, eraser):
        assert caller.get(TASKS).status_code == 403
    erase(eraser)
    assert exported(exporter) == []
