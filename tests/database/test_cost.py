"""What an operation may cost, whatever the machine: one message, one thread, and no scan of the table."""

import asyncio
import itertools
import re
from collections.abc import Callable, Iterator
from contextvars import Context
from dataclasses import replace
from typing import TypeVarTuple, Unpack
from urllib.parse import parse_qsl
from uuid import UUID

import httpx2
import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import URL

from main import create_app
from services.lists import ORDERS, Position
from tests import environment
from tests.conftest import MakeSettings
from tests.environment import Sql, alembic, new_database
from tests.factories import new_task
from tests.operations import ON_TASKS, OPERATIONS, Operation
from tests.protocol_proxy import ProtocolProxy, protocol_proxy
from tests.support import ACCOUNT, SECRET, TASKS, Caller, client_as
from tools.tokens import mint
from web.pagination import encode_cursor
from web.parameters import TaskQuery

Ts = TypeVarTuple("Ts")
Explain = Callable[[list[str]], str]

USER = "user-7"
MIDDLE = Position(1_800_000_000_000_000, UUID(int=20_000))
"""In the middle of most orders."""


def page(query: str, after: Position = MIDDLE) -> Operation:
    """The list with this query, from a cursor."""
    given: dict[str, object] = dict(parse_qsl(query))
    given |= {name: [given[name]] for name in ("tag", "any_tag") if name in given}
    where = TaskQuery.model_validate(given)
    return replace(BY_NAME["list_tasks"], query=f"{query}&cursor={encode_cursor(after, USER, where)}")


FILTERS = (
    "",
    "completed=true",
    "priority=high,low",
    "tag=home",
    "any_tag=home",
    "due=none",
    "due=any",
    "due_from=2026-01-01T00:00:00Z&due_before=2036-01-01T00:00:00Z",
    "created_from=2026-01-01T00:00:00Z&created_before=2036-01-01T00:00:00Z",
    "updated_from=2026-01-01T00:00:00Z&updated_before=2036-01-01T00:00:00Z",
    "q=x",
)
SORTS = tuple(f"{sign}{name}" for name in ORDERS for sign in ("", "-"))


def pages() -> dict[str, Operation]:
    """Each filter in each order: the first page, one from a cursor, and a long one."""
    found = {}
    for sort, condition in itertools.product(SORTS, FILTERS):
        query = f"sort={sort}&{condition}".strip("&")
        found[f"list {query}"] = replace(BY_NAME["list_tasks"], query=query)
        found[f"list {query}, continued"] = page(query)
        found[f"list {query}, long"] = page(f"{query}&limit=200")
        if sort.endswith("due"):
            found[f"list {query}, behind the dates"] = page(query, Position(None, MIDDLE.id))
    for sort in ("updated", "-updated"):
        found[f"list the trash, {sort}"] = page(f"deleted=true&sort={sort}")
    return found


BY_NAME = {each.name: each for each in OPERATIONS}
REQUESTS = {each.name: each for each in ON_TASKS if each.name != "batch_tasks"} | {
    "list": replace(BY_NAME["list_tasks"], query=""),
    "update nothing": replace(BY_NAME["update_task"], body=dict),
}
PAGES = pages()


@pytest.fixture(scope="module")
def crowded(server_url: URL) -> Iterator[URL]:
    """Enough rows that the planner chooses as it would in production."""
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        connection = Sql(url)
        connection(
            "INSERT INTO tasks (user_id, id, title, completed, completed_at, priority, due_at, tags,"
            " created_at, deleted_at)"
            " SELECT 'user-' || n % 101, lpad(to_hex(n), 32, '0')::uuid, 'x',"
            " n % 2 > 0, CASE WHEN n % 2 > 0 THEN now() END, (ARRAY['low', 'medium', 'high'])[n % 3 + 1],"
            " CASE WHEN n % 4 > 0 THEN now() + n * interval '1 minute' END, ARRAY['home'],"
            " now() + n * interval '1 second', CASE WHEN n % 7 = 0 THEN now() END"
            " FROM generate_series(1, 40000) n"
        )
        connection("INSERT INTO feeds SELECT 'other-' || n, 1, 0 FROM generate_series(1, 10000) n")
        connection("VACUUM ANALYZE tasks, feeds")
        connection.close()
        yield url


@pytest.fixture(scope="module")
def line(crowded: URL) -> Iterator[ProtocolProxy]:
    with protocol_proxy(crowded) as seen:
        yield seen


@pytest.fixture(scope="module")
def caller(line: ProtocolProxy) -> Iterator[Caller]:
    """A user with some of the tasks, of a service whose line to the database is watched."""
    with TestClient(create_app(environment.make_settings(line.url))) as client:
        yield client_as(client, USER)


@pytest.fixture(scope="module")
def explain(crowded: URL) -> Iterator[Explain]:
    """The plan of the last message of the service, under the role and in the scope that it sets itself."""
    connection = Sql(crowded)

    def plan(messages: list[str]) -> str:
        *prepared, message = messages
        for each in prepared:
            connection(each.removeprefix("Q").removesuffix("\0"))
        *before, statement = message.removeprefix("Q").removesuffix("\0").split(";\n")
        lines = connection(";\n".join([*before, f"EXPLAIN {statement}"]))
        return "\n".join(row[0] for row in lines)

    yield plan
    connection.close()


@pytest.mark.spec("tasks.round-trip", "schema.plans")
@pytest.mark.parametrize("operation", [*REQUESTS.values(), *PAGES.values()], ids=[*REQUESTS, *PAGES])
def test_queries_use_an_index_and_never_sort(
    caller: Caller, line: ProtocolProxy, explain: Explain, operation: Operation
) -> None:
    task = caller.create()["id"]
    line.clear()
    assert operation.send(caller, task).status_code == operation.status
    assert ["\nPREPARE " in message for message in line.messages[-2:]] in ([False], [True, False])
    if operation.name != "create_task":
        plan = explain(line.messages)
        assert "Seq Scan" not in plan, plan
        assert "Sort" not in plan, plan
        assert re.search(r"Index Cond: \(+user_id = ", plan), plan
        # A scan of the primary key would read all tasks of the user, and those in the trash.
        assert operation.on_one_task or "pk_tasks" not in plan, plan


@pytest.mark.spec("batch.at-once", "schema.plans")
def test_a_batch_looks_each_task_up_by_its_id(caller: Caller, line: ProtocolProxy, explain: Explain) -> None:
    caller.get()  # Opens a connection.
    line.clear()
    assert BY_NAME["batch_tasks"].send(caller).status_code == 200
    plan = explain(line.messages)
    scans = re.findall(r"(Index Scan using pk_tasks|\w+ Scan) on tasks.*\n +(.*)", plan)
    assert len(scans) == 3, plan
    for scan, condition in scans:
        assert scan == "Index Scan using pk_tasks", plan
        assert re.match(r"Index Cond: \(\(user_id = .*\) AND \(id = ", condition), plan


@pytest.mark.spec("account.export.pages", "schema.plans")
def test_an_export_follows_the_primary_key(caller: Caller, line: ProtocolProxy, explain: Explain) -> None:
    caller.get()  # Opens a connection.
    line.clear()
    assert caller.get(f"{ACCOUNT}/export").status_code == 200
    for messages in (line.messages[:2], line.messages[2:4]):
        plan = explain(messages)
        assert re.search(r"Index Scan using pk_tasks.*\n +Index Cond: \(+user_id = ", plan), plan
        assert "Sort" not in plan, plan


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what comes back from other threads: there is no other way than this call."""

    hops = 0

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.hops += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


@pytest.mark.spec("tasks.one-hop")
@pytest.mark.parametrize("operation", (REQUESTS | BY_NAME).values(), ids=REQUESTS | BY_NAME)
def test_a_request_uses_one_thread_hop(make_settings: MakeSettings, operation: Operation) -> None:
    user = {"Authorization": f"Bearer {mint(SECRET, USER)}"}

    async def scenario() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        app = create_app(make_settings())
        transport = httpx2.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            created = await client.post(TASKS, json=new_task(), headers=user)
            url, body = operation.url(created.json()["id"]), operation.body and operation.body()
            before = loop.hops
            assert (await client.request(operation.method, url, json=body)).status_code == 401
            refused, before = loop.hops - before, loop.hops
            assert (await client.request(operation.method, url, json=body, headers=user)).is_success
            return refused, loop.hops - before

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert runner.run(scenario()) == (0, 1)
