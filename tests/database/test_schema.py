"""Constraints, privileges and row security in the database itself."""

import re
import uuid
from collections.abc import Iterator

import pytest
from psycopg2 import errors
from sqlalchemy import URL

import db
from models import PRIORITY_RANK
from tests.environment import Sql
from tests.spec_tables import task_columns
from tests.support import Caller

LATER = "10000-01-01 00:00:00+00"


@pytest.fixture
def as_role(database_url: URL) -> Iterator[Sql]:
    """A connection with the requests' role; `become` sets the user."""
    connection = Sql(database_url)
    connection("SELECT set_config('role', 'tasks_api', false)")
    yield connection
    connection.close()


def become(sql: Sql, user_id: str) -> None:
    sql("SELECT set_config('app.user_id', %s, false)", user_id)


def insert(sql: Sql, user_id: str, **columns: object) -> str:
    task_id = str(uuid.uuid4())
    values = {"user_id": user_id, "id": task_id, "title": "x", **columns}
    names, marks = ", ".join(values), ", ".join(["%s"] * len(values))
    sql(f"INSERT INTO tasks ({names}) VALUES ({marks})", *values.values())
    return task_id


def test_the_table_has_the_documented_columns(sql: Sql) -> None:
    columns = sql(
        "SELECT attname, format_type(atttypid, atttypmod), CASE WHEN attnotnull THEN 'no' ELSE 'yes' END"
        " FROM pg_attribute WHERE attrelid = 'tasks'::regclass AND attnum > 0 AND NOT attisdropped"
    )
    documented = [
        (name, kind.replace("timestamptz", "timestamp with time zone"), null)
        for name, (kind, null, *_) in task_columns().items()
    ]
    assert sorted(columns) == sorted(documented)


@pytest.mark.spec("schema.role.grants")
def test_the_role_may_update_every_column_but_the_immutable_ones(sql: Sql) -> None:
    granted = sql(
        "SELECT column_name FROM information_schema.column_privileges"
        " WHERE grantee = 'tasks_api' AND table_name = 'tasks' AND privilege_type = 'UPDATE'"
    )
    assert {name for (name,) in granted} == task_columns().keys() - {"user_id", "id", "created_at"}


@pytest.mark.spec("schema.key")
def test_the_owner_is_part_of_the_key(sql: Sql) -> None:
    [[definition]] = sql("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'pk_tasks'")
    assert definition == "PRIMARY KEY (user_id, id)"


@pytest.mark.spec("schema.checks")
@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"user_id": ""}, "user_id_length"),
        ({"user_id": "x" * 256}, "user_id_length"),
        ({"title": ""}, "title_length"),
        ({"title": "x" * 201}, "title_length"),
        ({"description": "x" * 5001}, "description_length"),
        ({"completed": True}, "completed_at_agrees"),
        ({"completed_at": "2030-01-01 00:00:00+00"}, "completed_at_agrees"),
        ({"priority": "urgent"}, "priority_known"),
        ({"due_at": "1969-12-31 23:59:59+00"}, "due_at_range"),
        ({"due_at": LATER}, "due_at_range"),
        ({"due_at": "infinity"}, "due_at_range"),
        ({"tags": ["x"] * 21}, "tags_flat"),
        ({"tags": [["x"]]}, "tags_flat"),
        ({"tags": ["x", None]}, "tags_flat"),
        ({"version": 0}, "version_positive"),
    ],
)
def test_check_constraints_reject_what_the_api_rejects(
    sql: Sql, columns: dict[str, object], constraint: str
) -> None:
    # With a position, so that no trigger makes a feed, whose constraints are the same.
    values = {"user_id": f"user-{uuid.uuid4()}", "seq": 1, **columns}
    with pytest.raises(errors.CheckViolation) as refused:
        insert(sql, str(values.pop("user_id")), **values)
    assert refused.value.diag.constraint_name == f"ck_tasks_{constraint}"


def attributes(sql: Sql, role: str) -> list[tuple[bool, ...]]:
    """Whether the role has each attribute that gives it power beyond its grants."""
    flags = "rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolinherit"
    return sql(f"SELECT {flags} FROM pg_roles WHERE rolname = %s", role)


@pytest.mark.spec("schema.role.no-bypass", "schema.role.created")
def test_the_role_has_no_attributes_and_owns_nothing(sql: Sql) -> None:
    assert attributes(sql, "tasks_api") == [(False,) * 7]
    assert sql("SELECT count(*) FROM pg_class WHERE relowner = 'tasks_api'::regrole") == [(0,)]


@pytest.mark.spec("schema.role.grants")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM tasks",
        "TRUNCATE tasks",
        "UPDATE tasks SET user_id = 'somebody'",
        "UPDATE tasks SET id = gen_random_uuid()",
        "UPDATE tasks SET created_at = now()",
        "DELETE FROM feeds",
        "TRUNCATE feeds",
        "UPDATE feeds SET user_id = 'somebody'",
        "DELETE FROM idempotency_keys",
        "TRUNCATE idempotency_keys",
        "UPDATE idempotency_keys SET user_id = 'somebody'",
        "UPDATE idempotency_keys SET slot = 1",
        "ALTER TABLE tasks DISABLE ROW LEVEL SECURITY",
        "DROP POLICY own_tasks ON tasks",
        "DROP TABLE tasks",
        "CREATE TABLE more ()",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "UPDATE alembic_version SET version_num = '0'",
        "DELETE FROM alembic_version",
        "CREATE ROLE more",
        "COPY tasks TO PROGRAM 'true'",
    ],
)
def test_the_role_lacks_all_other_privileges(as_role: Sql, statement: str) -> None:
    become(as_role, "somebody")
    with pytest.raises(errors.InsufficientPrivilege):
        as_role(statement)


@pytest.mark.spec("schema.role.grants")
def test_the_role_can_read_and_write_its_tasks(as_role: Sql) -> None:
    user = f"user-{uuid.uuid4()}"
    become(as_role, user)
    insert(as_role, user)
    assert as_role("UPDATE tasks SET title = 'y' RETURNING title") == [("y",)]
    assert as_role("SELECT version_num FROM alembic_version") == [(db.SCHEMA_REVISION,)]


@pytest.mark.spec("schema.rls.forced")
@pytest.mark.parametrize("table", ["tasks", "feeds", "idempotency_keys"])
def test_row_security_is_enabled_and_forced(sql: Sql, as_role: Sql, table: str) -> None:
    assert sql("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = %s", table) == [
        (True, True)
    ]
    assert as_role("SELECT row_security_active(%s)", table) == [(True,)]


KEY = "INSERT INTO idempotency_keys VALUES (%s, 1, '', '', gen_random_uuid(), now())"


@pytest.mark.spec("schema.keys", "schema.checks")
def test_a_user_has_10000_slots_for_keys(as_role: Sql) -> None:
    user_id = f"user-{uuid.uuid4()}"
    become(as_role, user_id)
    slot = KEY.replace(" 1,", " %s,")
    for within in (0, 9_999):
        as_role(slot, user_id, within)
    for beyond in (-1, 10_000):
        with pytest.raises(errors.CheckViolation):
            as_role(slot, user_id, beyond)


@pytest.mark.spec("schema.rls.policy")
def test_row_security_limits_rows_to_the_current_user(as_role: Sql) -> None:
    mine, theirs = f"user-{uuid.uuid4()}", f"user-{uuid.uuid4()}"
    for user in (mine, theirs):
        become(as_role, user)
        insert(as_role, user)
        as_role(KEY, user)
    become(as_role, mine)
    assert as_role("SELECT DISTINCT user_id FROM idempotency_keys") == [(mine,)]
    assert as_role("SELECT DISTINCT user_id FROM tasks") == [(mine,)]
    assert as_role("SELECT DISTINCT user_id FROM feeds") == [(mine,)]
    assert as_role("UPDATE tasks SET title = 'y' WHERE user_id = %s RETURNING 1", theirs) == []
    assert as_role("UPDATE feeds SET seq = 1 WHERE user_id = %s RETURNING 1", theirs) == []
    with pytest.raises(errors.InsufficientPrivilege, match='row-level security policy for table "tasks"'):
        # With a position, so that the trigger does not look for a feed.
        insert(as_role, theirs, seq=1)
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        as_role("INSERT INTO feeds VALUES (%s, 1, 0)", f"user-{uuid.uuid4()}")
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        as_role(KEY, f"user-{uuid.uuid4()}")


@pytest.mark.spec("schema.rls.policy")
@pytest.mark.parametrize("setting", ["absent", "empty"])
def test_row_security_hides_all_rows_without_a_user(as_role: Sql, owner: Caller, setting: str) -> None:
    owner.create()
    if setting == "empty":
        become(as_role, "")
    assert as_role("SELECT count(*) FROM tasks") == [(0,)]
    for user_id in ("", owner.user_id):
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            insert(as_role, user_id)


@pytest.mark.spec("schema.index")
def test_every_order_has_an_index(sql: Sql) -> None:
    found = {
        re.sub(r"\s+", " ", row[0]).split(" USING ")[1]
        for row in sql("SELECT indexdef FROM pg_indexes WHERE tablename = 'tasks'")
    }
    live = {
        "created_at, id",
        "completed, created_at, id",
        "due_at, id",
        f"({' '.join(PRIORITY_RANK.split())}), id",
        "seq",
    }
    found = {each.replace("(( CASE", "((CASE").replace("( CASE", "(CASE") for each in found}
    assert found == {
        "btree (user_id, id)",
        "btree (user_id, seq)",
        "btree (user_id, seq) WHERE (deleted_at IS NOT NULL)",
        *(f"btree (user_id, {columns}) WHERE (deleted_at IS NULL)" for columns in live),
    }


@pytest.mark.spec("schema.role.eraser", "schema.role.created")
def test_the_eraser_reads_no_content_and_owns_one_function(sql: Sql) -> None:
    assert attributes(sql, "tasks_eraser") == [(False,) * 7]
    granted = sql(
        "SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges"
        " WHERE grantee = 'tasks_eraser'"
    )
    readable = {
        "tasks": ("user_id", "id", "deleted_at"),
        "idempotency_keys": ("user_id",),
        "feeds": ("user_id", "seq", "live_tasks"),
    }
    expected = {(table, name, "SELECT") for table, names in readable.items() for name in names}
    expected |= {("feeds", name, "UPDATE") for name in ("seq", "live_tasks", "purged_seq")}
    assert set(granted) == expected
    deleting = sql(
        "SELECT table_name FROM information_schema.table_privileges WHERE grantee = 'tasks_eraser'"
    )
    assert sorted(deleting) == [("feeds",), ("idempotency_keys",), ("tasks",)]
    assert sql(
        "SELECT proname FROM pg_proc WHERE proowner = 'tasks_eraser'::regrole"
        " UNION ALL SELECT relname FROM pg_class WHERE relowner = 'tasks_eraser'::regrole"
    ) == [("erase_account",)]
    assert sql("SELECT has_schema_privilege('tasks_eraser', current_schema(), 'CREATE')") == [(False,)]


@pytest.mark.spec("schema.role.eraser", "schema.rls.policy")
@pytest.mark.parametrize("user_id", ["theirs", "", None])
def test_the_function_erases_nobody_but_the_current_user(
    as_role: Sql, owner: Caller, user_id: str | None
) -> None:
    task = owner.create()
    if user_id is not None:
        become(as_role, user_id)
    assert as_role("SELECT erase_account(%s, 10)", owner.user_id) == [(True,)]
    assert owner.get().json() == [task]


@pytest.mark.spec("schema.role.eraser")
@pytest.mark.parametrize("role", ["tasks_maintenance", "pg_monitor"])
def test_no_other_role_may_call_the_function(database_url: URL, role: str) -> None:
    connection = Sql(database_url)
    connection("SELECT set_config('role', %s, false)", role)
    with pytest.raises(errors.InsufficientPrivilege):
        connection("SELECT erase_account('somebody', 10)")
    connection.close()


@pytest.mark.spec("schema.role.eraser")
def test_the_function_ignores_the_tables_of_its_caller(as_role: Sql, owner: Caller, sql: Sql) -> None:
    """A temporary table hides one of the same name, unless the function names the schema."""
    owner.create()
    become(as_role, owner.user_id)
    as_role("CREATE TEMPORARY TABLE tasks (user_id text, id uuid, deleted_at timestamptz)")
    as_role("GRANT ALL ON pg_temp.tasks TO tasks_eraser")
    assert as_role("SELECT erase_account(%s, 10)", owner.user_id) == [(True,)]
    assert sql("SELECT count(*) FROM tasks WHERE user_id = %s", owner.user_id) == [(0,)]


@pytest.mark.spec("schema.role.watcher", "schema.role.created")
def test_the_watching_role_sees_positions_and_nothing_else(
    sql: Sql, owner: Caller, database_url: URL
) -> None:
    owner.create()
    assert attributes(sql, "tasks_watcher") == [(False,) * 7]
    granted = sql(
        "SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges"
        " WHERE grantee = 'tasks_watcher'"
    )
    assert set(granted) == {("feeds", name, "SELECT") for name in ("user_id", "seq")}
    connection = Sql(database_url)
    connection("SELECT set_config('role', 'tasks_watcher', false)")
    assert len(connection("SELECT seq FROM feeds WHERE user_id = %s", owner.user_id)) == 1
    connection.close()


@pytest.mark.spec("schema.role.maintenance", "schema.role.created")
def test_the_maintenance_role_sees_who_has_tasks_and_no_content(
    sql: Sql, owner: Caller, database_url: URL
) -> None:
    task = owner.create()["id"]
    assert attributes(sql, "tasks_maintenance") == [(False,) * 7]
    granted = sql(
        "SELECT table_name, column_name, privilege_type FROM information_schema.column_privileges"
        " WHERE grantee = 'tasks_maintenance'"
    )
    readable = {
        "tasks": ("user_id", "id", "seq", "deleted_at"),
        "idempotency_keys": ("user_id", "slot", "created_at"),
        "feeds": ("user_id", "purged_seq"),
    }
    expected = {(table, name, "SELECT") for table, names in readable.items() for name in names}
    assert set(granted) == expected | {("feeds", "purged_seq", "UPDATE")}
    connection = Sql(database_url)
    connection("SELECT set_config('role', 'tasks_maintenance', false)")
    assert connection("SELECT user_id FROM tasks WHERE id = %s", task) == [(owner.user_id,)]
    connection.close()
