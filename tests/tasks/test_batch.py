"""POST /api/tasks/batch."""

import json
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import pytest
from httpx2 import Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import URL

from tests.conftest import Serve
from tests.database.test_scope import Locked
from tests.environment import Sql, without_row_security
from tests.factories import full_task, new_task
from tests.protocol_proxy import ProtocolProxy
from tests.support import (
    TASKS,
    Caller,
    assert_problem,
    client_as,
    error_locations,
    ok,
)
from tests.tasks.copy import CHANGES

BATCH = f"{TASKS}/batch"

Op = Mapping[str, Any]


def send(caller: Caller, *operations: Op, atomic: bool = False, key: str | None = None) -> Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {"operations": [*operations], "atomic": atomic}
    return caller.request("POST", BATCH, json=body, headers=headers)


def results(caller: Caller, *operations: Op, **kwargs: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ok(send(caller, *operations, **kwargs))["results"]
    return found


def statuses(response: Response) -> list[int]:
    return [each["status"] for each in ok(response)["results"]]


def create(task: str | None = None, **fields: object) -> Op:
    return {"op": "create", **({} if task is None else {"id": task}), "task": full_task(**fields)}


def update(task: str, version: int | None = None, **fields: object) -> Op:
    return {"op": "update", "id": task, "task": fields, **_if_version(version)}


def delete(task: str, version: int | None = None) -> Op:
    return {"op": "delete", "id": task, **_if_version(version)}


def restore(task: str, version: int | None = None) -> Op:
    return {"op": "restore", "id": task, **_if_version(version)}


def _if_version(version: int | None) -> Op:
    return {} if version is None else {"if_version": version}


def new_id() -> str:
    return str(uuid.uuid4())


def stored(caller: Caller) -> dict[str, dict[str, Any]]:
    """All tasks of the user, deleted or not."""
    page = ok(caller.get(CHANGES))
    assert not page["more"]
    return {task["id"]: task for task in page["tasks"]}


@pytest.mark.spec("batch.results")
def test_each_operation_is_applied_and_answered_in_its_order(owner: Caller) -> None:
    kept, gone, trashed = (owner.create() for _ in range(3))
    owner.delete(trashed["id"])
    chosen = new_id()
    created, changed, deleted, restored, own = results(
        owner,
        create(title="new"),
        update(kept["id"], title="changed", completed=True),
        delete(gone["id"]),
        restore(trashed["id"]),
        create(chosen),
    )
    assert [each["status"] for each in (created, changed, deleted, restored, own)] == [
        201,
        200,
        204,
        200,
        201,
    ]
    assert deleted == {"status": 204}
    assert own["task"]["id"] == chosen
    for each in (created, changed, restored, own):
        assert each == {"status": each["status"], "task": owner.read(each["task"]["id"])}
    assert (changed["task"]["title"], changed["task"]["version"]) == ("changed", 2)
    assert owner.ids("?q=CHANGED") == [kept["id"]]
    assert owner.ids("?q=new") == [created["task"]["id"]]
    assert set(owner.ids()) == {created["task"]["id"], kept["id"], trashed["id"], chosen}


PATHS = {"update": ("PATCH", ""), "delete": ("DELETE", ""), "restore": ("POST", "/restore")}


def alone(caller: Caller, operation: Op) -> Response:
    """The same operation as a request of its own."""
    if operation["op"] == "create":
        return caller.post({**operation["task"], "id": operation["id"]})
    method, suffix = PATHS[operation["op"]]
    version = operation.get("if_version")
    headers = {} if version is None else {"If-Match": f'"{version}"'}
    kwargs = {"json": operation["task"]} if "task" in operation else {}
    return caller.request(method, f"{TASKS}/{operation['id']}{suffix}", headers=headers, **kwargs)


TIMES = ("created_at", "updated_at", "completed_at", "deleted_at")


def comparable(task: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the times but whether they are set, and without the user."""
    return {**task, "user_id": "", **{name: task[name] is not None for name in TIMES}}


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["a", "É", "%_\\", "'; --", "🂡"]),
        "description": st.sampled_from([None, "", "x\n'\"\\", "§ {} :x %(y)s"]),
        "completed": st.booleans(),
        "priority": st.sampled_from(["low", "high"]),
        "due_at": st.sampled_from([None, "2030-01-01T00:00:00.123456789+01:00", "1970-01-01T00:00:00Z"]),
        "tags": st.sampled_from([[], ["a"], ["{", "NULL", '"', "\\", "a,b"]]),
    },
)
VERSION = st.one_of(st.none(), st.integers(1, 3))
POOL = [str(uuid.UUID(int=number)) for number in range(6)]


@st.composite
def batches(draw: st.DrawFn) -> Sequence[Op]:
    """Operations on some of a few tasks."""
    chosen = draw(st.lists(st.sampled_from(POOL), min_size=1, unique=True))
    operations: list[Op] = []
    for task in chosen:
        kind = draw(st.sampled_from(["create", "create", "update", "delete", "restore"]))
        if kind == "create":
            operations.append({"op": kind, "id": task, "task": {"title": "t", **draw(FIELDS)}})
        elif kind == "update":
            operations.append(update(task, draw(VERSION), **draw(FIELDS)))
        else:
            operations.append({"op": kind, "id": task, **_if_version(draw(VERSION))})
    return operations


@pytest.mark.spec("batch.results", "batch.if-version", "batch.atomic")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(batches(), st.booleans()), max_size=6))
def test_a_batch_does_what_its_operations_do_alone(
    owner: Caller, history: list[tuple[Sequence[Op], bool]]
) -> None:
    together = client_as(owner.client, f"together-{uuid.uuid4()}")
    one_by_one = client_as(owner.client, f"alone-{uuid.uuid4()}")
    for operations, atomic in history:
        before = stored(together)
        response = send(together, *operations, atomic=atomic)
        if response.status_code == 409:
            assert atomic
            assert stored(together) == before
            expected = ok(send(together, *operations))["results"]
            assert {f"/operations/{n}" for n, each in enumerate(expected) if each["status"] >= 400} == {
                each["pointer"] for each in response.json()["errors"]
            }
        else:
            expected = ok(response)["results"]
            assert not atomic or all(each["status"] < 400 for each in expected)
        for operation, result in zip(operations, expected, strict=True):
            single = alone(one_by_one, operation)
            assert single.status_code == result["status"]
            if single.status_code in {200, 201}:
                assert comparable(result["task"]) == comparable(single.json())
            elif single.status_code >= 400:
                assert result["problem"]["type"] == single.json()["type"]
                assert ("task" in result) == (result["status"] in {409, 412})
        assert {key: comparable(task) for key, task in stored(together).items()} == {
            key: comparable(task) for key, task in stored(one_by_one).items()
        }


@pytest.mark.spec("batch.results", "batch.if-version")
def test_a_conflict_comes_with_the_task_as_it_is(owner: Caller) -> None:
    task = owner.create()
    changed = ok(owner.patch(task["id"], {"title": "by another tab"}))
    [result] = results(owner, update(task["id"], 1, title="mine"))
    problem = result.pop("problem")
    assert result == {"status": 412, "task": changed}
    assert problem["type"] == "/problems/precondition-failed"
    assert problem["detail"] == "if_version is not the current version of the task."
    assert statuses(send(owner, update(task["id"], 2, title="mine"))) == [200]
    assert statuses(send(owner, {**delete(task["id"]), "if_version": 3.0})) == [204]


@pytest.mark.spec("batch.results")
def test_problems_are_those_of_the_request(owner: Caller) -> None:
    response = send(owner, delete(new_id()))
    [result] = ok(response)["results"]
    assert result == {
        "status": 404,
        "problem": {
            "type": "/problems/not-found",
            "title": "Not found",
            "status": 404,
            "detail": "You have no such task.",
            "instance": response.headers["x-request-id"],
        },
    }
    assert "tasks-position" not in response.headers


@pytest.mark.spec("batch.atomic")
def test_an_atomic_batch_is_applied_whole_or_not_at_all(owner: Caller) -> None:
    task = owner.create()
    before = stored(owner)
    response = send(
        owner, create(), update(task["id"], 7, title="x"), delete(task["id"][:-12] + "0" * 12), atomic=True
    )
    assert_problem(response, 409, "batch-failed")
    assert [(each["pointer"], each["type"]) for each in response.json()["errors"]] == [
        ("/operations/1", "/problems/precondition-failed"),
        ("/operations/2", "/problems/not-found"),
    ]
    assert "tasks-position" not in response.headers
    assert stored(owner) == before
    assert statuses(send(owner, create(), update(task["id"], 1, title="x"), atomic=True)) == [201, 200]


@pytest.mark.spec("batch.atomic", "batch.results", "tasks.not-found")
def test_one_failure_of_any_kind_is_enough(owner: Caller) -> None:
    task, deleted = (owner.create()["id"] for _ in range(2))
    owner.delete(deleted)
    failures = {
        404: [
            delete(new_id()),
            update(new_id()),
            restore(new_id()),
            update(deleted, title="x"),
            delete(deleted),
        ],
        412: [update(task, 7, title="x"), delete(task, 7), restore(task, 7), restore(deleted, 7)],
        409: [create(task), create(deleted)],
    }
    before = stored(owner)
    for status, operations in failures.items():
        for operation in operations:
            assert_problem(send(owner, create(), operation, atomic=True), 409, "batch-failed")
            assert stored(owner) == before
            assert statuses(send(owner, operation)) == [status]
            assert stored(owner) == before


@pytest.mark.spec("batch.atomic", "batch.at-once")
def test_racing_atomic_batches_leave_no_mixture(owner: Caller) -> None:
    """Each writes its number into all tasks; whoever reads them between two batches sees one number."""
    tasks = [owner.create(title="0")["id"] for _ in range(10)]

    def write(number: int) -> int:
        order = tasks if number % 2 else tasks[::-1]
        return send(owner, *(update(each, title=str(number)) for each in order), atomic=True).status_code

    def read(_: int) -> int:
        return len({task["title"] for task in stored(owner).values()})

    with ThreadPoolExecutor(4) as writers, ThreadPoolExecutor(4) as readers:
        written, seen = writers.map(write, range(1, 21)), readers.map(read, range(20))
        assert {*written} == {200}
        assert {*seen} == {1}
    assert {task["version"] for task in stored(owner).values()} == {21}


@pytest.mark.spec("batch.at-once")
def test_crossing_batches_of_many_users_do_not_deadlock(owner: Caller) -> None:
    callers = [client_as(owner.client, f"crossing-{uuid.uuid4()}") for _ in range(20)]
    tasks = {caller.user_id: [caller.create()["id"] for _ in range(5)] for caller in callers}

    def write(number: int) -> int:
        caller = callers[number % len(callers)]
        order = tasks[caller.user_id][:: 1 if number % 3 else -1]
        return send(caller, *(update(each, title=str(number)) for each in order), atomic=True).status_code

    with ThreadPoolExecutor(16) as threads:
        assert {*threads.map(write, range(80))} == {200}
    for caller in callers:
        assert {task["version"] for task in stored(caller).values()} == {5}


@pytest.mark.spec("batch.at-once", "changes.position")
def test_the_position_is_that_of_the_last_change(owner: Caller) -> None:
    since = owner.post(new_task()).headers["tasks-position"]
    response = send(owner, create(), create(), create())
    page = ok(owner.get(f"{CHANGES}?since={since}"))
    assert len(page["tasks"]) == 3
    assert response.headers["tasks-position"] == page["position"] == str(int(since) + 3)


@pytest.mark.spec("batch.at-once", "tasks.round-trip")
def test_a_batch_of_100_is_one_message(watched: Caller, database_proxy: ProtocolProxy) -> None:
    send(watched, create())
    tasks = [each["task"]["id"] for each in results(watched, *(create() for _ in range(50)))]
    database_proxy.clear()
    assert len(results(watched, *map(delete, tasks), *(create() for _ in range(50)))) == 100
    [message] = database_proxy.messages
    assert message.startswith("QSELECT set_config('role', 'tasks_api', true)")


@pytest.mark.spec("batch.at-once", "problems.unavailable")
def test_waiting_for_the_write_lock_ends_at_the_deadline(serve: Serve, database_url: URL, sql: Sql) -> None:
    caller = client_as(serve(db_statement_timeout=0.5), f"waiting-{uuid.uuid4()}")
    task = caller.create()["id"]
    with Locked(database_url, task):
        assert_problem(send(caller, update(task, title="x"), create()), 503, "unavailable")
    assert {each["version"] for each in stored(caller).values()} == {1}


@pytest.mark.spec("batch.invalid")
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, {"/operations"}),
        ({"operations": []}, {"/operations"}),
        ({"operations": [delete(new_id()) for _ in range(101)]}, {"/operations"}),
        ({"operations": [{}] * 10_000}, {"/operations"}),
        ({"operations": None}, {"/operations"}),
        ({"operations": {"0": delete(POOL[0])}}, {"/operations"}),
        ({"operations": [delete(POOL[0])], "atomic": 1}, {"/atomic"}),
        ({"operations": [delete(POOL[0])], "user_id": "x"}, {""}),
        ({"operations": [delete(POOL[0]), {}]}, {"/operations/1"}),
        ({"operations": [{"op": "upsert"}]}, {"/operations/0"}),
        ({"operations": [{"op": ["delete"]}]}, {"/operations/0"}),
        ({"operations": ["delete", 1, None, []]}, {f"/operations/{number}" for number in range(4)}),
        ({"operations": [{"op": "delete"}]}, {"/operations/0/id"}),
        ({"operations": [{"op": "delete", "id": 1}]}, {"/operations/0/id"}),
        ({"operations": [{"op": "delete", "id": "x"}]}, {"/operations/0/id"}),
        ({"operations": [{**delete(POOL[0]), "task": {}}]}, {"/operations/0"}),
        ({"operations": [{**delete(POOL[0]), "user_id": "x", "x": "y"}]}, {"/operations/0"}),
        ({"operations": [{"op": "create", "task": None}]}, {"/operations/0/task"}),
        ({"operations": [{"op": "create", "task": {}}]}, {"/operations/0/task/title"}),
        ({"operations": [{"op": "create", "task": {"title": "x", "id": POOL[0]}}]}, {"/operations/0/task"}),
        ({"operations": [{"op": "create", "task": {"title": "x"}, "if_version": 1}]}, {"/operations/0"}),
        ({"operations": [update(POOL[0], tags=["a", "\0"])]}, {"/operations/0/task/tags/1"}),
        ({"operations": [update(POOL[0], title=None)]}, {"/operations/0/task/title"}),
        ({"operations": [update(POOL[0], user_id="x")]}, {"/operations/0/task"}),
        *(
            ({"operations": [{**delete(POOL[0]), "if_version": version}]}, {"/operations/0/if_version"})
            for version in (0, -1, 1.5, 1e300, "1", True, None, 2**31, 10**40)
        ),
        ({"operations": [delete(POOL[0]), create(), restore(POOL[0])]}, {"/operations/2/id"}),
        ({"operations": [delete(POOL[0]), create(POOL[1]), create(POOL[1])]}, {"/operations/2/id"}),
    ],
)  # fmt: skip
def test_an_invalid_batch_changes_nothing(owner: Caller, body: Op, expected: set[str]) -> None:
    owner.create()
    before = stored(owner)
    assert error_locations(owner.request("POST", BATCH, json=body)) == expected
    assert stored(owner) == before


@pytest.mark.spec("batch.invalid")
def test_the_same_id_in_another_notation_is_the_same_task(owner: Caller) -> None:
    task = owner.create()["id"]
    assert error_locations(send(owner, delete(task), restore(task.upper()))) == {"/operations/1/id"}


@pytest.mark.spec("batch.invalid", "http.malformed")
def test_nested_junk_is_refused(owner: Caller) -> None:
    headers = {"Content-Type": "application/json"}
    nested = b"[" * 100_000
    assert_problem(owner.request("POST", BATCH, content=nested, headers=headers), 400, "malformed-body")
    names = ",".join(f'"{number}":0' for number in range(20_000))
    junk = f'{{"operations":[{{"op":"create","task":{{{names}}}}}]}}'
    expected = {"/operations/0/task", "/operations/0/task/title"}
    assert error_locations(owner.request("POST", BATCH, content=junk, headers=headers)) == expected


@pytest.mark.spec("batch.body-limit", "http.body-limit")
@pytest.mark.parametrize(("size", "status"), [(262_144, 200), (262_145, 413)])
def test_the_body_has_a_limit_of_its_own(owner: Caller, size: int, status: int) -> None:
    body = json.dumps({"operations": [delete(new_id())]}).ljust(size)
    response = owner.request("POST", BATCH, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    if status == 413:
        assert assert_problem(response, 413, "body-too-large")["detail"] == (
            "The body has more than 262,144 bytes."
        )


@pytest.mark.spec("tasks.isolation", "batch.results")
def test_the_tasks_of_others_do_not_exist(owner: Caller, stranger: Caller, sql: Sql) -> None:
    foreign = stranger.create()
    before = stored(stranger)
    operations = [each(foreign["id"]) for each in (update, delete, restore)]
    with without_row_security(sql):
        for operation in operations:
            assert statuses(send(owner, operation)) == [404]
        [created] = results(owner, create(foreign["id"], title="mine"))
    assert created["status"] == 201
    assert stored(stranger) == before
    assert owner.read(foreign["id"])["title"] == "mine"


@pytest.mark.spec("batch.if-version", "http.preconditions.required")
def test_changes_need_a_version_where_it_is_required(serve: Serve) -> None:
    caller = client_as(serve(require_if_match=True), f"careful-{uuid.uuid4()}")
    task = caller.create()["id"]
    response = send(caller, create(), update(task, title="x"), restore(new_id()))
    assert_problem(response, 428, "precondition-required")
    assert [each["pointer"] for each in response.json()["errors"]] == ["/operations/1", "/operations/2"]
    assert len(stored(caller)) == 1
    assert statuses(send(caller, create(), update(task, 1, title="x"), delete(new_id(), 1))) == [
        201,
        200,
        404,
    ]


QUOTA = 5


@pytest.fixture
def nearly_full(serve: Serve) -> Caller:
    """A user who may have two more tasks."""
    caller = client_as(serve(max_tasks_per_user=QUOTA), f"full-{uuid.uuid4()}")
    for _ in range(QUOTA - 2):
        caller.create()
    return caller


@pytest.mark.spec("batch.quota")
def test_what_exceeds_the_quota_fails_in_the_order_of_the_operations(nearly_full: Caller) -> None:
    trashed = nearly_full.ids()[0]
    nearly_full.delete(trashed)
    operations = (create(), delete(new_id()), restore(trashed), create(), create(), delete(new_id()))
    assert statuses(send(nearly_full, *operations)) == [201, 404, 200, 201, 409, 404]
    assert len(nearly_full.ids()) == QUOTA
    [refused] = results(nearly_full, create())
    assert refused["problem"]["type"] == "/problems/quota-reached"
    assert refused.keys() == {"status", "problem"}


@pytest.mark.spec("batch.quota")
@pytest.mark.parametrize("last", [True, False])
def test_deletions_make_room_first(nearly_full: Caller, last: bool) -> None:
    gone = nearly_full.ids()[0]
    creates = [create() for _ in range(3)]
    operations = [*creates, delete(gone)] if last else [delete(gone), *creates]
    assert sorted(statuses(send(nearly_full, *operations, atomic=True))) == [201, 201, 201, 204]
    assert len(nearly_full.ids()) == QUOTA
    assert_problem(send(nearly_full, create(), atomic=True), 409, "batch-failed")


@pytest.mark.spec("batch.quota", "batch.atomic")
def test_racing_batches_do_not_exceed_the_quota(nearly_full: Caller) -> None:
    with ThreadPoolExecutor(4) as threads:
        sent = [*threads.map(lambda _: send(nearly_full, create(), create(), atomic=True), range(8))]
    assert sorted(each.status_code for each in sent) == [200] + [409] * 7
    assert len(nearly_full.ids()) == QUOTA


@pytest.mark.spec("batch.key")
@pytest.mark.parametrize("atomic", [False, True])
def test_a_replay_has_the_first_statuses_and_no_effect(owner: Caller, sql: Sql, atomic: bool) -> None:
    kept, gone, trashed = (owner.create()["id"] for _ in range(3))
    owner.delete(trashed)
    operations = [
        create(),
        update(kept, title="x"),
        delete(gone),
        restore(trashed),
        update(kept[:-4] + "0000"),
    ]
    if atomic:
        operations.pop()
    key = new_id()
    first = send(owner, *operations, atomic=atomic, key=key)
    assert "idempotency-replayed" not in first.headers
    before = stored(owner)
    again = send(owner, *operations, atomic=atomic, key=key)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["tasks-position"] == first.headers["tasks-position"]
    assert [(each["status"], each.get("task")) for each in again.json()["results"]] == [
        (each["status"], each.get("task")) for each in first.json()["results"]
    ]
    assert stored(owner) == before


@pytest.mark.spec("batch.key")
def test_a_replay_shows_the_tasks_as_they_are_now(owner: Caller) -> None:
    key, task = new_id(), owner.create()["id"]
    operations = [update(task, 1, title="x"), create()]
    created = ok(send(owner, *operations, key=key))["results"][1]["task"]["id"]
    changed = ok(owner.patch(task, {"title": "y"}))
    owner.delete(created)
    again = ok(send(owner, *operations, key=key))["results"]
    assert [each["status"] for each in again] == [200, 201]
    assert again[0]["task"] == changed
    assert (again[1]["task"]["id"], again[1]["task"]["deleted_at"] is None) == (created, False)


@pytest.mark.spec("batch.key", "batch.atomic")
def test_a_batch_that_changes_nothing_does_not_take_its_key(owner: Caller) -> None:
    key, task = new_id(), new_id()
    assert_problem(send(owner, create(), delete(task), atomic=True, key=key), 409, "batch-failed")
    assert statuses(send(owner, delete(task), key=key)) == [404]
    assert statuses(send(owner, create(task), key=key)) == [201]


@pytest.mark.spec("batch.key")
def test_a_key_belongs_to_one_body_of_one_kind_and_one_user(owner: Caller, stranger: Caller) -> None:
    key, another = new_id(), new_id()
    ok(send(owner, create(title="a"), key=key))
    assert_problem(send(owner, create(title="b"), key=key), 409, "idempotency-key-reused")
    assert_problem(send(owner, create(title="a"), atomic=True, key=key), 409, "idempotency-key-reused")
    assert_problem(
        owner.post({"title": "a"}, headers={"Idempotency-Key": key}), 409, "idempotency-key-reused"
    )
    ok(owner.post({"title": "a"}, headers={"Idempotency-Key": another}), 201)
    assert_problem(send(owner, create(title="a"), key=another), 409, "idempotency-key-reused")
    assert len(owner.ids()) == 2
    assert "idempotency-replayed" not in send(stranger, create(title="a"), key=key).headers
    assert len(stranger.ids()) == 1


@pytest.mark.spec("batch.key")
def test_the_same_batch_at_the_same_time_is_applied_once(owner: Caller, serve: Serve) -> None:
    others = [client_as(serve(), owner.user_id) for _ in range(2)]
    operations, key = [create(), create()], new_id()
    with ThreadPoolExecutor(4) as threads:
        sent = [*threads.map(lambda caller: send(caller, *operations, key=key), [*others, *others])]
    tasks = {each["task"]["id"] for response in sent for each in ok(response)["results"]}
    assert tasks == set(owner.ids())
    assert len(tasks) == 2


@pytest.mark.spec("batch.limits")
def test_each_operation_counts_as_a_request(serve: Serve) -> None:
    caller = client_as(serve(rate_limit_requests="10/minute"), f"limited-{uuid.uuid4()}")
    assert statuses(send(caller, *(create() for _ in range(6)))) == [201] * 6
    response = send(caller, *(create() for _ in range(5)))
    assert_problem(response, 429, "too-many-requests")
    assert response.headers["ratelimit-policy"] == '"requests";q=10;w=60'


@pytest.mark.spec("batch.limits")
def test_a_user_has_few_batches_in_progress(owner: Caller, database_url: URL) -> None:
    task = owner.create()["id"]
    with Locked(database_url, task) as lock, ThreadPoolExecutor() as threads:
        sent = [threads.submit(send, owner, update(task, title=str(number))) for number in range(5)]
        response = next(as_completed(sent)).result()
        assert_problem(response, 429, "too-many-requests")
        assert response.headers["ratelimit-policy"] == '"concurrent-batches";q=4;qu="concurrent-requests"'
        lock.release()
    assert sorted(each.result().status_code for each in sent) == [200] * 4 + [429]
    assert statuses(send(owner, create())) == [201]


@pytest.mark.spec("batch.at-once")
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_the_path_has_no_other_method(owner: Caller, method: str) -> None:
    response = owner.request(method, BATCH)
    assert_problem(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"
