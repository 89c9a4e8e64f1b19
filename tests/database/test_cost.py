"""What an operation may cost, whatever the machine: one message, one thread, and no scan of the table."""

import asyncio
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
from schemas import TaskFilter
from tests import environment
from tests.conftest import MakeSettings
from tests.environment import Sql, alembic, new_database
from tests.factories import new_task
from tests.operations import OPERATIONS, Operation
from tests.protocol_proxy import ProtocolProxy, protocol_proxy
from tests.support import SECRET, TASKS, client_as
from tools.tokens import mint
from web.pagination import encode_cursor

Ts = TypeVarTuple("Ts")

USER = "user-7"
NEWEST = UUID(int=2**128 - 1)


def page(query: str) -> Operation:
    """The list with this query, from a cursor."""
    where = TaskFilter.model_validate(dict(parse_qsl(query)))
    return replace(BY_NAME["list_tasks"], query=f"{query}&cursor={encode_cursor(NEWEST, USER, where)}")


def filtered_pages() -> dict[str, Operation]:
    """A page for each filter, with a value that its schema allows."""
    fields = TaskFilter.model_json_schema()["properties"]
    values = {
        name: "true" if schema["type"] == "boolean" else schema.get("enum", ["x"])[0]
        for name, schema in fields.items()
    }
    return {f"list a page by {name}": page(f"{name}={value}") for name, value in values.items()}


BY_NAME = {each.name: each for each in OPERATIONS}
REQUESTS = BY_NAME | {
    "list": replace(BY_NAME["list_tasks"], query=""),
    "list a page": page("limit=20"),
    "list a long page": page("limit=100"),
    **filtered_pages(),
    "update nothing": replace(BY_NAME["update_task"], body=dict),
}
requests = pytest.mark.parametrize("operation", REQUESTS.values(), ids=REQUESTS)


@pytest.fixture(scope="module")
def crowded(server_url: URL) -> Iterator[URL]:
    """Enough rows that the planner chooses as it would in production."""
    with new_database(server_url) as url:
        alembic(url, command.upgrade, "head")
        connection = Sql(url)
        connection(
            "INSERT INTO tasks (user_id, id, title, completed, completed_at)"
            " SELECT 'user-' || n % 101, lpad(to_hex(n), 32, '0')::uuid, 'x',"
            " n % 2 > 0, CASE WHEN n % 2 > 0 THEN now() END FROM generate_series(1, 40000) n"
        )
        connection("INSERT INTO feeds SELECT 'other-' || n, 1, 0 FROM generate_series(1, 10000) n")
        connection("VACUUM ANALYZE tasks, feeds")
        connection.close()
        yield url


@pytest.fixture
def line(crowded: URL) -> Iterator[ProtocolProxy]:
    with protocol_proxy(crowded) as seen:
        yield seen


@pytest.mark.spec("tasks.round-trip", "schema.plans")
@requests
def test_queries_use_an_index_and_never_sort(crowded: URL, line: ProtocolProxy, operation: Operation) -> None:
    with TestClient(create_app(environment.make_settings(line.url))) as client:
        caller = client_as(client, USER)
        task = caller.create()["id"]
        line.clear()
        assert operation.send(caller, task).status_code == operation.status
        [message] = line.messages
    if operation.name != "create_task":
        plan = explain(crowded, message)
        assert "Seq Scan" not in plan, plan
        assert "Sort" not in plan, plan
        assert re.search(r"Index Cond: \(+user_id = ", plan), plan


def explain(database: URL, message: str) -> str:
    """The plan of a message of the service, under the role and in the scope that it sets itself."""
    *before, statement = message.removeprefix("Q").removesuffix("\0").split(";\n")
    connection = Sql(database)
    lines = connection(";\n".join([*before, f"EXPLAIN {statement}"]))
    connection.close()
    return "\n".join(row[0] for row in lines)


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts what comes back from other threads: there is no other way than this call."""

    hops = 0

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        self.hops += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


@pytest.mark.spec("tasks.one-hop")
@requests
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
