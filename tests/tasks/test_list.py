"""GET /api/tasks"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sqlalchemy import URL, Executable

from database.session import UserSession
from schemas import TaskCreate
from services.tasks import QuotaReached, create_task
from tests.conftest import Route, Serve
from tests.environment import Sql, libpq_url
from tests.operations import Operation, each
from tests.support import ACCOUNT, TASKS, Caller, assert_problem, client_as, error_locations, wait_until


def next_page(caller: Caller, path: str) -> str | None:
    """The URL of the next page after `path`, or None."""
    link = caller.get(path).links.get("next")
    return link["url"] if link else None


def walk(caller: Caller, path: str) -> list[list[str]]:
    """The task IDs of each page, following `next` links to the end."""
    pages: list[list[str]] = []
    following: str | None = path
    while following:
        assert len(pages) < 500, "the list does not end"
        pages.append([task["id"] for task in caller.get(following).json()])
        following = next_page(caller, following)
    return pages


@pytest.mark.spec("tasks.list.own")
def test_it_lists_only_the_callers_tasks(owner: Caller, stranger: Caller) -> None:
    mine = [owner.create() for _ in range(3)]
    theirs = stranger.create()
    assert owner.get().json() == mine[::-1]
    assert stranger.ids() == [theirs["id"]]


@pytest.mark.spec("tasks.list.own")
def test_a_new_user_has_an_empty_list(owner: Caller) -> None:
    response = owner.get()
    assert (response.status_code, response.json()) == (200, [])
    assert "link" not in response.headers


@pytest.mark.spec("tasks.list.order")
def test_the_newest_comes_first(owner: Caller) -> None:
    created = [owner.create()["id"] for _ in range(10)]
    assert owner.ids() == sorted(created, reverse=True) == created[::-1]


@pytest.mark.spec("tasks.list.order", "task.id")
def test_ids_of_the_same_millisecond_are_in_order() -> None:
    """Faster than requests could create tasks: the IDs that are bound to the statement."""
    ids: list[object] = []

    class Recorder(UserSession):
        def __init__(self) -> None:
            """Without a connection."""

        def write(self, statement: Executable, parameters: Mapping[str, object]) -> list[tuple[Any, ...]]:
            ids.append(parameters["task_id"])
            return []

    session, task = Recorder(), TaskCreate(title="x")
    for _ in range(1000):
        with pytest.raises(QuotaReached):
            create_task(session, "somebody", task)
    assert ids == sorted(set(ids), key=str)


@pytest.mark.spec("tasks.list.order")
def test_updates_do_not_change_the_order(owner: Caller) -> None:
    created = [owner.create()["id"] for _ in range(3)]
    owner.patch(created[0], {"title": "changed"})
    assert owner.ids() == created[::-1]


@pytest.mark.spec("tasks.list.bytes", "tasks.list.next")
@pytest.mark.parametrize("limit", [3, 50, 51, 200])
@pytest.mark.parametrize(
    "character", ["x", "\U0001f600", "\x01"], ids=["short", "four bytes", "six when escaped"]
)
def test_a_page_of_large_tasks_ends_early(owner: Caller, sql: Sql, character: str, limit: int) -> None:
    # One in sixteen tasks is small, so that pages differ in length.
    sql(
        "INSERT INTO tasks (user_id, id, title, description)"
        " SELECT %s, lpad(to_hex(n), 32, '0')::uuid, 'x', CASE WHEN n %% 16 <> 3 THEN repeat(%s, 5000) END"
        " FROM generate_series(1, 70) n",
        owner.user_id,
        character,
    )
    seen: list[list[str]] = []
    sizes: list[int] = []
    following: str | None = f"{TASKS}?limit={limit}"
    while following:
        response = owner.get(following)
        assert len(response.content) <= 256 * 1024
        first = len(json.dumps(response.json()[0], ensure_ascii=False, separators=(",", ":")).encode())
        if seen:
            # The page before had no room for this task and the comma before it.
            assert len(seen[-1]) == limit or sizes[-1] + first + 1 > 256 * 1024
        seen.append([task["id"] for task in response.json()])
        sizes.append(len(response.content))
        following = response.links["next"]["url"] if "next" in response.links else None
    everything = [
        str(row[0]) for row in sql("SELECT id FROM tasks WHERE user_id = %s ORDER BY id DESC", owner.user_id)
    ]
    assert list(itertools.chain(*seen)) == everything
    assert max(map(len, seen)) <= limit


@pytest.mark.spec("tasks.list.bytes")
def test_small_tasks_fill_a_page(owner: Caller, sql: Sql) -> None:
    fill(sql, owner, 201)
    sql("UPDATE tasks SET description = repeat('x', 500) WHERE user_id = %s", owner.user_id)
    assert len(owner.ids("?limit=200")) == 200


@pytest.mark.spec("limits.lists")
def test_lists_in_progress_are_limited_for_each_user(serve: Serve, migrated: URL, route: Route) -> None:
    client = serve(
        database_url=libpq_url(route(migrated)), db_pool_size=1, db_pool_timeout=30, db_statement_timeout=30
    )
    owner, stranger = client_as(client, "owner"), client_as(client, "stranger")
    owner.create()
    with ThreadPoolExecutor(22) as threads, locked_table(migrated) as release:
        running = [threads.submit(owner.get) for _ in range(20)]
        lists = client.app.state.rate_limits.lists  # type: ignore[attr-defined]
        wait_until(lambda: lists._running["owner"] == 20, "the lists are not in progress")
        refused = owner.get()
        assert_problem(refused, 429, "too-many-requests")
        assert refused.headers["ratelimit-policy"] == '"concurrent-lists";q=20;qu="concurrent-requests"'
        assert refused.headers["ratelimit"] == '"concurrent-lists";r=0;t=1'
        assert refused.headers["retry-after"] == "1"
        for path in (f"{TASKS}/changes", f"{ACCOUNT}/export"):
            assert_problem(owner.get(path), 429, "too-many-requests")
        another = threads.submit(stranger.get)
        release()
        assert [each.result().status_code for each in running] == [200] * 20
        assert another.result().status_code == 200
    assert owner.get().status_code == 200
    assert not lists._running


@contextmanager
def locked_table(url: URL) -> Iterator[Callable[[], object]]:
    """Block all reads of the table until the yielded function is called."""
    connection = Sql(url)
    connection("BEGIN")
    connection("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    try:
        yield lambda: connection("ROLLBACK")
    finally:
        connection.close()


@pytest.mark.spec("tasks.list.limit")
def test_the_default_limit_is_fifty(owner: Caller, sql: Sql) -> None:
    fill(sql, owner, 201)
    assert len(owner.ids()) == 50
    assert len(owner.ids("?limit=1")) == 1
    assert len(owner.ids("?limit=200")) == 200


@pytest.mark.spec("tasks.list.limit")
@pytest.mark.parametrize(
    "limit", ["0", "201", "-1", "1.0", "1e1", "+1", " 1", "1_0", "٣", "", "x", "9" * 400]
)
def test_it_rejects_invalid_limits(owner: Caller, limit: str) -> None:
    response = owner.request("GET", TASKS, params={"limit": limit})
    assert error_locations(response) == {"limit"}


@pytest.mark.spec("tasks.list.completed")
def test_completed_filters_the_list(owner: Caller) -> None:
    done, undone = owner.create(completed=True)["id"], owner.create()["id"]
    assert owner.ids("?completed=true") == [done]
    assert owner.ids("?completed=false") == [undone]


@pytest.mark.spec("tasks.list.completed")
@pytest.mark.parametrize("value", ["1", "yes", "True", "TRUE", "on", "null", "", "t"])
def test_it_rejects_invalid_values_of_completed(owner: Caller, value: str) -> None:
    assert error_locations(owner.request("GET", TASKS, params={"completed": value})) == {"completed"}


@pytest.mark.spec("tasks.list.next")
def test_the_next_link_keeps_the_other_parameters(owner: Caller) -> None:
    for _ in range(3):
        owner.create()
    following = next_page(owner, f"{TASKS}?limit=2&completed=false")
    assert following is not None
    parts = urlsplit(following)
    query = parse_qs(parts.query)
    assert (parts.scheme, parts.netloc, parts.path) == ("", "", TASKS)
    assert query.pop("cursor")
    assert query == {"limit": ["2"], "completed": ["false"]}


@pytest.mark.spec("tasks.list.next")
@pytest.mark.parametrize(
    ("count", "sizes"), [(0, [0]), (1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (5, [2, 2, 1])]
)
def test_there_is_a_next_link_only_if_there_are_more_tasks(
    owner: Caller, count: int, sizes: list[int]
) -> None:
    created = [owner.create()["id"] for _ in range(count)]
    pages = walk(owner, f"{TASKS}?limit=2")
    assert [len(page) for page in pages] == sizes
    assert list(itertools.chain(*pages)) == created[::-1]


@pytest.mark.spec("tasks.list.paging")
def test_paging_is_stable_under_concurrent_changes(owner: Caller) -> None:
    created = [owner.create()["id"] for _ in range(9)]
    first = owner.get(f"{TASKS}?limit=3")
    assert [task["id"] for task in first.json()] == created[8:5:-1]
    owner.create()
    owner.delete(created[6])  # the last task of the first page
    owner.delete(created[4])
    rest = walk(owner, first.links["next"]["url"])
    assert list(itertools.chain(*rest)) == [created[5], *created[3::-1]]


@pytest.mark.spec("tasks.list.paging")
def test_paging_through_a_filter(owner: Caller) -> None:
    created = [owner.create(completed=number % 3 == 0)["id"] for number in range(12)]
    pages = walk(owner, f"{TASKS}?completed=true&limit=1")
    assert pages == [[created[number]] for number in (9, 6, 3, 0)]


@pytest.mark.spec("tasks.list.cursor")
def test_a_cursor_is_bound_to_its_list(owner: Caller, stranger: Caller) -> None:
    for caller in (owner, stranger):
        for _ in range(2):
            caller.create()
    following = next_page(owner, f"{TASKS}?limit=1&completed=false") or ""
    cursor = parse_qs(urlsplit(following).query)["cursor"][0]
    assert owner.ids(f"?completed=false&cursor={cursor}&limit=200")
    for caller, query in ((owner, ""), (owner, "completed=true&"), (stranger, "completed=false&")):
        response = caller.get(f"{TASKS}?{query}cursor={cursor}")
        assert_problem(response, 404, "unknown-cursor")


@pytest.mark.spec("tasks.list.cursor")
@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        (lambda c: c[:-1], 400, "invalid-cursor"),
        (lambda c: c + "A", 400, "invalid-cursor"),
        (lambda c: c + "\n", 400, "invalid-cursor"),
        (lambda c: "B" + c[1:], 404, "unknown-cursor"),
        (lambda c: c + "=", 400, "invalid-cursor"),
        (lambda c: " " + c, 400, "invalid-cursor"),
        (lambda c: c[::-1], 404, "unknown-cursor"),
    ],
)
def test_it_rejects_modified_cursors(owner: Caller, change: object, status: int, kind: str) -> None:
    for _ in range(2):
        owner.create()
    following = next_page(owner, f"{TASKS}?limit=1") or ""
    cursor = parse_qs(urlsplit(following).query)["cursor"][0]
    assert callable(change)
    response = owner.request("GET", TASKS, params={"cursor": change(cursor)})
    assert_problem(response, status, kind)


@pytest.mark.spec("tasks.list.cursor")
@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "%00",
        "ä",
        "🂡",
        "A" * 42 + "+",
        "٣" * 43,
        "=" * 43,
        "A" * 5000,
        "null",
        "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f",
    ],
)
def test_it_rejects_malformed_cursors(owner: Caller, cursor: str) -> None:
    assert_problem(owner.request("GET", TASKS, params={"cursor": cursor}), 400, "invalid-cursor")


@pytest.mark.spec("tasks.list.cursor")
@pytest.mark.parametrize("cursor", ["A" * 43, "-" * 43, "_" * 43, "9" * 43])
def test_an_unknown_cursor_is_not_found(owner: Caller, cursor: str) -> None:
    assert_problem(owner.get(f"{TASKS}?cursor={cursor}"), 404, "unknown-cursor")


@pytest.mark.spec("tasks.list.query")
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("offset=1", {""}),
        ("Limit=1", {""}),
        ("user_id=somebody", {""}),
        ("limit=1&limit=1", {"limit"}),
        ("completed=true&completed=false&limit=1&limit=2&x=1", {"", "completed", "limit"}),
        ("limit[]=1", {""}),
        ("%00=1", {""}),
        ("%ff=%fe", {""}),
        ("=", {""}),
        ("tag=%ff", {""}),
        ("q=%c3", {""}),
    ],
)
def test_unknown_and_repeated_parameters_are_refused(owner: Caller, query: str, expected: set[str]) -> None:
    assert error_locations(owner.get(f"{TASKS}?{query}")) == expected


@pytest.mark.spec("tasks.list.query")
@each()
def test_no_operation_takes_a_parameter_that_it_does_not_declare(owner: Caller, operation: Operation) -> None:
    task = owner.create()
    unknown = replace(operation, query="user_id=x")
    assert error_locations(unknown.send(owner, task["id"])) == {""}
    assert owner.get().json() == [task]


def fill(sql: Sql, caller: Caller, count: int) -> None:
    sql(
        "INSERT INTO tasks (user_id, id, title)"
        " SELECT %s, gen_random_uuid(), 'x' FROM generate_series(1, %s)",
        caller.user_id,
        count,
    )
