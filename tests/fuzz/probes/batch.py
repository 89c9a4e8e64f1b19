"""Probes of batches: what each operation does, alone and together, and what is refused."""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from httpx2 import Response

from tests.factories import full_task, new_task
from tests.fuzz import expected_effects
from tests.fuzz.context import User
from tests.fuzz.prober import JSON, Options, Prober, probe
from tests.fuzz.probes.values import CASES
from tests.operations import OPERATIONS
from tests.support import TASKS

BATCH = f"{TASKS}/batch"
OPERATION = {
    "update": "update_task",
    "delete": "delete_task",
    "restore": "restore_task",
}
"""The operation that has the effect alone."""

Op = Mapping[str, Any]


def request_of(user: User, *operations: Op, atomic: bool = False, key: str | None = None) -> Options:
    """What the request has beside its method and path."""
    body = json.dumps({"operations": operations, "atomic": atomic}, ensure_ascii=False).encode()
    headers = [*JSON, *([] if key is None else [("Idempotency-Key", key)])]
    return {"token": user, "content": body, "headers": headers}


def results_of(prober: Prober, user: User, *operations: Op, **options: Any) -> tuple[Response, list[Any]]:
    response = prober.accept(200, "POST", BATCH, **request_of(user, *operations, **options))
    found = response.json().get("results", []) if response.status_code == 200 else []
    prober.expect(len(found) == len(operations), f"there are {len(found)} results", response)
    return response, found


def _statuses(
    prober: Prober, user: User, expected: Sequence[int], *operations: Op, **options: Any
) -> Response:
    response, found = results_of(prober, user, *operations, **options)
    statuses = [each["status"] for each in found]
    prober.expect(statuses == [*expected], f"the statuses are {statuses} and not {expected}", response)
    return response


def _create(prober: Prober, user: User) -> str:
    created = prober.accept(
        201, "POST", TASKS, token=user, content=json.dumps(full_task()).encode(), headers=JSON
    )
    return str(created.json()["id"])


def _operations(kept: str, gone: str, trashed: str) -> list[Op]:
    return [
        {"op": "create", "task": full_task(completed=False)},
        {"op": "update", "id": kept, "task": {"title": " New ", "due_at": None, "completed": True}},
        {"op": "delete", "id": gone},
        {"op": "restore", "id": trashed},
        {"op": "create", "id": str(uuid.uuid4()), "task": new_task(description="x", tags=["{", '"'])},
    ]


@probe("batch.results", "batch.at-once", at_least=10)
def a_batch_of_every_operation(prober: Prober) -> None:
    """Its effects are those of the operations alone, and their positions follow each other."""
    context = prober.context
    user = User("fuzz-batch", context.mint("fuzz-batch"))
    for atomic in (False, True):
        kept, gone, trashed = (_create(prober, user) for _ in range(3))
        prober.accept(204, "DELETE", f"{TASKS}/{trashed}", token=user)
        operations = _operations(kept, gone, trashed)
        before = {each: context.row(UUID(each), user) for each in (kept, gone, trashed)}
        since = context.feed(user)
        response, found = results_of(prober, user, *operations, atomic=atomic)
        statuses = [each["status"] for each in found]
        prober.expect(statuses == [201, 200, 204, 200, 201], f"the statuses are {statuses}", response)
        for operation, result in zip(operations, found, strict=False):
            task = result.get("task")
            after = context.row(UUID(task["id"] if task else operation["id"]), user)
            prober.expect((task is None) == (operation["op"] == "delete"), "a task is missing", response)
            if task and after:
                parse = expected_effects.parse_timestamps
                prober.expect(parse(task) == parse(after), "a result is not what is stored", response)
            for problem in _effects(operation, before, after, user):
                prober.fail(f"{operation['op']}: {problem}", response)
        by_words = prober.accept(200, "GET", f"{TASKS}?q=new&completed=true&limit=200", token=user)
        prober.expect(kept in by_words.text, "a change is not found by its words", by_words)
        feed, position = context.feed(user), response.headers.get("Tasks-Position")
        moved = feed and since and feed.seq - since.seq
        prober.expect(moved == len(operations), f"the feed has moved by {moved}", response)
        prober.expect(feed and position == f"{feed.seq}", f"the position is {position}", response)
        prober.expect(feed and feed.live_tasks == feed.counted_tasks, "tasks are counted wrongly", response)


def _effects(operation: Op, before: Mapping[str, Any], after: Any, user: User) -> Sequence[str]:
    if operation["op"] == "create":
        if after is None:
            return ["the task is not stored"]
        sent = {**operation["task"], **({"id": operation["id"]} if "id" in operation else {})}
        return [*expected_effects.check_create(after, sent, user.id)]
    alone = next(each for each in OPERATIONS if each.name == OPERATION[operation["op"]])
    row = before[operation["id"]]
    return [*expected_effects.check_operation(alone, row, after, operation.get("task", {}))]


@probe("batch.atomic", "batch.results", "batch.if-version", at_least=12)
def a_batch_with_an_operation_that_fails(prober: Prober) -> None:
    context = prober.context
    user = User("fuzz-batch", context.mint("fuzz-batch"))
    task, taken, deleted = (_create(prober, user) for _ in range(3))
    prober.accept(204, "DELETE", f"{TASKS}/{deleted}", token=user)
    failing: Sequence[tuple[int, str, Op]] = (
        (404, "not-found", {"op": "delete", "id": str(uuid.uuid4())}),
        (404, "not-found", {"op": "update", "id": str(uuid.uuid4()), "task": {"title": "x"}}),
        (404, "not-found", {"op": "restore", "id": str(uuid.uuid4())}),
        (412, "precondition-failed", {"op": "update", "id": task, "task": {"title": "x"}, "if_version": 99}),
        (412, "precondition-failed", {"op": "delete", "id": task, "if_version": 99}),
        (412, "precondition-failed", {"op": "restore", "id": task, "if_version": 99}),
        (404, "not-found", {"op": "update", "id": deleted, "task": {"title": "x"}}),
        (404, "not-found", {"op": "delete", "id": deleted}),
        (409, "task-exists", {"op": "create", "id": taken, "task": full_task()}),
        (409, "task-exists", {"op": "create", "id": deleted, "task": new_task()}),
    )
    for status, kind, operation in failing:
        good = {"op": "create", "task": new_task()}
        request = request_of(user, good, operation, good, atomic=True)
        before = context.fingerprint(of=user)
        failed = prober.refuse(409, "batch-failed", "POST", BATCH, **request)
        prober.expect(context.fingerprint(of=user) == before, "an atomic batch is half applied", failed)
        prober.expect_errors(failed, "pointer", "/operations/1")
        named = [(each["pointer"], each["type"]) for each in failed.json().get("errors", ())]
        prober.expect(named == [("/operations/1", f"/problems/{kind}")], f"the errors are {named}", failed)
        stored = context.row(UUID(operation["id"]), user)
        response, found = results_of(prober, user, good, operation, good)
        prober.expect([each["status"] for each in found] == [201, status, 201], "a status is wrong", response)
        problem, shown = found[1].get("problem", {}), found[1].get("task")
        prober.expect(problem.get("type") == f"/problems/{kind}", f"the problem is {problem}", response)
        parse = expected_effects.parse_timestamps
        expected = None if status == 404 else parse(stored or {})
        prober.expect((shown and parse(shown)) == expected, "the task is not shown as it is", response)
        prober.expect(context.row(UUID(operation["id"]), user) == stored, "an operation that fails", response)
    version = (context.row(UUID(task), user) or {})["version"]
    good = {"op": "update", "id": task, "task": {"title": "x"}, "if_version": version}
    _statuses(prober, user, [200], good, atomic=True)


BAD_VERSIONS = (0, -1, 1.5, "1", True, None, 2**31)
_ID = str(uuid.UUID(int=9))
_DELETE = {"op": "delete", "id": _ID}
_GOOD: Sequence[Op] = (
    {"op": "create", "id": _ID, "task": {"title": "x"}},
    {"op": "update", "id": _ID, "task": {"title": "x"}},
    _DELETE,
    {"op": "restore", "id": _ID},
)


def _spoilt() -> Iterator[tuple[Op, str]]:
    """An operation of each kind with one mistake, and where that is."""
    for good in _GOOD:
        yield {**good, "user_id": "fuzz-stranger"}, ""
        bad_ids: Sequence[object] = (1, None, "x", _ID.replace("-", ""))
        yield from (({**good, "id": value}, "/id") for value in bad_ids)
        if "task" in good:
            no_objects: Sequence[object] = (None, [], "x")
            yield from (({**good, "task": value}, "/task") for value in no_objects)
            yield {**good, "task": {"title": "x", "user_id": "fuzz-stranger"}}, "/task"
            yield {name: value for name, value in good.items() if name != "task"}, "/task"
        if good["op"] != "create":
            yield {name: value for name, value in good.items() if name != "id"}, "/id"
            yield from (({**good, "if_version": value}, "/if_version") for value in BAD_VERSIONS)


INVALID: Sequence[tuple[object, str]] = (
    ({}, "/operations"),
    ({"operations": []}, "/operations"),
    ({"operations": [{**_DELETE, "id": str(uuid.UUID(int=n))} for n in range(101)]}, "/operations"),
    ({"operations": [{}] * 10_000}, "/operations"),
    ({"operations": "x"}, "/operations"),
    ({"operations": [_DELETE], "atomic": "true"}, "/atomic"),
    ({"operations": [{"op": "upsert", "id": _ID}]}, "/operations/0"),
    ({"operations": [_DELETE, {"id": _ID}]}, "/operations/1"),
    ({"operations": [_DELETE, 1]}, "/operations/1"),
    ({"operations": [{"op": "create", "task": {}}]}, "/operations/0/task/title"),
    ({"operations": [{"op": "update", "id": _ID, "task": {"title": None}}]}, "/operations/0/task/title"),
    ({"operations": [{"op": "update", "id": _ID, "task": {"tags": ["a", "a"]}}]}, "/operations/0/task/tags"),
    ({"operations": [_DELETE, {"op": "create", "id": _ID, "task": {"title": "x"}}]}, "/operations/1/id"),
    *(({"operations": [each]}, f"/operations/0{place}") for each, place in _spoilt()),
)


@probe("batch.invalid", "problems.errors", at_least=len(INVALID) + 1)
def a_batch_that_is_not_valid(prober: Prober) -> None:
    owner = prober.context.owner
    for body, pointer in INVALID:
        content = json.dumps(body).encode()
        response = prober.refuse(
            422, "invalid-request", "POST", BATCH, token=owner, content=content, headers=JSON
        )
        prober.expect_errors(response, "pointer", pointer)
    unknown = {"op": "create", "task": {"title": "x", **{f"unknown {n}": 0 for n in range(5_000)}}}
    content = json.dumps({"operations": [unknown]}).encode()
    response = prober.refuse(
        422, "invalid-request", "POST", BATCH, token=owner, content=content, headers=JSON
    )
    if response.status_code == 422:
        prober.expect(len(response.json()["errors"]) == 1, "every unknown name is an error", response)


SOME = 10
"""Operations in one request: their longest values fit into the body limit."""


@probe("batch.results", "batch.invalid", at_least=20)
def a_value_at_each_limit_in_a_batch(prober: Prober) -> None:
    """Valid ones are created, or looked up; each invalid one is named."""
    user = User("fuzz-batch", prober.context.mint("fuzz-batch"))
    for schema, status in (("TaskReplace", 201), ("TaskUpdate", 404)):
        for wanted in (True, False):
            values = [
                (name, value)
                for body, _, name, value, valid in {repr(each): each for each in CASES}.values()
                if body == schema and valid == wanted
            ]
            for start in range(0, len(values), SOME):
                operations = [_with(schema, name, value) for name, value in values[start : start + SOME]]
                if wanted:
                    _statuses(prober, user, [status] * len(operations), *operations)
                    continue
                request = request_of(user, *operations)
                response = prober.refuse(422, "invalid-request", "POST", BATCH, **request)
                named = {each["pointer"].split("/")[2] for each in response.json().get("errors", ())}
                expected = {str(number) for number in range(len(operations))}
                prober.expect(named == expected, f"the errors are in {sorted(named)}", response)


def _with(schema: str, name: str, value: object) -> Op:
    if schema == "TaskReplace":
        return {"op": "create", "task": {"title": "x", name: value}}
    return {"op": "update", "id": str(uuid.uuid4()), "task": {name: value}}


@probe("batch.key", at_least=11)
def a_batch_under_a_key(prober: Prober) -> None:
    context = prober.context
    user = User("fuzz-batch", context.mint("fuzz-batch"))
    kept, gone, trashed = (_create(prober, user) for _ in range(3))
    prober.accept(204, "DELETE", f"{TASKS}/{trashed}", token=user)
    operations = [*_operations(kept, gone, trashed), {"op": "delete", "id": str(uuid.uuid4())}]
    key = str(uuid.uuid4())
    first, done = results_of(prober, user, *operations, key=key)
    prober.expect("Idempotency-Replayed" not in first.headers, "a new batch is marked", first)
    before = context.fingerprint(of=user)
    again, repeated = results_of(prober, user, *operations, key=key)
    prober.expect(again.headers.get("Idempotency-Replayed") == "true", "a replay is not marked", again)
    prober.expect(context.fingerprint(of=user) == before, "a replay changes something", again)
    position = again.headers.get("Tasks-Position")
    prober.expect(position == first.headers.get("Tasks-Position"), "the position differs", again)
    same = [(each["status"], each.get("task")) for each in repeated]
    prober.expect(same == [(each["status"], each.get("task")) for each in done], "it differs", again)
    for others in (operations[:-1], operations[::-1]):
        prober.refuse(409, "idempotency-key-reused", "POST", BATCH, **request_of(user, *others, key=key))
    prober.refuse(
        409, "idempotency-key-reused", "POST", TASKS,
        token=user, content=b'{"title": "x"}', headers=[*JSON, ("Idempotency-Key", key)],
    )  # fmt: skip
    other = User("fuzz-batch-2", context.mint("fuzz-batch-2"))
    create = operations[0]
    ours = _statuses(prober, user, [201], create, key=f"{key}-shared")
    theirs = _statuses(prober, other, [201], create, key=f"{key}-shared")
    prober.expect("Idempotency-Replayed" not in theirs.headers, "users share a key", theirs)
    prober.expect(
        theirs.json()["results"][0]["task"]["user_id"] == other.id and ours.content != theirs.content,
        "a user gets the task of another",
        theirs,
    )


@probe("tasks.isolation", "tasks.isolation.writes", at_least=4)
def a_batch_on_tasks_of_somebody_else(prober: Prober) -> None:
    """Without row security, which would hide what the statement itself lets through."""
    context = prober.context
    user = User("fuzz-batch", context.mint("fuzz-batch"))
    _create(prober, user)
    foreign = context.any_task(of=context.stranger)
    with context.without_row_security():
        before = context.fingerprint(of=context.stranger)
        for name, more in (("update", {"task": {"title": "x"}}), ("delete", {}), ("restore", {})):
            operation = {"op": name, "id": foreign, **more}
            response = _statuses(prober, user, [404], operation)
            prober.expect(foreign not in response.text, "a task of somebody else is shown", response)
        after = context.fingerprint(of=context.stranger)
        prober.expect(after == before, "a batch changes a task of somebody else")
        _statuses(prober, user, [201], {"op": "create", "id": foreign, "task": new_task()})
        prober.expect(context.fingerprint(of=context.stranger) == before, "an ID is shared by two users")
