"""Checks the pages of a list against the database."""

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlencode, urlsplit

from tests.fuzz.context import FuzzContext
from tests.fuzz.expected_lists import Query, expected_ids
from tests.fuzz.response_checks import link_target
from tests.support import TASKS

DEFAULT_LIMIT = 50
PAGES_CHECKED = 3
"""Enough to detect a task that is lost or repeated at a page boundary."""


def check_pages(context: FuzzContext, requested: str) -> Iterator[str]:
    """Check the first pages of the owner's list.

    The cursor of the fuzzed request is dropped: the service did not issue it.
    """
    query = [each for each in _query(requested) if each[0] != "cursor"]
    first = context.send("GET", _path(query), context.owner.token)
    if first.status_code in {409, 422}:
        return
    limit = int(dict(query).get("limit", DEFAULT_LIMIT))
    expected = expected_ids(context, context.owner.id, query)
    answer = first
    for number in range(PAGES_CHECKED):
        start = number * limit
        found = [task["id"] for task in answer.json()] if answer.status_code == 200 else []
        if found != expected[start : start + limit]:
            yield f"page {number + 1} of {_path(query)} has {len(found)} tasks, which are not those expected"
            return
        link = answer.headers.get("Link")
        following = [*query, ("cursor", dict(_query(link_target(link))).get("cursor", ""))] if link else None
        if bool(link) != (len(expected) > start + limit) or (
            following and link != f'<{_path(following)}>; rel="next"'
        ):
            yield f"page {number + 1} of {_path(query)} has the Link {link!r}"
            return
        if following is None:
            return
        yield from _check_cursor_binding(context, following)
        answer = context.send("GET", _path(following), context.owner.token)


def _check_cursor_binding(context: FuzzContext, query: Query) -> Iterator[str]:
    """The cursor must be rejected with another filter, and with another order."""
    given = dict(query)
    if given.get("deleted") == "true":
        changes = [("sort", "updated" if given.get("sort") != "updated" else "-updated")]
    else:
        changes = [
            ("completed", "false" if given.get("completed") == "true" else "true"),
            ("sort", "due" if given.get("sort") != "due" else "-due"),
        ]
    for name, value in changes:
        changed = [*(each for each in query if each[0] != name), (name, value)]
        answer = context.send("GET", _path(changed), context.owner.token)
        if answer.status_code != 404:
            yield f"the cursor of another list got {answer.status_code}"


def _path(query: Query) -> str:
    return f"{TASKS}?{urlencode(query)}" if query else TASKS


def _query(path: str) -> Query:
    return parse_qsl(urlsplit(path).query, keep_blank_values=True)
