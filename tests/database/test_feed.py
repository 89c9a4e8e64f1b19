"""The feed: every change gets a position, and positions become visible in order."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from alembic import command
from fastapi.testclient import TestClient
from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from services.search import fold
from tests.environment import Sql, alembic
from tests.operations import CHANGING_ONE_TASK, Operation, each
from tests.support import Caller, assert_problem, client_as, ok

WRITERS = 20
CHANGES = 10

PREVIOUS_SCOPE = "SELECT set_config('role', 'tasks_api', true), set_config('app.user_id', %s, true); "
"""What the previous version sends before its statement, as far as it matters here."""


def feed(sql: Sql, user_id: str) -> tuple[int, int] | None:
    found = sql("SELECT seq, live_tasks FROM feeds WHERE user_id = %s", user_id)
    return found[0] if found else None


def position(sql: Sql, task: str) -> int:
    return int(sql("SELECT seq FROM tasks WHERE id = %s", task)[0][0])


@pytest.mark.spec("schema.feed.position", "schema.feed.first", "schema.feed.count")
def test_the_first_task_begins_the_feed(owner: Caller, sql: Sql) -> None:
    before = time.time()
    task = owner.create()["id"]
    seq, live_tasks = feed(sql, owner.user_id) or (0, 0)
    assert before - 60 < seq / 1_000_000 < time.time() + 60
    assert (position(sql, task), live_tasks) == (seq, 1)


@pytest.mark.spec("schema.feed.position", "schema.feed.count")
@each(CHANGING_ONE_TASK)
def test_a_change_takes_the_next_position(owner: Caller, sql: Sql, operation: Operation) -> None:
    task, other = (owner.create()["id"] for _ in range(2))
    seq, _ = feed(sql, owner.user_id) or (0, 0)
    assert operation.send(owner, task).is_success
    live_tasks = 1 if operation.name == "delete_task" else 2
    assert feed(sql, owner.user_id) == (seq + 1, live_tasks)
    assert (position(sql, task), position(sql, other)) == (seq + 1, seq)


@pytest.mark.spec("schema.feed.position")
@each(CHANGING_ONE_TASK)
def test_a_write_that_finds_no_task_takes_no_position(
    owner: Caller, stranger: Caller, sql: Sql, operation: Operation
) -> None:
    task = owner.create()["id"]
    before = feed(sql, owner.user_id)
    assert_problem(operation.send(stranger, task), 404, "not-found")
    assert_problem(operation.send(owner, str(uuid.uuid4())), 404, "not-found")
    assert (feed(sql, owner.user_id), feed(sql, stranger.user_id)) == (before, None)


@pytest.mark.spec("schema.feed.position", "tasks.update.empty")
def test_an_empty_patch_takes_no_position(owner: Caller, sql: Sql) -> None:
    task = owner.create()["id"]
    before = feed(sql, owner.user_id)
    ok(owner.patch(task, {}))
    assert feed(sql, owner.user_id) == before


@pytest.mark.spec("schema.feed.order", "tasks.concurrent")
def test_a_follower_sees_every_change_of_concurrent_writers(
    owner: Caller, database_url: URL, sql: Sql
) -> None:
    """The follower only ever asks for what is behind the last position that it has seen."""
    shared = owner.create()["id"]
    written = Event()

    def write(_: int) -> None:
        for number in range(CHANGES):
            task = owner.create()["id"]
            assert owner.patch(shared, {"title": f"t{number}"}).status_code == 200
            if number % 2:
                assert owner.delete(task).status_code == 204

    def follow() -> tuple[dict[str, tuple[int, bool]], int]:
        connection, last = Sql(database_url), 0
        copy: dict[str, tuple[int, bool]] = {}
        while True:
            finished = written.is_set()
            rows = connection(
                "SELECT id::text, version, deleted_at IS NULL, seq FROM tasks"
                " WHERE user_id = %s AND seq > %s ORDER BY seq",
                owner.user_id,
                last,
            )
            copy |= {task: (version, live) for task, version, live, _ in rows}
            last = rows[-1][3] if rows else last
            if finished:
                connection.close()
                return copy, last

    with ThreadPoolExecutor(WRITERS + 1) as threads:
        following = threads.submit(follow)
        try:
            for writing in [threads.submit(write, number) for number in range(WRITERS)]:
                writing.result()
        finally:
            written.set()
        copy, last = following.result()
    stored = sql("SELECT id::text, version, deleted_at IS NULL FROM tasks WHERE user_id = %s", owner.user_id)
    assert copy == {task: (version, live) for task, version, live in stored}
    assert copy[shared] == (1 + WRITERS * CHANGES, True)
    assert feed(sql, owner.user_id) == (last, 1 + WRITERS * CHANGES // 2)


@pytest.mark.spec("schema.feed.previous-version")
def test_writes_of_the_previous_version_take_positions(
    client: TestClient, database_url: URL, sql: Sql
) -> None:
    caller = client_as(client, f"previous-{uuid.uuid4()}")
    user_id, task = caller.user_id, str(uuid.uuid4())
    previous = Sql(database_url)
    previous(
        f"{PREVIOUS_SCOPE} INSERT INTO tasks (user_id, id, title) VALUES (%s, %s, 'Été')",
        user_id,
        user_id,
        task,
    )
    seq, live_tasks = feed(sql, user_id) or (0, 0)
    assert (position(sql, task), live_tasks) == (seq, 1)
    caller.patch(task, {"title": "Hiver", "description": "Été"})
    statement = "UPDATE tasks SET title = 'Automne' WHERE user_id = %s"
    previous(f"{PREVIOUS_SCOPE} {statement}", user_id, user_id)
    folded = sql("SELECT search_title, search_description FROM tasks WHERE user_id = %s", user_id)
    assert folded == [(None, fold("Été"))]
    statement = "UPDATE tasks SET deleted_at = now() WHERE user_id = %s"
    previous(f"{PREVIOUS_SCOPE} {statement}", user_id, user_id)
    assert feed(sql, user_id) == (seq + 3, 0)
    assert position(sql, task) == seq + 3
    previous.close()


@pytest.mark.spec("schema.feed.previous-version")
def test_the_previous_version_waits_for_the_write_lock(owner: Caller, database_url: URL, sql: Sql) -> None:
    owner.create()
    holder, previous = Sql(database_url), Sql(database_url)
    holder("BEGIN")
    holder("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", owner.user_id)
    previous("SET statement_timeout = 200")
    with pytest.raises(Exception, match="statement timeout"):
        previous(
            f"{PREVIOUS_SCOPE} UPDATE tasks SET title = 'x' WHERE user_id = %s", owner.user_id, owner.user_id
        )
    holder.close()
    previous.close()


@pytest.fixture
def old_database(empty_database: URL) -> URL:
    """As the previous version left it, with two users."""
    alembic(empty_database, command.upgrade, "0001")
    sql = Sql(empty_database)
    sql(
        "INSERT INTO tasks (user_id, id, title, description, updated_at, deleted_at)"
        " SELECT 'many', gen_random_uuid(), 'É' || n, CASE WHEN n % 2 = 0 THEN 'Ö' END,"
        " now() - n * interval '1 second', CASE WHEN n % 5 = 0 THEN now() END"
        " FROM generate_series(1, 2500) n"
    )
    sql("INSERT INTO tasks (user_id, id, title) VALUES ('one', gen_random_uuid(), 'x')")
    sql.close()
    return empty_database


def assert_migrated(url: URL) -> None:
    sql = Sql(url)
    numbers = sql("SELECT seq FROM tasks WHERE user_id = 'many' ORDER BY updated_at, id")
    assert numbers == [(number,) for number in range(1, 2501)]
    assert sql("SELECT user_id, live_tasks FROM feeds ORDER BY 1") == [("many", 2000), ("one", 1)]
    assert sql("SELECT min(seq) FROM feeds")[0][0] > 1_500_000_000_000
    folded = sql("SELECT search_title, search_description FROM tasks WHERE title IN ('É2', 'É3') ORDER BY 1")
    assert folded == [("e2", "o"), ("e3", None)]
    assert sql("SELECT max(version) FROM tasks") == [(1,)]
    sql.close()


@pytest.mark.spec("schema.migrations.backfill", "schema.feed.position", "schema.feed.count")
def test_existing_tasks_are_numbered_in_the_order_of_their_changes(old_database: URL) -> None:
    alembic(old_database, command.upgrade, "head")
    assert_migrated(old_database)


@pytest.mark.spec("schema.migrations.backfill", "schema.migrations.lock-timeout")
def test_a_migration_that_failed_half_way_can_be_run_again(old_database: URL) -> None:
    writer = Sql(old_database)
    writer("BEGIN")
    writer("SELECT pg_advisory_xact_lock(hashtextextended('one', 0))")
    with pytest.raises(OperationalError, match="lock timeout"):
        alembic(old_database, command.upgrade, "head")
    assert writer("SELECT count(seq) FROM tasks WHERE user_id = 'many'") == [(2500,)]
    writer("ROLLBACK")
    # As if the run had ended in the middle of a user's tasks.
    writer("ALTER TABLE tasks DROP CONSTRAINT seq_given")
    writer("UPDATE tasks SET seq = NULL WHERE user_id = 'many' AND seq > 1200")
    writer.close()
    alembic(old_database, command.upgrade, "head")
    assert_migrated(old_database)
