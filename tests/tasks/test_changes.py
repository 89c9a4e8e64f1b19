"""GET /api/tasks/changes, and the positions of changes."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import URL
from starlette.testclient import TestClient

from tests.environment import Sql, without_row_security
from tests.factories import new_task
from tests.operations import ON_TASKS, Operation, each
from tests.process.test_purge import purge
from tests.support import ACCOUNT, TASKS, Caller, assert_problem, client_as, error_locations, ok
from tests.tasks.copy import CHANGES, Copy, live_tasks, purge_trash

WRITERS, ROUNDS = 8, 10


def changes(caller: Caller, since: str = "0", limit: int = 200) -> dict[str, Any]:
    return ok(caller.get(f"{CHANGES}?since={since}&limit={limit}"))


def expire(sql: Sql, caller: Caller) -> None:
    """Let the tasks in the trash be there for too long."""
    sql("UPDATE tasks SET deleted_at = 'epoch' WHERE user_id = %s AND deleted_at IS NOT NULL",
        caller.user_id)  # fmt: skip


@pytest.mark.spec("changes.page")
def test_a_user_without_tasks_has_no_changes(owner: Caller) -> None:
    assert ok(owner.get(CHANGES)) == {"tasks": [], "position": "0", "more": False}


@pytest.mark.spec("changes.page", "tasks.isolation")
def test_each_task_is_there_once_as_it_is_now_in_the_order_of_its_last_change(
    owner: Caller, stranger: Caller
) -> None:
    stranger.create()
    first, second, third = (owner.create() for _ in range(3))
    changed = ok(owner.patch(first["id"], {"title": "x"}))
    owner.delete(second["id"])
    [deleted] = owner.get(f"{TASKS}?deleted=true").json()
    page = changes(owner)
    assert page["tasks"] == [third, changed, deleted]
    assert page["more"] is False
    assert changes(owner, page["position"]) == {"tasks": [], "position": page["position"], "more": False}


@pytest.mark.spec("tasks.isolation")
def test_they_are_limited_to_the_user_without_row_security(owner: Caller, stranger: Caller, sql: Sql) -> None:
    stranger.create()
    task = owner.create()
    with without_row_security(sql):
        assert changes(owner)["tasks"] == [task]


@pytest.mark.spec("changes.page", "changes.limit")
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 200])
def test_pages_follow_each_other(owner: Caller, limit: int) -> None:
    tasks = [owner.create() for _ in range(7)]
    found, position, more = list[object](), "0", True
    while more:
        page = changes(owner, position, limit)
        assert len(page["tasks"]) == min(limit, 7 - len(found))
        found += page["tasks"]
        position, more = page["position"], page["more"]
    assert found == tasks


@pytest.mark.spec("changes.limit")
def test_a_page_is_limited_in_bytes(owner: Caller) -> None:
    for _ in range(30):
        owner.create(description="\u7dca" * 5_000)
    response = owner.get(CHANGES)
    assert len(response.content) < 256 * 1024 + 200
    assert response.json()["more"] is True
    copy = Copy(owner)
    copy.follow()
    assert copy.tasks == live_tasks(owner)
    assert len(copy.tasks) == 30


@pytest.mark.spec("changes.since")
@pytest.mark.parametrize(
    "since",
    [
        "", "-1", "+1", "1.5", "1e3", "01", "x", " 1", "1-", "-", "1-2-3", "0-1", "1-01", "9" * 17,
        "1-" + "9" * 17, "\0", "\u0661", "1" * 20_000,
    ],
)  # fmt: skip
def test_another_form_of_a_position_is_refused(owner: Caller, since: str) -> None:
    assert error_locations(owner.request("GET", CHANGES, params={"since": since})) == {"since"}


@pytest.mark.spec("changes.limit")
@pytest.mark.parametrize("limit", ["0", "201", "-1", "x", "1.5", ""])
def test_a_limit_that_is_out_of_range_is_refused(owner: Caller, limit: str) -> None:
    assert error_locations(owner.get(f"{CHANGES}?limit={limit}")) == {"limit"}


@pytest.mark.spec("changes.expired")
@pytest.mark.parametrize("since", ["1", "9" * 16, "9" * 16 + "-0", "1-0"])
def test_a_position_that_the_feed_does_not_have_has_expired(owner: Caller, since: str) -> None:
    assert_problem(owner.get(f"{CHANGES}?since={since}"), 410, "sync-expired")
    owner.create()
    assert_problem(owner.get(f"{CHANGES}?since={since}"), 410, "sync-expired")


@pytest.mark.spec("changes.expired", "tasks.isolation")
def test_a_position_of_another_user_shows_nothing_of_them(owner: Caller, stranger: Caller) -> None:
    """The one is ahead of the feed, and the other is before it begins."""
    owner.create()
    stranger.create()
    for caller, other in ((owner, stranger), (stranger, owner)):
        position = changes(other)["position"]
        assert_problem(caller.get(f"{CHANGES}?since={position}"), 410, "sync-expired")


@pytest.mark.spec("changes.expired", "purge.tasks")
def test_a_position_before_a_purge_has_expired(owner: Caller, database_url: URL, sql: Sql) -> None:
    kept, gone = owner.create(), owner.create()["id"]
    before = changes(owner)["position"]
    owner.delete(gone)
    expire(sql, owner)
    after = changes(owner)["position"]
    purge(database_url)
    assert_problem(owner.get(f"{CHANGES}?since={before}"), 410, "sync-expired")
    assert changes(owner)["tasks"] == [kept]
    assert changes(owner, after)["more"] is False


@pytest.mark.spec("changes.expired", "changes.complete")
def test_a_first_synchronization_after_a_purge_can_have_many_pages(
    owner: Caller, database_url: URL, sql: Sql
) -> None:
    """Its first positions are lower than that of the purge."""
    tasks = [owner.create() for _ in range(5)]
    owner.delete(owner.create()["id"])
    expire(sql, owner)
    purge(database_url)
    copy = Copy(owner, limit=2)
    positions = []
    while copy.follow_one_page():
        positions.append(copy.position)
    assert list(copy.tasks.values()) == tasks
    assert len(positions) == 2
    # What is deleted and purged in between would be missed.
    owner.delete(tasks[0]["id"])
    expire(sql, owner)
    purge(database_url)
    for position in positions:
        assert_problem(owner.get(f"{CHANGES}?since={position}"), 410, "sync-expired")


@pytest.mark.spec("changes.expired", "account.erase.after")
def test_a_position_before_the_account_was_deleted_has_expired(owner: Caller) -> None:
    for _ in range(3):
        owner.create()
    positions = [changes(owner, limit=1)["position"], changes(owner)["position"]]
    owner.request("DELETE", ACCOUNT)
    for _ in range(2):
        for position in positions:
            assert_problem(owner.get(f"{CHANGES}?since={position}"), 410, "sync-expired")
        owner.create()


@pytest.mark.spec("changes.position")
@each(tuple(each for each in ON_TASKS if each.writes))
def test_every_change_has_its_position(owner: Caller, operation: Operation) -> None:
    task = owner.create()["id"]
    if operation.takes_deleted:
        owner.delete(task)
    before = changes(owner)["position"]
    response = operation.send(owner, task)
    after = changes(owner, before)
    assert response.headers["tasks-position"] == after["position"] != before
    assert len(after["tasks"]) == 1


@pytest.mark.spec("changes.position")
def test_a_request_without_effect_has_the_position_of_the_last_change(owner: Caller) -> None:
    body, keyed = new_task(id=str(uuid.uuid4())), {"Idempotency-Key": "k"}
    created = owner.post(body, headers=keyed).headers["tasks-position"]
    restored = owner.request("POST", f"{TASKS}/{body['id']}/restore")
    unchanged = [owner.post(body), owner.post(body, headers=keyed), owner.patch(body["id"], {}), restored]
    assert {each.headers["tasks-position"] for each in unchanged} == {created}
    owner.patch(body["id"], {"title": "x"})
    assert owner.post(body, headers=keyed).headers["tasks-position"] == created


@pytest.mark.spec("changes.complete", "tasks.concurrent")
def test_followers_of_concurrent_writers_have_every_task(owner: Caller) -> None:
    shared = owner.create()["id"]
    written = Event()

    def write(_: int) -> None:
        for number in range(ROUNDS):
            task = owner.create()["id"]
            assert owner.patch(shared, {"title": f"t{number}"}).status_code == 200
            if number % 2:
                assert owner.delete(task).status_code == 204

    def follow(limit: int) -> Copy:
        copy = Copy(owner, limit)
        copy.follow_until(written)
        return copy

    with ThreadPoolExecutor(WRITERS + 4) as threads:
        following = [threads.submit(follow, limit) for limit in (1, 3, 50, 200)]
        try:
            for writing in [threads.submit(write, number) for number in range(WRITERS)]:
                writing.result()
        finally:
            written.set()
        copies = [each.result() for each in following]
    expected = live_tasks(owner)
    assert len(expected) == 1 + WRITERS * ROUNDS // 2
    assert [copy.tasks for copy in copies] == [expected] * len(copies)


class Histories(RuleBasedStateMachine):
    """Any history of changes, purges and deletions of the account, with clients that follow in any steps."""

    client: TestClient
    sql: Sql
    database_url: URL

    @initialize()
    def begin(self) -> None:
        self.caller = client_as(self.client, f"history-{uuid.uuid4()}")
        self.copies = [Copy(self.caller, limit) for limit in (1, 2, 3)]

    def _some(self, number: int, query: str = "") -> str | None:
        ids = sorted(self.caller.ids(query))
        return ids[number % len(ids)] if ids else None

    @rule(count=st.integers(1, 4))
    def create(self, count: int) -> None:
        for _ in range(count):
            self.caller.create()

    @rule(number=st.integers(0, 9))
    def change(self, number: int) -> None:
        if task := self._some(number):
            ok(self.caller.patch(task, {"title": f"{number}"}))

    @rule(number=st.integers(0, 9))
    def delete(self, number: int) -> None:
        if task := self._some(number):
            self.caller.delete(task)

    @rule(number=st.integers(0, 9))
    def restore(self, number: int) -> None:
        if task := self._some(number, "?deleted=true"):
            ok(self.caller.request("POST", f"{TASKS}/{task}/restore"))

    @rule(number=st.integers(0, 2))
    def follow_one_page(self, number: int) -> None:
        self.copies[number].follow_one_page()

    @rule()
    def purge_the_trash(self) -> None:
        purge_trash(self.sql, self.caller.user_id)

    @rule()
    def erase(self) -> None:
        self.caller.request("DELETE", ACCOUNT)

    @invariant()
    def a_copy_that_has_reached_the_end_is_complete(self) -> None:
        expected = live_tasks(self.caller)
        for copy in self.copies:
            follower = Copy(self.caller, copy.limit, copy.position, dict(copy.tasks))
            follower.follow()
            assert follower.tasks == expected


@pytest.mark.spec("changes.complete", "changes.expired")
def test_every_history_can_be_followed(client: TestClient, sql: Sql) -> None:
    machine = type("History", (Histories,), {"client": client, "sql": sql})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, derandomize=True, database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
