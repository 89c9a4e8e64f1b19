"""Probes of the account: deleting and exporting everything that belongs to a user."""

import json
from typing import Any

from httpx2 import Response

from tests.factories import full_task, new_task
from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Options, Prober, probe
from tests.support import ACCOUNT, TASKS

EXPORT = f"{ACCOUNT}/export"
TABLES = ("tasks", "feeds", "idempotency_keys")


def _user(prober: Prober, name: str) -> User:
    return User(name, prober.context.mint(name))


def _export(prober: Prober, user: User) -> list[dict[str, Any]]:
    response = prober.accept(200, "GET", EXPORT, token=user)
    kind = response.headers.get("Content-Type")
    prober.expect(kind == "application/x-ndjson", f"the export is {kind}", response)
    *lines, end = response.text.split("\n")
    prober.expect(end == "", "the last line is not complete", response)
    return [json.loads(line) for line in lines]


def _create(prober: Prober, user: User, key: str, **fields: object) -> Response:
    body = json.dumps({**full_task(), **fields}).encode()
    options: Options = {"token": user, "content": body, "headers": [*JSON, ("Idempotency-Key", key)]}
    return prober.accept(201, "POST", TASKS, **options)


def _rows(prober: Prober, user: User) -> list[int]:
    """How many rows each table has of the user."""
    count = "SELECT count(*) FROM {} WHERE user_id = %s"
    return [prober.context.query(count.format(table), user.id)[0][0] for table in TABLES]


@probe("account.erase", "account.erase.after", "schema.feed.first", "tasks.isolation", at_least=6)
def an_account_that_is_deleted(prober: Prober) -> None:
    context = prober.context
    user = _user(prober, "fuzz-leaver")
    others = (context.owner, context.stranger)
    body = new_task(id="0f8fad5b-d9cb-469f-a165-70867728950e")
    first = _create(prober, user, "k", **body)
    prober.accept(204, "DELETE", f"{TASKS}/{_create(prober, user, 'l').json()['id']}", token=user)
    feed = context.feed(user)
    before = [context.fingerprint(of=each) for each in others]
    for _ in range(2):
        gone = prober.accept(204, "DELETE", ACCOUNT, token=user)
        prober.expect(_rows(prober, user) == [0, 0, 0], f"rows are left: {_rows(prober, user)}", gone)
    prober.expect([context.fingerprint(of=each) for each in others] == before, "others lost something", gone)
    again = _create(prober, user, "k", **body)
    prober.expect("Idempotency-Replayed" not in again.headers, "a key outlives its account", again)
    prober.expect(again.headers.get("ETag") != first.headers.get("ETag"), "a tag comes back", again)
    later = context.feed(user)
    prober.expect(feed and later and later.seq > feed.seq, "a position comes back", again)
    lowest = context.query("SELECT purged_seq FROM feeds WHERE user_id = %s", user.id)
    prober.expect(feed and lowest[0][0] > feed.seq, "positions of the deleted account are valid", again)


@probe("account.export", "account.export.pages", "tasks.isolation", at_least=5)
def everything_that_a_user_has(prober: Prober) -> None:
    """In the order of the IDs, page by page, whether a task is deleted or not."""
    context = prober.context
    user = _user(prober, "fuzz-exporter")
    prober.expect(_export(prober, user) == [], "an export has tasks of somebody else")
    for size in (99, 100, 101, 203):
        context.query(
            "INSERT INTO tasks (user_id, id, title, deleted_at)"
            " SELECT %s, gen_random_uuid(), 'x', CASE WHEN n %% 2 = 0 THEN now() END"
            " FROM generate_series((SELECT count(*) FROM tasks WHERE user_id = %s) + 1, %s) n",
            user.id,
            user.id,
            size,
        )
        stored = context.query("SELECT id::text FROM tasks WHERE user_id = %s ORDER BY id", user.id)
        found = [task["id"] for task in _export(prober, user)]
        prober.expect(found == [each for (each,) in stored], f"an export of {size} tasks has others")
    hoarded = len(context.ids(context.hoarder))
    prober.expect(len(_export(prober, context.hoarder)) == hoarded, "long tasks are left out")


@probe("account.export", at_least=3)
def an_export_beside_the_lists(prober: Prober) -> None:
    """Each task has the members that the lists have; those of somebody else are not in it."""
    owner = prober.context.owner
    with prober.context.without_row_security():
        exported = {task["id"]: task for task in _export(prober, owner)}
    for query in ("limit=200", "limit=200&deleted=true"):
        for task in prober.accept(200, "GET", f"{TASKS}?{query}", token=owner).json():
            prober.expect(exported.get(task["id"]) == task, "an export has another task than a list")
    prober.expect({task["user_id"] for task in exported.values()} == {owner.id}, "a task of another user")
