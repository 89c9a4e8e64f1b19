"""Probes of what users see of each other, and of writes that race."""

import json
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from httpx2 import Response

from tests.environment import Sql
from tests.fuzz import expected_effects
from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Prober, probe, valid
from tests.operations import ON_ONE_TASK, Operation
from tests.support import TASKS, wait_until

WRITERS, WRITES_EACH = 8, 5
IMPERSONATING = ("X-User-ID", "X-Forwarded-User", "X-Remote-User", "Remote-User", "X-Auth-Request-User")


def _refuse(prober: Prober, operation: Operation, task: str, user: User) -> Response:
    url = operation.url(task)
    return prober.refuse(404, "not-found", operation.method, url, **valid(operation, user))


def _without_ids(response: Response) -> tuple[object, ...]:
    """Status, headers and body without the request ID and the date."""
    request_id = response.headers["X-Request-ID"]
    headers = {
        name: value for name, value in response.headers.items() if name not in {"x-request-id", "date"}
    }
    return response.status_code, headers, response.text.replace(request_id, "")


@probe("tasks.isolation", "tasks.delete.gone", at_least=10 * len(ON_ONE_TASK) - 2)
def a_task_of_somebody_else_or_deleted(prober: Prober) -> None:
    """With row security and without it: the same 404 as for a task that never existed."""
    context = prober.context
    live, deleted = context.any_task(), context.any_task(deleted=True)
    for wall in (nullcontext, context.without_row_security):
        with wall():
            for operation in ON_ONE_TASK:
                for user in (context.stranger, context.owner):
                    missing = _refuse(prober, operation, str(uuid.uuid4()), user)
                    tasks = [deleted, live] if user is context.stranger else [deleted]
                    if user is context.owner and operation.takes_deleted:
                        tasks = []
                    for task in tasks:
                        hidden = _refuse(prober, operation, task, user)
                        same = _without_ids(hidden) == _without_ids(missing)
                        prober.expect(same, "the response differs from that for a missing task", hidden)


@probe("tasks.isolation", "tasks.list.own", "tasks.delete.gone", at_least=4)
def a_list_without_row_security(prober: Prober) -> None:
    context = prober.context
    for wall in (nullcontext, context.without_row_security):
        with wall():
            for user in (context.owner, context.stranger):
                response = prober.accept(200, "GET", f"{TASKS}?limit=200", token=user)
                strangers = [task["id"] for task in response.json() if task["user_id"] != user.id]
                prober.expect(not strangers, f"the list has tasks of others: {strangers}", response)
                gone = context.query("SELECT id::text FROM tasks WHERE deleted_at IS NOT NULL")
                listed = {task["id"] for task in response.json()}
                prober.expect(not listed & {row[0] for row in gone}, "the list has deleted tasks", response)


@probe("tasks.isolation.writes", "tasks.isolation", at_least=2 * len(IMPERSONATING))
def a_header_that_names_somebody_else(prober: Prober) -> None:
    context = prober.context
    for name in IMPERSONATING:
        headers = [(name, context.owner.id), *JSON]
        task = context.any_task()
        prober.refuse(404, "not-found", "GET", f"{TASKS}/{task}", token=context.stranger, headers=headers)
        created = prober.accept(
            201, "POST", TASKS, token=context.stranger, content=b'{"title": "Mine"}', headers=headers
        )
        prober.expect(created.json()["user_id"] == context.stranger.id, "a header chose the user", created)


@probe("tasks.delete.deleted", "tasks.delete.soft", "tasks.delete.gone", at_least=2)
def a_task_that_is_deleted_twice(prober: Prober) -> None:
    context = prober.context
    task = context.any_task()
    before = context.row(uuid.UUID(task))
    response = prober.accept(204, "DELETE", f"{TASKS}/{task}", token=context.owner)
    prober.expect(response.content == b"", "the response has a body", response)
    after = context.row(uuid.UUID(task))
    kept = before is not None and after == {**before, "deleted_at": after and after["deleted_at"]}
    prober.expect(
        kept and after and after["deleted_at"], "more or less than deleted_at has changed", response
    )
    prober.refuse(404, "not-found", "DELETE", f"{TASKS}/{task}", token=context.owner)


@probe("tasks.create.twice", "task.id", at_least=2)
def a_body_that_is_sent_twice(prober: Prober) -> None:
    headers = JSON
    first, second = (
        prober.accept(
            201, "POST", TASKS, token=prober.context.owner, content=b'{"title": "Twice"}', headers=headers
        )
        for _ in range(2)
    )
    prober.expect(first.json()["id"] < second.json()["id"], "the second ID does not follow the first", second)


@probe("tasks.concurrent", "tasks.durable", at_least=WRITERS * WRITES_EACH)
def writers_of_one_task_at_once(prober: Prober) -> None:
    """Each write takes a version of its own, and later versions have later times."""
    context = prober.context
    task = context.any_task()
    before = context.row(uuid.UUID(task))
    assert before is not None

    together = threading.Barrier(WRITERS)

    def write(writer: int) -> list[dict[str, Any]]:
        together.wait()
        return [_patch(prober, task, f"Writer {writer}, write {number}") for number in range(WRITES_EACH)]

    with ThreadPoolExecutor(WRITERS) as threads:
        written = [each for answers in threads.map(write, range(WRITERS)) for each in answers]
    for _ in written:
        prober.met()
    written.sort(key=lambda each: int(each["version"]))
    versions = [each["version"] for each in written]
    first = before["version"] + 1
    prober.expect(versions == list(range(first, first + len(written))), f"the versions are {versions}")
    times = [each["updated_at"] for each in written]
    prober.expect(times == sorted(set(times)), "updated_at does not grow with the version")
    after = context.row(uuid.UUID(task))
    prober.expect(after and after["title"] == written[-1]["title"], "the last version is not what is stored")


@probe("tasks.concurrent", "task.timestamps", "task.completed-at")
def a_write_that_waits_for_another(prober: Prober) -> None:
    """Its times are those of its change, after the change that it has waited for."""
    context = prober.context
    task, other = context.any_task(), Sql(context.database)
    with ThreadPoolExecutor(1) as threads:
        other("BEGIN")
        other("UPDATE tasks SET completed = false, completed_at = NULL WHERE id = %s", task)
        waiting = threads.submit(_patch, prober, task, "Waited", completed=True)
        wait_until(lambda: _is_waiting(prober), "the write does not wait for the lock")
        changed = other("SELECT clock_timestamp()")[0][0]
        other("UPDATE tasks SET updated_at = %s, version = version + 1 WHERE id = %s", changed, task)
        other("COMMIT")
        other.close()
    prober.met()
    answer = expected_effects.parse_timestamps(waiting.result())
    for name in ("updated_at", "completed_at"):
        prober.expect(answer[name] > changed, f"{name} is before the change that the write waited for")


def _is_waiting(prober: Prober) -> bool:
    return prober.context.query(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    ) != [(0,)]


def _patch(prober: Prober, task: str, title: str, **fields: object) -> dict[str, Any]:
    response = prober.request(
        "PATCH", f"{TASKS}/{task}",
        token=prober.context.owner, content=json.dumps({"title": title, **fields}).encode(),
        headers=JSON,
    )  # fmt: skip
    prober.expect(response.status_code == 200, f"the status is {response.status_code}", response)
    answer: dict[str, Any] = response.json()
    return answer
