"""python -m purge"""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import URL

from tests.environment import ROOT, Sql, libpq_url
from tests.support import TASKS, assert_problem, client_as, ok, wait_until

DAY = "interval '1 day'"


@pytest.fixture
def url(migrated: URL) -> URL:
    """A separate database, because the purge affects all users."""
    return migrated


@pytest.fixture
def own_sql(url: URL) -> Iterator[Sql]:
    connection = Sql(url)
    yield connection
    connection.close()


def start(url: URL, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "purge"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "DATABASE_URL": libpq_url(url), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def purge(url: URL, **environment: str) -> str:
    """The last message of a run that succeeds."""
    process = start(url, **environment)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    line: dict[str, Any] = json.loads(output.splitlines()[-1])
    return str(line["message"])


def add_tasks(sql: Sql, user_id: str, count: int, deleted: str = "NULL") -> None:
    sql(
        "INSERT INTO tasks (user_id, id, title, deleted_at)"
        f" SELECT %s, gen_random_uuid(), 'x', {deleted} FROM generate_series(1, %s)",
        user_id,
        count,
    )


def numbers(sql: Sql, user_id: str) -> tuple[int, int]:
    """How many live and deleted tasks there are."""
    [found] = sql(
        "SELECT count(*) FILTER (WHERE deleted_at IS NULL), count(deleted_at) FROM tasks WHERE user_id = %s",
        user_id,
    )
    return (found[0], found[1])


@pytest.mark.spec("purge.tasks", "purge.output")
def test_it_deletes_what_has_been_in_the_trash_long_enough(url: URL, own_sql: Sql) -> None:
    for user_id in ("ann", "bob"):
        add_tasks(own_sql, user_id, 3)
        add_tasks(own_sql, user_id, 2, f"now() - 30 * {DAY} - interval '1 minute'")
        add_tasks(own_sql, user_id, 1, f"now() - 30 * {DAY} + interval '1 minute'")
        add_tasks(own_sql, user_id, 1)
    feeds = own_sql("SELECT seq, live_tasks FROM feeds ORDER BY user_id")
    last = own_sql(
        f"SELECT max(seq) FROM tasks WHERE deleted_at < now() - 30 * {DAY} GROUP BY user_id ORDER BY user_id"
    )
    assert purge(url) == "Purged tasks: 4, idempotency keys: 0"
    assert [numbers(own_sql, user_id) for user_id in ("ann", "bob")] == [(4, 1)] * 2
    assert own_sql("SELECT purged_seq FROM feeds ORDER BY user_id") == last
    assert own_sql("SELECT seq, live_tasks FROM feeds ORDER BY user_id") == feeds
    assert purge(url) == "Purged tasks: 0, idempotency keys: 0"
    assert own_sql("SELECT purged_seq FROM feeds ORDER BY user_id") == last


@pytest.mark.spec("http.etag.lists", "purge.tasks")
def test_it_changes_the_tag_of_the_trash(client: TestClient, database_url: URL, sql: Sql) -> None:
    caller = client_as(client, f"purged-{uuid.uuid4()}")
    caller.delete(caller.create()["id"])
    sql(f"UPDATE tasks SET deleted_at = now() - 31 * {DAY} WHERE user_id = %s", caller.user_id)
    trash = caller.get(f"{TASKS}?deleted=true").headers["etag"]
    live = caller.get(TASKS).headers["etag"]
    purge(database_url)
    response = caller.get(f"{TASKS}?deleted=true", headers={"If-None-Match": trash})
    assert (response.status_code, response.json()) == (200, [])
    assert caller.get(TASKS, headers={"If-None-Match": live}).status_code == 304


@pytest.mark.spec("http.etag", "http.if-match", "http.if-none-match")
def test_a_purged_task_that_is_created_again_has_another_tag(
    client: TestClient, database_url: URL, sql: Sql
) -> None:
    """Its ID and its version are the same."""
    caller = client_as(client, f"purged-{uuid.uuid4()}")
    task = caller.create(id=str(uuid.uuid4()))
    path = f"{TASKS}/{task['id']}"
    tag = caller.get(path).headers["etag"]
    caller.delete(task["id"])
    sql("UPDATE tasks SET deleted_at = 'epoch' WHERE user_id = %s", caller.user_id)
    purge(database_url)
    again = caller.create(id=task["id"])
    assert again["version"] == task["version"]
    assert ok(caller.get(path, headers={"If-None-Match": tag})) == again
    refused = caller.patch(task["id"], {"title": "x"}, headers={"If-Match": tag})
    assert_problem(refused, 412, "precondition-failed")


@pytest.mark.spec("purge.tasks")
def test_the_retention_can_be_set(url: URL, own_sql: Sql) -> None:
    add_tasks(own_sql, "ann", 1, f"now() - {DAY} - interval '1 minute'")
    assert purge(url, TRASH_RETENTION_DAYS="2") == "Purged tasks: 0, idempotency keys: 0"
    assert purge(url, TRASH_RETENTION_DAYS="1") == "Purged tasks: 1, idempotency keys: 0"


@pytest.mark.spec("purge.keys")
def test_it_deletes_expired_keys(url: URL, own_sql: Sql) -> None:
    own_sql(
        "INSERT INTO idempotency_keys SELECT 'user-' || n % 3, n, '', '', gen_random_uuid(),"
        " now() - interval '24 hours' + (n - 5) * interval '1 minute' FROM generate_series(1, 9) n"
    )
    assert purge(url) == "Purged tasks: 0, idempotency keys: 5"
    assert own_sql("SELECT slot FROM idempotency_keys ORDER BY slot") == [(6,), (7,), (8,), (9,)]


@pytest.mark.spec("purge.batches")
def test_a_transaction_deletes_at_most_1000_rows_of_one_user(url: URL, own_sql: Sql) -> None:
    own_sql("CREATE TABLE batches (users bigint, size bigint)")
    own_sql("GRANT INSERT ON batches TO PUBLIC")
    own_sql(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " INSERT INTO batches SELECT count(DISTINCT user_id), count(*) FROM gone; RETURN NULL; END $$"
    )
    own_sql(
        "CREATE TRIGGER note AFTER DELETE ON tasks REFERENCING OLD TABLE AS gone"
        " FOR EACH STATEMENT EXECUTE FUNCTION note()"
    )
    for user_id, count in (("ann", 2_000), ("bob", 1_001), ("cid", 3)):
        add_tasks(own_sql, user_id, count, f"now() - 31 * {DAY}")
    assert purge(url) == "Purged tasks: 3004, idempotency keys: 0"
    sizes = own_sql("SELECT users, size FROM batches WHERE size > 0")
    assert sizes == [(1, 1000), (1, 1000), (1, 1000), (1, 1), (1, 3)]


@pytest.mark.spec("purge.tasks", "purge.batches")
def test_a_task_that_is_restored_meanwhile_is_kept(url: URL, own_sql: Sql) -> None:
    add_tasks(own_sql, "ann", 1, f"now() - 31 * {DAY}")
    restorer = Sql(url)
    restorer("BEGIN")
    restorer("SELECT pg_advisory_xact_lock(hashtextextended('ann', 0))")
    process = start(url)
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    wait_until(lambda: own_sql(waiting) == [(1,)], "the purge does not wait for the write lock")
    restorer("UPDATE tasks SET deleted_at = NULL")
    restorer("COMMIT")
    restorer.close()
    output, _ = process.communicate(timeout=60)
    assert "Purged tasks: 0" in output
    assert numbers(own_sql, "ann") == (1, 0)


@pytest.mark.spec("purge.batches", "purge.output")
def test_a_user_whose_rows_are_locked_does_not_stop_it(url: URL, own_sql: Sql) -> None:
    for user_id in ("ann", "bob"):
        add_tasks(own_sql, user_id, 1, f"now() - 31 * {DAY}")
    holder = Sql(url)
    holder("BEGIN")
    holder("SELECT pg_advisory_xact_lock(hashtextextended('ann', 0))")
    process = start(url)
    output, _ = process.communicate(timeout=60)
    holder.close()
    assert process.returncode == 1
    assert "Purge of a user failed: OperationalError (SQLSTATE 57014)" in output
    assert "Purged tasks: 1, idempotency keys: 0" in output
    assert [numbers(own_sql, user_id)[1] for user_id in ("ann", "bob")] == [1, 0]


@pytest.mark.spec("schema.role.maintenance")
def test_its_role_cannot_delete_anything_else(url: URL, own_sql: Sql) -> None:
    add_tasks(own_sql, "ann", 2)
    add_tasks(own_sql, "ann", 1, "now()")
    key = "INSERT INTO idempotency_keys VALUES ('ann', %s, '', '', gen_random_uuid(), now() - %s::interval)"
    own_sql(key, 1, "25 hours")
    own_sql(key, 2, "23 hours")
    role = Sql(url)
    role("SET ROLE tasks_maintenance")
    role("DELETE FROM tasks")
    role("DELETE FROM idempotency_keys")
    for statement in ("DELETE FROM feeds", "SELECT title FROM tasks", "UPDATE feeds SET seq = 1"):
        with pytest.raises(Exception, match="permission denied"):
            role(statement)
    role.close()
    assert numbers(own_sql, "ann") == (2, 0)
    assert own_sql("SELECT slot FROM idempotency_keys") == [(2,)]


@pytest.mark.spec("purge.output")
@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"TRASH_RETENTION_DAYS": "0"}, "TRASH_RETENTION_DAYS"),
        ({"TRASH_RETENTION_DAYS": "3651"}, "TRASH_RETENTION_DAYS"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing"}, '"ERROR"'),
    ],
)
def test_it_fails_with_a_status(url: URL, environment: dict[str, str], expected: str) -> None:
    process = start(url, **environment)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert expected in output
