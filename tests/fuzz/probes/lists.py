"""Probes of the list: pages, cursors, parameters and the bound on bytes."""

import itertools
import json
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qsl, quote, urlencode

from httpx2 import Response

from tests.fuzz.context import User
from tests.fuzz.expected_lists import expected_ids
from tests.fuzz.prober import Prober, probe
from tests.fuzz.response_checks import link_target
from tests.support import TASKS

DEFAULT_LIMIT, MAXIMUM_LIMIT = 50, 200
MAXIMUM_BYTES = 262_144
EXACT_TASKS = 60
"""As many as have room for descriptions of less than the maximum length on one page."""
SAME_MOMENT = "018f0000-0000-7000-8000-"
"""The beginning of the IDs of tasks that were created at one moment."""
TIME = "2026-12-01T01:00:00%2B01:00"
FILTERS = (
    "",
    "completed=true",
    "completed=false",
    "priority=high",
    "priority=low,medium",
    "tag=home",
    "tag=home&tag=urgent%2C+really",
    "any_tag=home&any_tag=nowhere",
    "due=none",
    "due=any",
    f"due_from={TIME}",
    f"due_before={TIME}",
    "created_from=2026-01-01T00:00:00Z&created_before=9999-01-01T00:00:00Z",
    "updated_from=9998-01-01T00:00:00Z",
    "q=BALC%C3%93NY",
    "q=%25",
    "completed=false&priority=high&due=any&q=the",
)
ORDERS = ("created", "-created", "due", "-due", "priority", "-priority", "updated", "-updated")
LISTS = (*FILTERS, *(f"sort={order}" for order in ORDERS), "sort=due&completed=false", "sort=-due&due=none",
         "sort=-due&due=any", "deleted=true", "deleted=true&sort=updated")  # fmt: skip
VALID = (
    "limit=1", "limit=200", "limit=050", "deleted=false", f"q={'x' * 200}", "q=1+2+3+4+5",
    f"tag={'x' * 50}", "&".join(f"any_tag={number}" for number in range(20)),
    "due_from=1970-01-01T00:00:00Z", "due_before=9999-12-31T23:59:59.999999999Z", "priority=low,low",
)  # fmt: skip
CONFLICTS = {
    f"due_from={TIME}&due_before={TIME}": "due_before",
    f"created_from={TIME}&created_before=2026-11-30T23:59:59Z": "created_before",
    f"updated_from={TIME}&updated_before=1970-01-01T00:00:00Z": "updated_before",
    f"due=none&due_from={TIME}": "due_from",
    f"due=none&due_before={TIME}": "due_before",
    "deleted=true&completed=true": "deleted",
    "deleted=true&q=x": "deleted",
    "deleted=true&sort=created": "sort",
    "deleted=true&sort=-priority": "sort",
}
INVALID = {
    "limit": (
        "",
        "0",
        "-1",
        "201",
        "1000000000",
        "1.0",
        "1e1",
        "+1",
        " 1",
        "1 ",
        "1_0",
        "１",
        "abc",
        "null",
        "0x1",
        "true",
    ),
    "completed": ("", "True", "FALSE", "1", "0", "yes", "on", " true", "null", "maybe"),
    "deleted": ("", "True", "1", "yes"),
    "priority": ("", "urgent", "High", "low,", ",low", "low, high", "low;high"),
    "tag": ("", "x" * 51, "a\0b"),
    "any_tag": ("", "x" * 51, "\0"),
    "due": ("", "some", "None", "true"),
    "q": ("", " ", "\u3000", "x" * 201, "1 2 3 4 5 6", "a\0"),
    "sort": ("", "title", "+due", "due,created", "-", "Created", "--due"),
    **dict.fromkeys(
        ("due_from", "due_before", "created_from", "created_before", "updated_from", "updated_before"),
        ("", "now", "2030-05-17", "2030-05-17T08:00:00", "1969-12-31T23:59:59Z", "2030-02-30T00:00:00Z",
         "9999-12-31T23:59:59-14:00", "infinity", "1e9", "2030-05-17T08:00:00 02:00"),
    ),
}  # fmt: skip
BAD_CURSORS = (
    "",
    "x",
    "A" * 42,
    "A" * 44,
    "A" * 42 + "+",
    "A" * 42 + "=",
    "A" * 42 + "\n",
    "é" * 43,
    "A" * 3_900,
)


def _page(prober: Prober, query: str, user: User) -> Response:
    return prober.accept(200, "GET", f"{TASKS}?{query}" if query else TASKS, token=user)


def _stored(prober: Prober, query: str, user: User) -> list[str]:
    """The IDs of the user's tasks on this list."""
    return expected_ids(prober.context, user.id, parse_qsl(query))


def _traverse(prober: Prober, query: str, user: User) -> Iterator[Response]:
    """The pages from the first to the last, by their links."""
    path = f"{TASKS}?{query}" if query else TASKS
    for _ in range(300):
        response = prober.accept(200, "GET", path, token=user)
        yield response
        link = response.headers.get("Link")
        if link is None:
            return
        path = link_target(link)
        _expect_link(prober, link, query, response)
    prober.fail(f"the list of {query!r} does not end")


def _expect_link(prober: Prober, link: str, query: str, response: Response) -> None:
    cursor = link_target(link).rpartition("cursor=")[2]
    parameters = [*parse_qsl(query), ("cursor", cursor)]
    expected = f'<{TASKS}?{urlencode(parameters)}>; rel="next"'
    prober.expect(link == expected, f"the Link is {link!r} and not {expected!r}", response)


@probe("tasks.list.order", "tasks.list.limit", "tasks.list.completed", "tasks.list.next", "tasks.list.paging",
       "tasks.list.own", at_least=150)  # fmt: skip
def pages_of_every_size(prober: Prober) -> None:
    """From one task on a page to all of them, one more, and one less."""
    owner = prober.context.owner
    for query in ("", "completed=true", "completed=false"):
        stored = _stored(prober, query, owner)
        sizes = {2, 7, len(stored) - 1, len(stored), len(stored) + 1, DEFAULT_LIMIT, MAXIMUM_LIMIT}
        for size in sorted(each for each in sizes if each <= MAXIMUM_LIMIT):
            limited = f"{query}{'&' if query else ''}limit={size}"
            _expect_pages(prober, limited, size, stored)
        _expect_pages(prober, query, DEFAULT_LIMIT, stored)


@probe(
    "tasks.list.sort",
    "tasks.list.combined",
    "tasks.list.priority",
    "tasks.list.tag",
    "tasks.list.any-tag",
    "tasks.list.due",
    "tasks.list.ranges",
    "tasks.list.q",
    "tasks.list.deleted",
    "tasks.list.paging",
    at_least=200,
)
def every_filter_and_every_order(prober: Prober) -> None:
    """Among tasks with equal keys, with and without due dates, and with a search in two scripts."""
    _add_ties(prober)
    for query in LISTS:
        stored = _stored(prober, query, prober.context.owner)
        for size in (9, MAXIMUM_LIMIT):
            limited = f"{query}{'&' if query else ''}limit={size}"
            _expect_pages(prober, limited, size, stored)
    for query, count in (("q=balc%C3%B3ny+PLANTS", 1), ("q=%E7%B7%8A%E6%80%A5", 1), ("q=STRASSE+100%25", 1)):
        found = len(_page(prober, query, prober.context.owner).json())
        prober.expect(found >= count, f"the search {query!r} finds {found} tasks")


def _add_ties(prober: Prober) -> None:
    """Tasks with equal due dates and priorities, created and changed at one moment."""
    texts = ("Plants on the balcony", "これは緊急です", "Straße 100%", "a_b")
    for number in range(24):
        fields = {
            "title": texts[number % len(texts)],
            "description": (None, "The Balcony", "x")[number % 3],
            "priority": ("low", "medium", "high")[number % 3],
            "due_at": (
                None,
                "2026-11-30T23:59:59.999999Z",
                "2026-12-01T00:00:00Z",
                "2030-05-17T08:00:00.25Z",
            )[number // 2 % 4],
            "tags": (["home"], ["home", "urgent, really"], [])[number % 3],
        }
        prober.accept(
            201, "POST", TASKS, token=prober.context.owner, content=json.dumps(fields).encode(),
            headers=[("Content-Type", "application/json")],
        )  # fmt: skip
    moment = "UPDATE tasks SET created_at = '2026-06-01', updated_at = '2026-06-01'"
    prober.context.query(f"{moment} WHERE user_id = %s AND title = 'a_b'", prober.context.owner.id)


@probe("tasks.list.ranges", at_least=2)
def a_range_of_changes(prober: Prober) -> None:
    """From the last change on there is one task, and before it all others."""
    owner = prober.context.owner
    stored = _stored(prober, "", owner)
    changed = _patch(prober, stored[-1], {"title": "The last change"})
    for name, expected in (("updated_from", stored[-1:]), ("updated_before", stored[:-1])):
        page = _page(prober, f"{name}={quote(changed)}&limit=200", owner)
        found = [task["id"] for task in page.json()]
        prober.expect(found == expected[:MAXIMUM_LIMIT], f"{name} finds {len(found)} tasks", page)


@probe("tasks.list.q", at_least=6)
def a_search_after_a_change(prober: Prober) -> None:
    """Each field is found by its new text, and no longer by its old one."""
    owner = prober.context.owner
    task = _stored(prober, "", owner)[0]
    for number, name in enumerate(("title", "description", "title")):
        _patch(prober, task, {name: f"Change number{number} of {name}"})
        found = [each["id"] for each in _page(prober, f"q=NUMBER{number}+{name}", owner).json()]
        prober.expect(found == [task], f"the new {name} is not found")
    gone = _page(prober, "q=number0", owner)
    prober.expect(gone.json() == [], "the old title is still found", gone)


def _patch(prober: Prober, task: str, fields: dict[str, str]) -> str:
    """When the task was changed."""
    response = prober.accept(
        200, "PATCH", f"{TASKS}/{task}", token=prober.context.owner,
        content=json.dumps(fields).encode(), headers=[("Content-Type", "application/json")],
    )  # fmt: skip
    return str(response.json()["updated_at"])


@probe("tasks.list.conflicts", "problems.errors", at_least=len(CONFLICTS))
def parameters_that_contradict_each_other(prober: Prober) -> None:
    for query, name in CONFLICTS.items():
        path = f"{TASKS}?{query}"
        response = prober.refuse(409, "conflicting-parameters", "GET", path, token=prober.context.owner)
        if response.status_code == 409:
            found = [each.get("parameter") for each in response.json()["errors"]]
            prober.expect(found == [name], f"the parameters are {found}", response)
        both = prober.refuse(422, "invalid-request", "GET", f"{path}&limit=0", token=prober.context.owner)
        prober.expect(both.status_code == 422, "a contradiction hides an invalid value", both)


def _expect_pages(prober: Prober, query: str, size: int, stored: Sequence[str]) -> None:
    pages = [
        [task["id"] for task in response.json()]
        for response in _traverse(prober, query, prober.context.owner)
    ]
    expected = [list(stored[start : start + size]) for start in range(0, len(stored), size)] or [[]]
    found = [task for page in pages for task in page]
    missing, extra = (len(set(one) - set(other)) for one, other in ((stored, found), (found, stored)))
    prober.expect(
        pages == expected,
        f"the pages of {query!r} are not the stored tasks, {size} at a time:"
        f" {missing} of {len(stored)} are missing, {extra} do not belong there",
    )


@probe("tasks.list.paging", "tasks.list.sort", at_least=4 * len(ORDERS))
def a_list_that_changes_while_it_is_read(prober: Prober) -> None:
    """Tasks on the border of a page are deleted, changed and created between two pages."""
    context = prober.context
    for order in ORDERS:
        stored = _stored(prober, f"sort={order}", context.owner)
        pages = _traverse(prober, f"sort={order}&limit={len(stored) // 3}", context.owner)
        seen = [task["id"] for task in next(pages).json()]
        border = [seen[-1], stored[len(seen)]]
        for task in border:
            prober.accept(204, "DELETE", f"{TASKS}/{task}", token=context.owner)
        prober.accept(
            201, "POST", TASKS, token=context.owner,
            content=b'{"title": "Created between two pages"}', headers=[("Content-Type", "application/json")],
        )  # fmt: skip
        seen += [task["id"] for page in pages for task in page.json()]
        kept = [task for task in stored if task not in border]
        prober.expect(
            [task for task in seen if task in kept] == kept, f"sorted by {order}, a task is lost or repeated"
        )


@probe("tasks.list.cursor", "tasks.isolation", at_least=24)
def a_cursor_that_is_not_of_this_list(prober: Prober) -> None:
    """The owner's cursors, used by a stranger, with another filter, and altered."""
    context = prober.context
    lists = ("", "completed=true", "completed=false", "sort=due", "sort=-due", "sort=updated", "tag=home")
    for query in lists:
        limited = f"{query}{'&' if query else ''}limit=3"
        target = link_target(_page(prober, limited, context.owner).headers["Link"])
        prober.refuse(404, "unknown-cursor", "GET", target, token=context.stranger)
        cursor = target.rpartition("cursor=")[2]
        for other in set(lists) - {query}:
            path = f"{TASKS}?{other}{'&' if other else ''}cursor={cursor}"
            prober.refuse(404, "unknown-cursor", "GET", path, token=context.owner)
        for place in (0, 9, 20, 31, 42):
            altered = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
            path = target.replace(cursor, altered)
            prober.refuse(404, "unknown-cursor", "GET", path, token=context.owner)
        # The limit may differ from page to page.
        prober.accept(200, "GET", target.replace("limit=3", "limit=4"), token=context.owner)


@probe("tasks.list.cursor", "problems.no-echo", at_least=len(BAD_CURSORS))
def a_cursor_of_the_wrong_form(prober: Prober) -> None:
    for cursor in BAD_CURSORS:
        path = f"{TASKS}?cursor={quote(cursor)}"
        prober.refuse(400, "invalid-cursor", "GET", path, token=prober.context.owner)


@probe("tasks.list.limit", "tasks.list.completed", "tasks.list.values", "problems.errors", at_least=90)
def a_parameter_at_and_beyond_its_limits(prober: Prober) -> None:
    for query in VALID:
        _page(prober, query, prober.context.owner)
    for name, values in INVALID.items():
        for value in values:
            path = f"{TASKS}?{name}={quote(value)}"
            response = prober.refuse(422, "invalid-request", "GET", path, token=prober.context.owner)
            prober.expect_errors(response, "parameter", name)
    repeated = [f"{name}=x&{name}=x" for name in ("tag", "any_tag")]
    many = ["&".join(f"{name}={number}" for number in range(21)) for name in ("tag", "any_tag")]
    alike = [f"{name}=&{name}=" for name in ("tag", "any_tag")]
    for query in (*repeated, *many, *alike):
        response = prober.refuse(
            422, "invalid-request", "GET", f"{TASKS}?{query}", token=prober.context.owner
        )
        prober.expect_errors(response, "parameter", query.partition("=")[0])


@probe("tasks.list.bytes", at_least=4)
def a_page_of_more_bytes_than_allowed(prober: Prober) -> None:
    """Pages end early, but no earlier than the bound requires, and nothing is lost."""
    user = prober.context.hoarder
    pages = list(_traverse(prober, "limit=200", user))
    listed = [task for page in pages for task in page.json()]
    prober.expect([task["id"] for task in listed] == _stored(prober, "", user), "a task is lost or repeated")
    for page, following in itertools.pairwise(pages):
        size = len(page.content)
        prober.expect(size <= MAXIMUM_BYTES, f"a page has {size} bytes", page)
        first = len(json.dumps(following.json()[0], ensure_ascii=False, separators=(",", ":")).encode())
        prober.expect(size + first + 1 > MAXIMUM_BYTES, f"a page of {size} bytes ends too early", page)


@probe("tasks.list.bytes", at_least=3)
def a_page_of_exactly_the_bytes_allowed(prober: Prober) -> None:
    """A page as large as the bound is whole; with one byte more, its last task moves to the next."""
    context = prober.context
    user = User("fuzz-exact", context.mint("fuzz-exact"))
    context.query(
        "INSERT INTO tasks (id, user_id, title, description, tags, created_at, updated_at)"
        " SELECT (%s || lpad(number::text, 12, '0'))::uuid, %s, 'Exact', '', '{}', moment, moment"
        " FROM generate_series(1, %s) number,"
        " (SELECT '2030-05-17T08:00:00.5Z'::timestamptz) moments (moment)",
        SAME_MOMENT, user.id, EXACT_TASKS,
    )  # fmt: skip
    missing = MAXIMUM_BYTES - len(_page(prober, f"limit={EXACT_TASKS}", user).content)
    each, rest = divmod(missing, EXACT_TASKS)
    context.query("UPDATE tasks SET description = repeat('x', %s) WHERE user_id = %s", each, user.id)
    for excess, whole in ((0, True), (1, False)):
        context.query(
            "UPDATE tasks SET description = repeat('x', %s) WHERE id = %s",
            each + rest + excess, f"{SAME_MOMENT}{1:012}",
        )  # fmt: skip
        page = _page(prober, f"limit={EXACT_TASKS}", user)
        listed = len(page.json())
        prober.expect(listed == EXACT_TASKS - (not whole), f"the page has {listed} tasks", page)
        prober.expect(("Link" in page.headers) is not whole, "the Link does not agree with the page", page)
        prober.expect(
            not whole or len(page.content) == MAXIMUM_BYTES, "the page has fewer bytes than the limit", page
        )
