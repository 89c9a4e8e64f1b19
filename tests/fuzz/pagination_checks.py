"""Checks the pages of a list against the database."""

import json
from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.fuzz.context import FuzzContext
from tests.fuzz.response_checks import link_target
from tests.support import TASKS

DEFAULT_LIMIT = 50
LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"
PAGES_CHECKED = 3
"""Enough to detect a task that is lost or repeated at a page boundary."""


def check_pages(context: FuzzContext, requested: str) -> Iterator[str]:
    """Check the first pages of the owner's list.

    The cursor of the fuzzed request is dropped: the service did not issue it.
    """
    path: str | None = _with_query(requested, cursor=None)
    after = LAST_ID
    for _ in range(PAGES_CHECKED):
        if path is None:
            return
        answer = context.send("GET", path, context.owner.token)
        expected, more = _expected_page(context, path, after)
        found = [task["id"] for task in answer.json()] if answer.status_code == 200 else []
        if found != expected:
            yield f"the page of {path} has {len(found)} tasks, which are not the {len(expected)} expected"
            return
        link = answer.headers.get("Link")
        following = _with_query(path, cursor=_query(link_target(link)).get("cursor", "")) if link else None
        if more != bool(link) or (link and link != f'<{following}>; rel="next"'):
            yield f"the page of {path} has the Link {link!r}"
            return
        if following:
            yield from _check_cursor_binding(context, following)
            after = expected[-1]
        path = following


def _check_cursor_binding(context: FuzzContext, path: str) -> Iterator[str]:
    """The cursor must be rejected with another filter."""
    other = "false" if _query(path).get("completed") == "true" else "true"
    answer = context.send("GET", _with_query(path, completed=other), context.owner.token)
    if answer.status_code != 404:
        yield f"the cursor of another list got {answer.status_code}"


def _expected_page(context: FuzzContext, path: str, after: str) -> tuple[list[str], bool]:
    """The task IDs of the page, and whether there are more."""
    query = _query(path)
    limit = int(query.get("limit", DEFAULT_LIMIT))
    filters = {name: value for name, value in query.items() if name not in {"limit", "cursor"}}
    rows = context.query(
        "SELECT id::text FROM tasks WHERE user_id = %s AND deleted_at IS NULL AND id < %s"
        " AND NOT EXISTS (SELECT FROM jsonb_each_text(%s::jsonb) AS filter (name, value)"
        "   WHERE to_jsonb(tasks) ->> name IS DISTINCT FROM value)"
        " ORDER BY id DESC LIMIT %s",
        context.owner.id,
        after,
        json.dumps(filters),
        limit + 1,
    )
    ids = [row[0] for row in rows]
    return ids[:limit], len(ids) > limit


def _with_query(path: str, **changes: str | None) -> str:
    """The path with changed query parameters; None removes a parameter."""
    query = {name: value for name, value in {**_query(path), **changes}.items() if value is not None}
    return f"{TASKS}?{urlencode(query)}" if query else TASKS


def _query(path: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
