"""GET /api/tasks"""

import itertools
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.stage import Sql
from tests.support import TASKS, Caller, assert_problem, places


def next_page(caller: Caller, path: str) -> str | None:
    """Where the answer to `path` says that the next page is."""
    link = caller.get(path).links.get("next")
    return link["url"] if link else None


def walk(caller: Caller, path: str) -> list[list[str]]:
    """The ids on each page, following `next` to the end."""
    pages = []
    following: str | None = path
    while following:
        pages.append([task["id"] for task in caller.get(following).json()])
        following = next_page(caller, following)
    return pages


@pytest.mark.spec("tasks.list.own")
def test_it_lists_the_tasks_of_the_caller_alone(owner: Caller, stranger: Caller) -> None:
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


@pytest.mark.spec("tasks.list.order")
def test_a_change_moves_no_task(owner: Caller) -> None:
    created = [owner.create()["id"] for _ in range(3)]
    owner.patch(created[0], {"title": "changed"})
    assert owner.ids() == created[::-1]


@pytest.mark.spec("tasks.list.limit")
def test_a_page_has_fifty_tasks_unless_asked_otherwise(owner: Caller, sql: Sql) -> None:
    fill(sql, owner, 201)
    assert len(owner.ids()) == 50
    assert len(owner.ids("?limit=1")) == 1
    assert len(owner.ids("?limit=200")) == 200


@pytest.mark.spec("tasks.list.limit")
@pytest.mark.parametrize(
    "limit", ["0", "201", "-1", "1.0", "1e1", "+1", " 1", "1_0", "٣", "", "x", "9" * 400]
)
def test_another_limit_is_refused(owner: Caller, limit: str) -> None:
    response = owner.request("GET", TASKS, params={"limit": limit})
    assert places(response) == {"limit"}


@pytest.mark.spec("tasks.list.completed")
def test_completed_keeps_the_tasks_that_are_or_are_not(owner: Caller) -> None:
    done, undone = owner.create(completed=True)["id"], owner.create()["id"]
    assert owner.ids("?completed=true") == [done]
    assert owner.ids("?completed=false") == [undone]


@pytest.mark.spec("tasks.list.completed")
@pytest.mark.parametrize("value", ["1", "yes", "True", "TRUE", "on", "null", "", "t"])
def test_another_value_of_completed_is_refused(owner: Caller, value: str) -> None:
    assert places(owner.request("GET", TASKS, params={"completed": value})) == {"completed"}


@pytest.mark.spec("tasks.list.next")
def test_the_link_keeps_the_other_parameters(owner: Caller) -> None:
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
def test_there_is_a_link_exactly_when_there_is_more(owner: Caller, count: int, sizes: list[int]) -> None:
    created = [owner.create()["id"] for _ in range(count)]
    pages = walk(owner, f"{TASKS}?limit=2")
    assert [len(page) for page in pages] == sizes
    assert list(itertools.chain(*pages)) == created[::-1]


@pytest.mark.spec("tasks.list.paging")
def test_paging_neither_skips_nor_repeats_while_tasks_come_and_go(owner: Caller) -> None:
    created = [owner.create()["id"] for _ in range(9)]
    first = owner.get(f"{TASKS}?limit=3")
    assert [task["id"] for task in first.json()] == created[8:5:-1]
    owner.create()
    owner.delete(created[6])  # the last of the page that was read
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
        assert_problem(response, 400, "invalid-cursor")


@pytest.mark.spec("tasks.list.cursor")
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c[:-1],
        lambda c: c + "A",
        lambda c: "B" + c[1:],
        lambda c: c + "=",
        lambda c: " " + c,
        lambda c: c[::-1],
    ],
)
def test_a_changed_cursor_is_refused(owner: Caller, change: object) -> None:
    for _ in range(2):
        owner.create()
    following = next_page(owner, f"{TASKS}?limit=1") or ""
    cursor = parse_qs(urlsplit(following).query)["cursor"][0]
    assert callable(change)
    response = owner.request("GET", TASKS, params={"cursor": change(cursor)})
    assert_problem(response, 400, "invalid-cursor")


@pytest.mark.spec("tasks.list.cursor")
@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "%00",
        "ä",
        "🂡",
        "A" * 32,
        "=" * 32,
        "A" * 5000,
        "null",
        "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f",
    ],
)
def test_what_is_no_cursor_is_refused(owner: Caller, cursor: str) -> None:
    assert_problem(owner.request("GET", TASKS, params={"cursor": cursor}), 400, "invalid-cursor")


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
    ],
)
def test_unknown_and_repeated_parameters_are_refused(owner: Caller, query: str, expected: set[str]) -> None:
    assert places(owner.get(f"{TASKS}?{query}")) == expected


@pytest.mark.spec("tasks.list.query")
def test_the_other_operations_take_no_parameter(owner: Caller) -> None:
    task = owner.create()["id"]
    for method, path, body in (
        ("POST", TASKS, {"title": "x"}),
        ("GET", f"{TASKS}/{task}", None),
        ("PUT", f"{TASKS}/{task}", {"title": "x"}),
        ("PATCH", f"{TASKS}/{task}", {"title": "x"}),
        ("DELETE", f"{TASKS}/{task}", None),
    ):
        assert places(owner.request(method, f"{path}?user_id=x", json=body)) == {""}
    assert [each["version"] for each in owner.get().json()] == [1]


def fill(sql: Sql, caller: Caller, count: int) -> None:
    sql(
        "INSERT INTO tasks (user_id, id, title)"
        " SELECT %s, gen_random_uuid(), 'x' FROM generate_series(1, %s)",
        caller.user_id,
        count,
    )
