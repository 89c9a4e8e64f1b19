"""The orders of the list, and paging through them while tasks change."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import Any

import pytest

from db import Database
from schemas import TaskFilter
from services.lists import list_tasks
from tests.conftest import MakeSettings
from tests.environment import Sql
from tests.support import TASKS, Caller, ok
from tests.tasks.test_list import walk

ORDERS = ("created", "due", "priority", "updated")
BOTH = [f"{sign}{order}" for order in ORDERS for sign in ("", "-")]
RANK = {"low": 1, "medium": 2, "high": 3}

Task = dict[str, Any]


def fill(owner: Caller) -> list[Task]:
    """Tasks with ties in every key, some without a due date, some changed after later ones."""
    made = []
    for number in range(12):
        due_at = (datetime(2030, 1, 1, tzinfo=UTC) + timedelta(days=number // 2)).isoformat()
        fields = {"priority": (*RANK,)[number % 3], "due_at": None if number % 4 == 0 else due_at}
        made.append(owner.create(title=str(number), **fields))
    for number in (3, 1, 8):
        made[number] = ok(owner.patch(made[number]["id"], {"title": "changed"}))
    return made


def expected(tasks: list[Task], sort: str) -> list[str]:
    """The expected IDs in this order, computed independently of the service."""
    name, descending = sort.removeprefix("-"), sort.startswith("-")
    keys: dict[str, Callable[[Task], Any]] = {
        "created": itemgetter("created_at", "id"),
        "due": itemgetter("due_at", "id"),
        "priority": lambda task: (RANK[task["priority"]], task["id"]),
        "updated": itemgetter("updated_at"),
    }
    dated = [task for task in tasks if name != "due" or task["due_at"]]
    undated = [task for task in tasks if task not in dated]
    ordered = sorted(dated, key=keys[name], reverse=descending)
    return [task["id"] for task in [*ordered, *sorted(undated, key=itemgetter("id"), reverse=descending)]]


@pytest.mark.spec("tasks.list.sort", "tasks.list.order", "tasks.list.next")
@pytest.mark.parametrize("sort", BOTH)
@pytest.mark.parametrize("limit", [1, 2, 5, 12, 200])
def test_pages_follow_the_order(owner: Caller, sort: str, limit: int) -> None:
    tasks = fill(owner)
    pages = walk(owner, f"{TASKS}?sort={sort}&limit={limit}")
    assert list(itertools.chain(*pages)) == expected(tasks, sort)
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)


@pytest.mark.spec("tasks.list.limit", "schema.plans")
@pytest.mark.parametrize("limit", range(1, 7))
def test_no_more_is_read_across_the_border_of_the_due_dates(
    owner: Caller, make_settings: MakeSettings, limit: int
) -> None:
    for due_at in ["2030-01-01T00:00:00Z", None] * 3:
        owner.create(due_at=due_at)

    async def scenario() -> int:
        database = Database(make_settings())
        page = await database.run(
            owner.user_id, list_tasks, where=TaskFilter(), sort="due", after=None, limit=limit
        )
        await database.close()
        return len(page.tasks)

    assert asyncio.run(scenario()) == limit


@pytest.mark.spec("tasks.list.sort", "tasks.list.order")
def test_the_default_is_the_newest_first(owner: Caller) -> None:
    tasks = fill(owner)
    assert owner.ids() == owner.ids("?sort=-created") == expected(tasks, "-created")


@pytest.mark.spec("tasks.list.sort", "tasks.list.paging")
@pytest.mark.parametrize("sort", BOTH)
def test_tasks_of_one_instant_are_ordered_by_their_ids(owner: Caller, sql: Sql, sort: str) -> None:
    for _ in range(5):
        owner.create()
    sql("UPDATE tasks SET created_at = now(), due_at = now() WHERE user_id = %s", owner.user_id)
    pages = walk(owner, f"{TASKS}?sort={sort}&limit=2")
    ids = list(itertools.chain(*pages))
    assert sorted(set(ids)) == sorted(ids)
    assert len(ids) == 5
    if sort.removeprefix("-") != "updated":
        assert ids == sorted(ids, reverse=sort.startswith("-"))


@pytest.mark.spec("tasks.list.paging")
@pytest.mark.parametrize("sort", BOTH)
def test_a_task_that_keeps_its_place_is_seen_once(owner: Caller, sort: str) -> None:
    tasks = fill(owner)
    order = expected(tasks, sort)
    first = owner.get(f"{TASKS}?sort={sort}&limit=5")
    seen = [task["id"] for task in first.json()]
    owner.create(due_at="2029-01-01T00:00:00Z", priority="high")
    owner.create()
    owner.delete(order[4])
    owner.delete(order[7])
    owner.patch(order[1], {"title": "x", "due_at": None, "priority": "low"})
    rest = list(itertools.chain(*walk(owner, first.links["next"]["url"])))
    kept = [task for task in order if task not in {order[1], order[4], order[7]}]
    assert [task for task in [*seen, *rest] if task in kept] == kept


@pytest.mark.spec("tasks.list.cursor")
@pytest.mark.parametrize("sort", BOTH)
def test_a_cursor_is_bound_to_the_order(owner: Caller, sort: str) -> None:
    fill(owner)
    following = owner.get(f"{TASKS}?sort={sort}&limit=2").links["next"]["url"]
    assert owner.get(following).status_code == 200
    for other in set(BOTH) - {sort}:
        assert owner.get(following.replace(f"sort={sort}", f"sort={other}")).status_code == 404


@pytest.mark.spec("tasks.list.bytes", "tasks.list.sort")
@pytest.mark.parametrize("sort", BOTH)
def test_pages_of_large_tasks_end_early_in_every_order(owner: Caller, sql: Sql, sort: str) -> None:
    tasks = fill(owner)
    sql("UPDATE tasks SET description = repeat(%s, 5000) WHERE user_id = %s", "\U0001f600", owner.user_id)
    more = [
        owner.create(description="\U0001f600" * 5000, due_at=f"2031-01-0{n}T00:00:00Z") for n in range(1, 9)
    ]
    pages = walk(owner, f"{TASKS}?sort={sort}&limit=100")
    assert len(pages) == 2
    seen = list(itertools.chain(*pages))
    assert sorted(seen) == sorted(task["id"] for task in [*tasks, *more])
    if sort.removeprefix("-") != "updated":  # The statement above has changed all of them at once.
        assert seen == expected([*tasks, *more], sort)
