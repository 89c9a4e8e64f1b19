"""GET /api/tasks/changes that waits for a change."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from services import waiting
from services.waiting import Place, WaitingRoom
from tests.conftest import Serve
from tests.environment import Sql
from tests.factories import full_task
from tests.protocol_proxy import ProtocolProxy
from tests.support import ACCOUNT, TASKS, Caller, assert_problem, client_as, error_locations, ok, wait_until
from tests.tasks.copy import CHANGES, purge_trash

LONG = 25
"""Seconds, the longest wait."""


def position_of(caller: Caller) -> str:
    return str(ok(caller.get(CHANGES))["position"])


def ask(caller: Caller, since: str, seconds: int = LONG) -> Response:
    return caller.get(f"{CHANGES}?since={since}&wait={seconds}")


class Waiting:
    """Requests in threads, and the room in which they wait."""

    def __init__(self, caller: Caller) -> None:
        assert isinstance(caller.client, TestClient)
        self._client = caller.client
        self.room: WaitingRoom = self._client.app.state.waiting_room  # type: ignore[attr-defined]
        self._threads = ThreadPoolExecutor(20)

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown()

    def end(self) -> None:
        """As the process does when it is about to stop."""
        assert self._client.portal is not None
        self._client.portal.call(self.room.end)

    def start(self, caller: Caller, since: str, seconds: int = LONG) -> "Future[Response]":
        """A request that waits now."""
        before = len(self.room)
        request = self._threads.submit(ask, caller, since, seconds)
        wait_until(lambda: len(self.room) > before or request.done(), "the request does not wait")
        return request


@pytest.fixture
def never_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that do not see what others write."""
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 3_600)


@pytest.mark.spec("changes.wait")
def test_what_has_changed_already_is_returned_at_once(owner: Caller, sql: Sql) -> None:
    task = owner.create()
    page = ok(ask(owner, "0"))
    assert page == {"tasks": [task], "position": page["position"], "more": False}
    owner.delete(task["id"])
    assert [each["id"] for each in ok(ask(owner, page["position"]))["tasks"]] == [task["id"]]
    purge_trash(sql, owner.user_id)
    began_at = time.monotonic()
    assert ok(ask(owner, "0")) == {"tasks": [], "position": position_of(owner), "more": False}
    assert time.monotonic() - began_at < LONG / 2


def _restore(caller: Caller, _: str, deleted: str) -> Response:
    return caller.request("POST", f"{TASKS}/{deleted}/restore")


def _batch(caller: Caller, task: str, _: str) -> Response:
    operation = {"op": "update", "id": task, "task": {"title": "x"}}
    return caller.request("POST", f"{TASKS}/batch", json={"operations": [operation]})


CHANGES_OF_A_TASK: dict[str, Callable[[Caller, str, str], Response]] = {
    "create": lambda caller, *_: caller.post(full_task()),
    "replace": lambda caller, task, _: caller.put(task, full_task()),
    "update": lambda caller, task, _: caller.patch(task, {"title": "x"}),
    "delete": lambda caller, task, _: caller.delete(task),
    "restore": _restore,
    "batch": _batch,
}


@pytest.mark.spec("changes.wait", "changes.wait.prompt")
@pytest.mark.usefixtures("never_looking")
@pytest.mark.parametrize("change", CHANGES_OF_A_TASK.values(), ids=CHANGES_OF_A_TASK)
def test_every_change_ends_the_wait(owner: Caller, change: Callable[[Caller, str, str], Response]) -> None:
    task, deleted = (owner.create()["id"] for _ in range(2))
    owner.delete(deleted)
    since = position_of(owner)
    with Waiting(owner) as others:
        request = others.start(owner, since)
        assert change(owner, task, deleted).is_success
        assert len(ok(request.result())["tasks"]) == 1


@pytest.mark.spec("changes.wait")
@pytest.mark.usefixtures("never_looking")
def test_the_first_task_of_a_user_ends_the_wait(owner: Caller) -> None:
    with Waiting(owner) as others:
        request = others.start(owner, "0")
        task = owner.create()
        assert ok(request.result())["tasks"] == [task]


@pytest.mark.spec("changes.wait", "changes.expired")
@pytest.mark.usefixtures("never_looking")
def test_the_end_of_the_account_ends_the_wait(owner: Caller) -> None:
    owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        request = others.start(owner, since)
        assert owner.request("DELETE", ACCOUNT).status_code == 204
        assert_problem(request.result(), 410, "sync-expired")


@pytest.mark.spec("changes.wait.prompt")
@pytest.mark.parametrize("first", [False, True])
def test_a_change_by_another_process_ends_the_wait(serve: Serve, owner: Caller, first: bool) -> None:
    there = client_as(serve(), owner.user_id)
    if not first:
        owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        request = others.start(owner, since)
        task = there.create()
        assert ok(request.result())["tasks"] == [task]


@pytest.mark.spec("changes.wait.prompt", "changes.expired")
def test_an_account_that_another_process_deletes_ends_the_wait(serve: Serve, owner: Caller) -> None:
    there = client_as(serve(), owner.user_id)
    owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        request = others.start(owner, since)
        assert there.request("DELETE", ACCOUNT).status_code == 204
        assert_problem(request.result(), 410, "sync-expired")


@pytest.mark.spec("changes.wait")
def test_without_a_change_it_ends_when_the_time_is_up(owner: Caller) -> None:
    owner.create()
    since = position_of(owner)
    began_at = time.monotonic()
    assert ok(ask(owner, since, 1)) == {"tasks": [], "position": since, "more": False}
    assert time.monotonic() - began_at >= 1


@pytest.mark.spec("changes.wait", "tasks.isolation")
@pytest.mark.usefixtures("never_looking")
def test_nobody_is_woken_for_another_user(watched: Caller, database_proxy: ProtocolProxy) -> None:
    watched.create()
    since = position_of(watched)
    other = client_as(watched.client, f"other-{uuid.uuid4()}")
    database_proxy.clear()
    with Waiting(watched) as others:
        request = others.start(watched, since, 1)
        other.create()
        assert ok(request.result())["tasks"] == []
    own = [each for each in database_proxy.messages if f"'{watched.user_id}'" in each]
    assert len(own) == 2, "it reads other than at the beginning and in the end"


@pytest.mark.spec("changes.wait.free")
@pytest.mark.usefixtures("never_looking")
def test_a_request_that_waits_holds_no_connection(serve: Serve) -> None:
    caller = client_as(serve(db_pool_size=1, db_pool_timeout=0.2), f"waiting-{uuid.uuid4()}")
    caller.create()
    since = position_of(caller)
    with Waiting(caller) as others:
        requests = [others.start(caller, since) for _ in range(5)]
        task = caller.create()
        assert [ok(each.result())["tasks"] for each in requests] == [[task]] * 5


@pytest.mark.spec("changes.wait.free")
def test_one_query_looks_for_all_requests_as_long_as_there_are_any(
    watched: Caller, database_proxy: ProtocolProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.02)
    other = client_as(watched.client, f"other-{uuid.uuid4()}")
    callers = (watched, watched, other)
    for caller in (watched, other):
        caller.create()
    with Waiting(watched) as others:
        requests = [others.start(caller, position_of(caller)) for caller in callers]
        database_proxy.clear()
        wait_until(lambda: len(database_proxy.messages) >= 3, "nothing looks for changes")
        for message in database_proxy.messages:
            assert message.startswith("QSELECT set_config('role', 'tasks_watcher', true)")
            assert [message.count(f"'{caller.user_id}'") for caller in (watched, other)] == [1, 1]
        for caller in (watched, other):
            caller.create()
        assert all(ok(each.result())["tasks"] for each in requests)
    wait_until(lambda: _is_quiet(database_proxy), "it looks for changes although nobody waits")


def _is_quiet(proxy: ProtocolProxy) -> bool:
    """Whether ten times as long as between two looks nothing is sent."""
    proxy.clear()
    time.sleep(0.2)
    return not proxy.messages


@pytest.mark.spec("changes.wait.free")
def test_looking_goes_on_after_a_failure(
    owner: Caller, serve: Serve, sql: Sql, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.02)
    there = client_as(serve(), owner.user_id)
    owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        request = others.start(owner, since)
        sql("REVOKE SELECT (seq) ON feeds FROM tasks_watcher")
        try:
            wait_until(lambda: "not seen" in caplog.text, "no failure is logged")
        finally:
            sql("GRANT SELECT (seq) ON feeds TO tasks_watcher")
        task = there.create()
        assert ok(request.result())["tasks"] == [task]
    assert caplog.text.count("not seen") == 1


@pytest.mark.spec("changes.wait.bounds")
@pytest.mark.usefixtures("never_looking")
def test_a_user_has_few_waiting_requests(owner: Caller, stranger: Caller) -> None:
    owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        requests = [others.start(owner, since) for _ in range(10)]
        response = ask(owner, since)
        assert_problem(response, 429, "too-many-requests")
        assert response.headers["ratelimit-policy"] == '"concurrent-waits";q=10;qu="concurrent-requests"'
        assert ok(ask(stranger, "0", 1))["tasks"] == []
        task = owner.create()
        assert [ok(each.result())["tasks"] for each in requests] == [[task]] * 10
    assert ok(ask(owner, position_of(owner), 1))["tasks"] == []


@pytest.mark.spec("changes.wait.bounds")
@pytest.mark.usefixtures("never_looking")
def test_who_need_not_wait_needs_no_place(owner: Caller, stranger: Caller) -> None:
    task = owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        requests = [others.start(owner, since) for _ in range(10)]
        assert ok(ask(owner, "0"))["tasks"] == [task]
        owner.delete(task["id"])
        assert all(each.result().is_success for each in requests)


@pytest.mark.spec("changes.wait", "changes.complete")
@pytest.mark.usefixtures("never_looking")
def test_it_ends_with_what_is_there_then(serve: Serve, owner: Caller) -> None:
    owner.create()
    since = position_of(owner)
    with Waiting(owner) as others:
        request = others.start(owner, since, 2)
        task = client_as(serve(), owner.user_id).create()
        assert ok(request.result())["tasks"] == [task]


@pytest.mark.spec("changes.wait")
@pytest.mark.usefixtures("never_looking")
def test_a_database_that_does_not_answer_in_the_end_is_not_waited_for(
    owner: Caller, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner.create()
    since, has_read, wait_for_news = position_of(owner), threading.Event(), Place.news

    async def news(place: Place, seconds: float) -> bool:
        has_read.set()
        return await wait_for_news(place, seconds)

    monkeypatch.setattr(Place, "news", news)
    with Waiting(owner) as others:
        request = others.start(owner, since, 1)
        assert has_read.wait(LONG)
        sql("BEGIN")
        sql("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        try:
            assert ok(request.result()) == {"tasks": [], "position": since, "more": False}
        finally:
            sql("ROLLBACK")


@pytest.mark.spec("changes.wait", "http.head")
@pytest.mark.usefixtures("never_looking")
def test_a_head_does_not_wait(owner: Caller) -> None:
    began_at = time.monotonic()
    assert owner.request("HEAD", f"{CHANGES}?wait={LONG}").status_code == 200
    assert time.monotonic() - began_at < LONG / 2


@pytest.mark.spec("changes.wait.bounds")
@pytest.mark.usefixtures("never_looking")
def test_a_process_has_a_bound_on_waiting_requests(serve: Serve) -> None:
    client = serve(max_waiting_requests=2)
    first, second, third = (client_as(client, f"waiting-{uuid.uuid4()}") for _ in range(3))
    with Waiting(first) as others, ExitStack() as stack:
        requests = [others.start(caller, "0") for caller in (first, second)]
        stack.callback(others.end)
        response = ask(third, "0")
        assert_problem(response, 503, "unavailable")
        assert int(response.headers["retry-after"]) >= 1
        assert ok(third.get(CHANGES))["tasks"] == []
        first.create()
        assert ok(requests[0].result())["tasks"]
        assert ok(ask(third, "0", 1))["tasks"] == []


@pytest.mark.spec("changes.wait.ends")
@pytest.mark.usefixtures("never_looking")
def test_it_ends_when_the_token_expires(owner: Caller) -> None:
    """A token is accepted for 30 seconds longer than it says."""
    began_at = time.time()
    caller = client_as(owner.client, owner.user_id, exp=int(began_at) - 25)
    statuses = [ask(caller, "0").status_code for _ in range(3)]
    assert time.time() - began_at < LONG / 2
    assert statuses[0] == 200
    assert statuses[-1] == 401


@pytest.mark.spec("changes.wait.ends")
@pytest.mark.usefixtures("never_looking")
def test_it_ends_when_the_process_is_about_to_stop(serve: Serve) -> None:
    caller = client_as(serve(), f"waiting-{uuid.uuid4()}")
    caller.create()
    since = position_of(caller)
    with Waiting(caller) as others:
        requests = [others.start(caller, since) for _ in range(3)]
        began_at = time.monotonic()
        others.end()
        for request in requests:
            assert ok(request.result()) == {"tasks": [], "position": since, "more": False}
        assert ok(ask(caller, since))["tasks"] == []
        assert time.monotonic() - began_at < LONG / 2


@pytest.mark.spec("changes.wait", "tasks.list.values")
@pytest.mark.parametrize("value", ["-1", "26", "1.5", "1e1", "x", "", "+1", " 1", "1000000000000"])
def test_another_wait_is_refused(owner: Caller, value: str) -> None:
    assert error_locations(owner.request("GET", CHANGES, params={"wait": value})) == {"wait"}


@pytest.mark.spec("changes.wait")
def test_the_shortest_and_the_longest_wait_are_accepted(owner: Caller) -> None:
    page: dict[str, Any] = ok(owner.get(f"{CHANGES}?wait=0"))
    assert page["tasks"] == []
    owner.create()
    assert len(ok(owner.get(f"{CHANGES}?wait=25"))["tasks"]) == 1
