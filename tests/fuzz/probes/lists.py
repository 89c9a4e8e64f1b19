"""Probes of the list: pages, cursors, parameters and the bound on bytes."""

import itertools
import json
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from httpx2 import Response

from tests.fuzz.context import User
from tests.fuzz.prober import Prober, probe
from tests.fuzz.response_checks import link_target
from tests.support import TASKS

DEFAULT_LIMIT, MAXIMUM_LIMIT = 50, 200
MAXIMUM_BYTES = 262_144
EXACT_TASKS = 60
"""As many as have room for descriptions of less than the maximum length on one page."""
SAME_MOMENT = "018f0000-0000-7000-8000-"
"""The beginning of the IDs of tasks that were created at one moment."""
FILTERS = ("", "completed=true", "completed=false")
VALID = ("limit=1", "limit=200", "limit=050", "completed=true", "completed=false")
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
}
BAD_CURSORS = (
    "",
    "x",
    "A" * 31,
    "A" * 33,
    "A" * 31 + "+",
    "A" * 31 + "=",
    "A" * 31 + "\n",
    "é" * 32,
    "A" * 3_900,
)


def _page(prober: Prober, query: str, user: User) -> Response:
    return prober.accept(200, "GET", f"{TASKS}?{query}" if query else TASKS, token=user)


def _stored(prober: Prober, query: str, user: User) -> list[str]:
    """The IDs of the user's live tasks that match the filter, newest first."""
    wanted = {"completed=true": [True], "completed=false": [False]}.get(query, [True, False])
    statement = (
        "SELECT id::text FROM tasks WHERE user_id = %s AND deleted_at IS NULL AND completed = ANY(%s)"
        " ORDER BY id DESC"
    )
    return [row[0] for row in prober.context.query(statement, user.id, wanted)]


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
    expected = f'<{TASKS}?{query}{"&" if query else ""}cursor={cursor}>; rel="next"'
    prober.expect(link == expected, f"the Link is {link!r} and not {expected!r}", response)


@probe("tasks.list.order", "tasks.list.limit", "tasks.list.completed", "tasks.list.next", "tasks.list.paging",
       "tasks.list.own", at_least=150)  # fmt: skip
def pages_of_every_size(prober: Prober) -> None:
    """From one task on a page to all of them, one more, and one less."""
    owner = prober.context.owner
    for query in FILTERS:
        stored = _stored(prober, query, owner)
        sizes = {2, 7, len(stored) - 1, len(stored), len(stored) + 1, DEFAULT_LIMIT, MAXIMUM_LIMIT}
        for size in sorted(each for each in sizes if each <= MAXIMUM_LIMIT):
            limited = f"{query}{'&' if query else ''}limit={size}"
            _expect_pages(prober, limited, size, stored)
        _expect_pages(prober, query, DEFAULT_LIMIT, stored)


def _expect_pages(prober: Prober, query: str, size: int, stored: Sequence[str]) -> None:
    pages = [
        [task["id"] for task in response.json()]
        for response in _traverse(prober, query, prober.context.owner)
    ]
    expected = [list(stored[start : start + size]) for start in range(0, len(stored), size)]
    prober.expect(pages == expected, f"the pages of {query!r} are not the stored tasks, {size} at a time")


@probe("tasks.list.paging", at_least=4)
def a_list_that_changes_while_it_is_read(prober: Prober) -> None:
    """Tasks on the border of a page are deleted, changed and created between two pages."""
    context = prober.context
    stored = _stored(prober, "", context.owner)
    pages = _traverse(prober, f"limit={len(stored) // 3}", context.owner)
    seen = [task["id"] for task in next(pages).json()]
    border = [seen[-1], stored[len(seen)]]
    for task in border:
        prober.accept(204, "DELETE", f"{TASKS}/{task}", token=context.owner)
    created = prober.accept(
        201, "POST", TASKS, token=context.owner,
        content=b'{"title": "Created between two pages"}', headers=[("Content-Type", "application/json")],
    )  # fmt: skip
    seen += [task["id"] for page in pages for task in page.json()]
    kept = [task for task in stored if task not in border]
    prober.expect([task for task in seen if task not in border] == kept, "a task is lost or repeated")
    prober.expect(created.json()["id"] not in seen, "a newer task appears behind an older one")


@probe("tasks.list.cursor", "tasks.isolation", at_least=8 * len(FILTERS))
def a_cursor_that_is_not_of_this_list(prober: Prober) -> None:
    """The owner's cursors, used by a stranger, with another filter, and altered."""
    context = prober.context
    for query in FILTERS:
        limited = f"{query}{'&' if query else ''}limit=3"
        target = link_target(_page(prober, limited, context.owner).headers["Link"])
        prober.refuse(404, "unknown-cursor", "GET", target, token=context.stranger)
        cursor = target.rpartition("cursor=")[2]
        for other in set(FILTERS) - {query}:
            path = f"{TASKS}?{other}{'&' if other else ''}cursor={cursor}"
            prober.refuse(404, "unknown-cursor", "GET", path, token=context.owner)
        for place in (0, 9, 20, 31):
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


@probe("tasks.list.limit", "tasks.list.completed", "problems.errors", at_least=26 + len(VALID))
def a_parameter_at_and_beyond_its_limits(prober: Prober) -> None:
    for query in VALID:
        _page(prober, query, prober.context.owner)
    for name, values in INVALID.items():
        for value in values:
            path = f"{TASKS}?{name}={quote(value)}"
            response = prober.refuse(422, "invalid-request", "GET", path, token=prober.context.owner)
            prober.expect_errors(response, "parameter", name)


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
