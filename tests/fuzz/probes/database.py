"""Probes of the database under the role of the requests: row security, grants and constraints.

They connect as the service does, without its code: what the database itself permits.
"""

import psycopg2

from tests.environment import Sql
from tests.fuzz.context import START_OF_2020, User
from tests.fuzz.prober import Prober, probe, valid
from tests.operations import ON_ONE_TASK, OPERATIONS
from tests.support import TASKS

CREATE = next(each for each in OPERATIONS if each.method == "POST")
ROLE = "tasks_api"
DENIED = "42501"
CHECK, NOT_NULL, UNIQUE = "23514", "23502", "23505"
FORBIDDEN = (
    "DELETE FROM tasks",
    "TRUNCATE tasks",
    "DELETE FROM feeds",
    "TRUNCATE feeds",
    "UPDATE feeds SET user_id = user_id",
    "DELETE FROM idempotency_keys",
    "TRUNCATE idempotency_keys",
    "UPDATE idempotency_keys SET user_id = user_id",
    "UPDATE tasks SET user_id = user_id",
    "UPDATE tasks SET id = id",
    "UPDATE tasks SET created_at = created_at",
    "CREATE TABLE x ()",
    "CREATE SCHEMA x",
    "CREATE ROLE x",
    "DROP TABLE tasks",
    "ALTER TABLE tasks DISABLE ROW LEVEL SECURITY",
    "INSERT INTO alembic_version VALUES ('x')",
    "UPDATE alembic_version SET version_num = 'x'",
    "DELETE FROM alembic_version",
)
WRITABLE = (
    "title, description, completed, completed_at, priority, due_at, tags, version, updated_at, deleted_at"
)
ALLOWED = (
    "SELECT * FROM tasks",
    "UPDATE feeds SET seq = seq, live_tasks = live_tasks",
    "UPDATE idempotency_keys SET key_hash = key_hash, fingerprint = fingerprint",
    "SELECT version_num FROM alembic_version",
    f"UPDATE tasks SET {', '.join(f'{name} = {name}' for name in WRITABLE.split(', '))}",
)
VIOLATIONS = (
    ("title", "''", CHECK), ("title", "repeat('x', 201)", CHECK), ("title", "NULL", NOT_NULL),
    ("description", "repeat('x', 5001)", CHECK), ("completed", "NULL", NOT_NULL),
    ("completed", "true", CHECK),
    ("completed_at", "now()", CHECK), ("priority", "'urgent'", CHECK), ("priority", "NULL", NOT_NULL),
    ("due_at", "'1969-12-31 23:59:59Z'", CHECK), ("due_at", "'10000-01-01Z'", CHECK),
    ("tags", "NULL", NOT_NULL),
    ("tags", "array_fill('x'::text, ARRAY[21])", CHECK), ("tags", "ARRAY[NULL]", CHECK),
    ("tags", "ARRAY[['x']]", CHECK),
    ("version", "0", CHECK), ("version", "NULL", NOT_NULL), ("created_at", "NULL", NOT_NULL),
    ("updated_at", "NULL", NOT_NULL), ("user_id", "NULL", DENIED), ("id", "NULL", NOT_NULL),
)  # fmt: skip
WITHIN = (
    ("title", "repeat('x', 200)"), ("description", "repeat('x', 5000)"), ("description", "NULL"),
    ("priority", "'low'"),
    ("priority", "'high'"), ("due_at", "'1970-01-01Z'"), ("due_at", "'9999-12-31 23:59:59.999999Z'"),
    ("tags", "array_fill('x'::text, ARRAY[20])"), ("deleted_at", "now()"),
)  # fmt: skip


def _state(sql: Sql, user: str | None, statement: str) -> str | None:
    """Run a statement in a user's scope and undo it; the SQLSTATE if it failed."""
    sql("BEGIN")
    try:
        sql("SELECT set_config('role', %s, true)", ROLE)
        if user is not None:
            sql("SELECT set_config('app.user_id', %s, true)", user)
        sql(statement)
    except psycopg2.Error as error:
        return error.pgcode
    finally:
        sql("ROLLBACK")
    return None


def _count(sql: Sql, user: str | None, statement: str) -> int:
    """How many rows a statement returns in a user's scope."""
    sql("BEGIN")
    try:
        sql("SELECT set_config('role', %s, true)", ROLE)
        if user is not None:
            sql("SELECT set_config('app.user_id', %s, true)", user)
        return len(sql(statement))
    finally:
        sql("ROLLBACK")


def _insert(user: str, column: str = "title", value: str = "'x'") -> str:
    values = {"user_id": f"'{user}'", "id": "gen_random_uuid()", "title": "'x'", column: value}
    return f"INSERT INTO tasks ({', '.join(values)}) VALUES ({', '.join(values.values())})"


def _expect_state(prober: Prober, user: str | None, statement: str, expected: str | None) -> None:
    prober.met()
    found = _state(prober.context.sql, user, statement)
    prober.expect(found == expected, f"{statement} as {user!r}: SQLSTATE {found} and not {expected}")


@probe("schema.rls.policy", "schema.rls.forced", at_least=9)
def statements_in_another_users_scope(prober: Prober) -> None:
    context = prober.context
    owner, stranger = context.owner.id, context.stranger.id
    sql = context.sql
    touch = "UPDATE tasks SET title = title WHERE user_id = '{}' RETURNING 1"
    for user in (stranger, "", None, f"{owner} ", owner.upper(), "%"):
        prober.met()
        prober.expect(
            _count(sql, user, f"SELECT 1 FROM tasks WHERE user_id = '{owner}'") == 0,
            f"{user!r} reads the owner's rows",
        )
        prober.expect(_count(sql, user, touch.format(owner)) == 0, f"{user!r} updates the owner's rows")
        feeds = f"UPDATE feeds SET seq = seq WHERE user_id = '{owner}' RETURNING 1"
        prober.expect(_count(sql, user, feeds) == 0, f"{user!r} updates the owner's feed")
        keys = f"SELECT 1 FROM idempotency_keys WHERE user_id = '{owner}'"
        prober.expect(_count(sql, user, keys) == 0, f"{user!r} reads the owner's keys")
        # In batches of one, it says whether it has found nothing.
        erased = f"SELECT 1 WHERE NOT erase_account('{owner}', 1)"
        prober.expect(_count(sql, user, erased) == 0, f"{user!r} erases the owner's account")
        _expect_state(prober, user, _key_of(owner), DENIED)
        _expect_state(prober, user, _insert(owner), DENIED)
        # With a position, so that the trigger does not look for the owner's feed.
        _expect_state(prober, user, _insert(owner, "seq", "1"), DENIED)
    _expect_state(prober, owner, _insert(owner), None)
    prober.expect(_count(sql, owner, touch.format(owner)) > 0, "the owner cannot update their own rows")
    forced = context.query(
        "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class"
        " WHERE relname IN ('tasks', 'feeds', 'idempotency_keys')"
    )
    prober.expect(forced == [(True,)] * 3, "row security is not enabled and forced")


def _key_of(user: str) -> str:
    return f"INSERT INTO idempotency_keys VALUES ('{user}', 1, '', '', gen_random_uuid(), now())"


@probe("schema.role.grants", "schema.role.no-bypass", at_least=len(FORBIDDEN) + len(ALLOWED))
def statements_without_and_with_a_grant(prober: Prober) -> None:
    for statement in FORBIDDEN:
        _expect_state(prober, prober.context.owner.id, statement, DENIED)
    for statement in ALLOWED:
        _expect_state(prober, prober.context.owner.id, statement, None)
    attributes = "rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolcanlogin OR rolreplication"
    found = prober.context.query(f"SELECT {attributes} FROM pg_roles WHERE rolname = %s", ROLE)
    prober.expect(found == [(False,)], "the role has an attribute that it must not have")


@probe("schema.checks", "schema.key", at_least=len(VIOLATIONS) + len(WITHIN) + 1)
def rows_at_and_beyond_each_constraint(prober: Prober) -> None:
    """What the API would reject, the table rejects as well."""
    owner = prober.context.owner.id
    for column, value, state in VIOLATIONS:
        _expect_state(prober, owner, _insert(owner, column, value), state)
    for column, value in WITHIN:
        _expect_state(prober, owner, _insert(owner, column, value), None)
    _expect_state(prober, "x" * 255, _insert("x" * 255), None)
    _expect_state(prober, "x" * 256, _insert("x" * 256), CHECK)
    existing = prober.context.any_task()
    _expect_state(prober, owner, _insert(owner, "id", f"'{existing}'"), UNIQUE)
    stranger = prober.context.stranger.id
    _expect_state(prober, stranger, _insert(stranger, "id", f"'{existing}'"), None)


@probe("schema.index", "schema.plans", at_least=3)
def the_plan_of_a_list(prober: Prober) -> None:
    """With sequential scans and sorts discouraged, only an index scan without a sort is left."""
    for condition in ("", "AND completed", "AND NOT completed"):
        prober.met()
        plan = _plan(prober.context.sql, condition)
        prober.expect("Seq Scan" not in plan and "Sort" not in plan, f"a list is planned as {plan}")
    indexes = prober.context.query("SELECT indexdef FROM pg_indexes WHERE tablename = 'tasks'")
    for columns in ("created_at, id", "completed, created_at, id", "due_at, id", "seq"):
        wanted = f"(user_id, {columns}) WHERE (deleted_at IS NULL)"
        prober.expect(any(wanted in index for (index,) in indexes), f"no index has {wanted}")


def _plan(sql: Sql, condition: str) -> str:
    sql("BEGIN")
    try:
        sql("SET LOCAL enable_seqscan = off; SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off")
        rows = sql(
            "EXPLAIN SELECT * FROM tasks WHERE user_id = 'x' AND deleted_at IS NULL"
            f" {condition} ORDER BY id DESC LIMIT 50"
        )
        return "\n".join(row[0] for row in rows)
    finally:
        sql("ROLLBACK")


@probe("schema.feed.position", "schema.feed.count", "schema.feed.first", at_least=7)
def the_position_of_each_change(prober: Prober) -> None:
    """Of a new user, whose feed begins with the first task; what changes nothing takes none."""
    context = prober.context
    user = User("fuzz-feed", context.mint("fuzz-feed"))
    prober.expect(context.feed(user) is None, "a user without tasks has a feed")
    for operation in ON_ONE_TASK:
        prober.refuse(404, "not-found", operation.method, operation.url(), **valid(operation, user))
    first = prober.accept(201, "POST", TASKS, **valid(CREATE, user)).json()["id"]
    feed = context.feed(user)
    prober.expect(feed and feed.seq > START_OF_2020, "the feed did not begin at the time in microseconds")
    prober.accept(201, "POST", TASKS, **valid(CREATE, user))
    for operation in ON_ONE_TASK:
        # The task is deleted before it is restored.
        changes = operation.effect is not None or operation.takes_deleted
        before = context.feed(user)
        prober.accept(operation.status, operation.method, operation.url(first), **valid(operation, user))
        after = context.feed(user)
        assert before is not None
        assert after is not None
        prober.expect(after.seq == before.seq + changes, f"{operation.name} moved the feed to {after.seq}")
        prober.expect(after.seq == after.last_position, f"{operation.name} has not the last position")
        prober.expect(after.live_tasks == after.counted_tasks, f"{operation.name} miscounted the tasks")
