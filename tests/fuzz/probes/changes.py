"""Probes of the changes: positions, pages, and what has expired."""

import itertools
from typing import Any

from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Prober, probe, valid
from tests.operations import ON_TASKS
from tests.support import ACCOUNT, TASKS

CHANGES = f"{TASKS}/changes"
BAD_POSITIONS = (
    "",
    "-1",
    "1.5",
    "1e3",
    "01",
    "x",
    "1-",
    "-",
    "0-1",
    "1-2-3",
    "1-01",
    "9" * 17,
    "1-" + "9" * 17,
)
BAD_LIMITS = ("0", "201", "-1", "x", "1.5", "")
BAD_WAITS = ("-1", "26", "1.5", "x", "", "1000000000")
BEYOND = ("9" * 16, "9" * 16 + "-0")


def _changes(prober: Prober, user: User, since: str = "0", limit: int = 200) -> dict[str, Any]:
    response = prober.accept(200, "GET", f"{CHANGES}?since={since}&limit={limit}", token=user)
    found: dict[str, Any] = response.json()
    prober.expect(len(found["tasks"]) <= limit, "a page has more tasks than asked for", response)
    return found


@probe("changes.page", "changes.limit", "changes.complete", "tasks.isolation", at_least=20)
def every_change_of_a_user(prober: Prober) -> None:
    """Without row security, in pages of every size, beside what is stored."""
    context = prober.context
    owner = context.owner
    stored = [
        each
        for (each,) in context.query("SELECT id::text FROM tasks WHERE user_id = %s ORDER BY seq", owner.id)
    ]
    with context.without_row_security():
        for limit in (7, 100, 199, 200):
            found, position, more = list[str](), "0", True
            while more:
                page = _changes(prober, owner, position, limit)
                found += [task["id"] for task in page["tasks"]]
                position, more = page["position"], page["more"]
                if not page["tasks"]:
                    break
            prober.expect(found == stored, f"pages of {limit} have {len(found)} tasks of {len(stored)}")
            feed = context.feed(owner)
            prober.expect(feed and position == f"{feed.seq}", f"the last position is {position}")
    hoarded = _changes(prober, context.hoarder)
    prober.expect(hoarded["more"], "a page exceeds the bound on bytes")


@probe("changes.position", "changes.page", at_least=3 * len(ON_TASKS))
def a_change_and_its_position(prober: Prober) -> None:
    context = prober.context
    user = User("fuzz-follower", context.mint("fuzz-follower"))
    for operation in ON_TASKS:
        created = prober.request("POST", TASKS, token=user, content=b'{"title": "New"}', headers=JSON)
        task = created.json()["id"]
        if operation.takes_deleted:
            prober.request("DELETE", f"{TASKS}/{task}", token=user)
        before = _changes(prober, user)["position"]
        response = prober.accept(
            operation.status, operation.method, operation.url(task), **valid(operation, user)
        )
        after = _changes(prober, user, before)
        if operation.writes:
            position = response.headers.get("Tasks-Position")
            prober.expect(position == after["position"] != before, f"the position is {position}", response)
            [changed] = after["tasks"]
            gone = operation.status == 204
            prober.expect(
                (changed["deleted_at"] is not None) == gone, "a deleted task is not marked", response
            )
        else:
            prober.expect(after["tasks"] == [], "a request that changes nothing is a change", response)


@probe(
    "changes.since",
    "changes.limit",
    "changes.wait",
    at_least=len(BAD_POSITIONS) + len(BAD_LIMITS) + len(BAD_WAITS),
)
def a_position_or_limit_of_the_wrong_form(prober: Prober) -> None:
    given = itertools.chain(
        (("since", each) for each in BAD_POSITIONS),
        (("limit", each) for each in BAD_LIMITS),
        (("wait", each) for each in BAD_WAITS),
    )
    for name, value in given:
        url = f"{CHANGES}?{name}={value}"
        response = prober.refuse(422, "invalid-request", "GET", url, token=prober.context.owner)
        prober.expect_errors(response, "parameter", name)


@probe("changes.expired", "account.erase.after", at_least=12)
def a_position_that_has_expired(prober: Prober) -> None:
    context = prober.context
    user = User("fuzz-expired", context.mint("fuzz-expired"))

    def create() -> None:
        prober.accept(201, "POST", TASKS, token=user, content=b'{"title": "New"}', headers=JSON)

    def expect_expired(*positions: str) -> None:
        for since in positions:
            prober.refuse(410, "sync-expired", "GET", f"{CHANGES}?since={since}", token=user)

    expect_expired("1", *BEYOND)
    for _ in range(3):
        create()
    first, last = _changes(prober, user, limit=1)["position"], _changes(prober, user)["position"]
    expect_expired("1", *BEYOND)
    _changes(prober, user, first)
    create()
    context.query("UPDATE feeds SET purged_seq = seq WHERE user_id = %s", user.id)
    expect_expired(first, last)
    again = _changes(prober, user, limit=1)["position"]
    prober.expect(len(_changes(prober, user, again)["tasks"]) == 3, "a first synchronization ends too early")
    prober.accept(204, "DELETE", ACCOUNT, token=user)
    for _ in range(2):
        expect_expired(first, last, again)
        create()
