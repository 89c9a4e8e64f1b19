"""Many operations of a user at once: one statement, one transaction.

    BatchFailed    an operation of an atomic batch failed; none was applied

The statement judges each operation by the task as it finds it, and applies those that are to be
applied. Each task is in one operation only, so the operations do not depend on each other, except
for the quota. Source: specs/api/rest-endpoints.md, `POST /api/tasks/batch`. No HTTP here.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import MISSING
from sqlalchemy import Executable, text
from sqlalchemy.dialects import postgresql

from database.session import UserSession
from models import TASKS
from schemas import Batch, Operation, TaskRead
from services import tasks
from services.creation import KEPT, KEYS_PER_USER, KeyReused, digest
from services.tasks import READABLE, WRITABLE, with_folded

Outcome = Literal["create", "update", "delete", "restore", "same", "missing", "exists", "changed", "quota"]
"""What is done, or why nothing is: the task is as asked for already, does not exist, has other content,
is not of the version that is expected, or exceeds the quota."""

REFUSED: frozenset[Outcome] = frozenset({"missing", "exists", "changed", "quota"})


@dataclass(frozen=True)
class Result:
    """What became of one operation, and the task, if there is one to show."""

    outcome: Outcome
    task: TaskRead | None


@dataclass(frozen=True)
class Applied:
    results: Sequence[Result]
    """In the order of the operations."""
    seq: int | None
    """The position of the last change, if there is any."""
    repeated: bool
    """Whether an earlier request with the same key has done it: the tasks are as they are now."""


class BatchFailed(Exception):
    """Operations of an atomic batch failed. The results are those that each would have had."""

    def __init__(self, results: Sequence[Result]) -> None:
        self.results = results


def apply_batch(session: UserSession, caller: str, batch: Batch, key: str | None) -> Applied:
    """Apply the operations, or those that can be applied if the batch is not atomic.

    Raises BatchFailed, and KeyReused.
    """
    content = batch.model_dump(mode="json", exclude_defaults=True)
    fingerprint = digest(json.dumps(content, sort_keys=True))
    rows = session.write(
        _APPLY,
        {
            "caller": caller,
            "operations": json.dumps([*_given(batch.operations)], ensure_ascii=False, default=_json),
            "atomic": batch.atomic,
            "key_hash": None if key is None else digest(key),
            "fingerprint": fingerprint,
        },
    )
    results = [Result(outcome, TaskRead(*row) if row[0] else None) for outcome, _, _, *row in rows]
    known = rows[0][1]
    if known is not None and bytes(known) != fingerprint:
        raise KeyReused
    if known is None and batch.atomic and any(each.outcome in REFUSED for each in results):
        raise BatchFailed(results)
    return Applied(results, rows[0][2], repeated=known is not None)


def _given(operations: Iterable[Operation]) -> Iterable[Mapping[str, object]]:
    """The operations as the rows of `given`."""
    for number, each in enumerate(operations):
        task = getattr(each, "task", None)
        names = () if task is None else [*task.model_fields_set] if each.op == "update" else WRITABLE
        version = getattr(each, "if_version", MISSING)
        yield {
            "number": number,
            "op": each.op,
            "given_id": tasks.new_id(each) if each.op == "create" else each.id,
            "if_version": None if version is MISSING else version,
            "names": names,
            **({} if task is None else tasks.new_values(task, names)),
        }


def _json(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    assert isinstance(value, UUID)
    return str(value)


_SQL = """
WITH given AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:operations AS jsonb)) AS operation (
        number integer, op text, given_id uuid, if_version bigint, names text[], {typed}
    )
), known AS MATERIALIZED (
    SELECT fingerprint, seq, outcomes, task_ids FROM idempotency_keys
    WHERE user_id = CAST(:caller AS text) AND key_hash = CAST(:key_hash AS bytea)
        AND created_at > now() - {kept}
    ORDER BY created_at DESC LIMIT 1
), named AS MATERIALIZED (
    SELECT given.*, known.fingerprint AS known, known.seq AS known_seq,
        known.outcomes[number + 1] AS known_outcome,
        coalesce(known.task_ids[number + 1], given_id) AS task_id
    FROM given LEFT JOIN known ON true
), found AS MATERIALIZED (
    SELECT named.*, task.* FROM named LEFT JOIN LATERAL (
        SELECT {columns} FROM tasks WHERE user_id = CAST(:caller AS text) AND id = task_id OFFSET 0
    ) AS task ON true
), judged AS MATERIALIZED (
    SELECT found.*, CASE
        WHEN known IS NOT NULL THEN known_outcome
        WHEN op = 'create' AND version IS NULL THEN 'create'
        WHEN op = 'create' AND deleted_at IS NULL
            AND ROW({fields}) IS NOT DISTINCT FROM ROW({new_fields}) THEN 'same'
        WHEN op = 'create' THEN 'exists'
        WHEN version IS NULL OR (deleted_at IS NOT NULL AND op <> 'restore') THEN 'missing'
        WHEN if_version <> version THEN 'changed'
        WHEN (op = 'restore' AND deleted_at IS NULL) OR (op = 'update' AND cardinality(names) = 0) THEN 'same'
        ELSE op
    END AS wanted
    FROM found
), counted AS MATERIALIZED (
    SELECT judged.*, CASE
        WHEN known IS NULL AND wanted IN ('create', 'restore')
            AND coalesce((SELECT live_tasks FROM feeds WHERE user_id = CAST(:caller AS text)), 0)
                - count(*) FILTER (WHERE wanted = 'delete') OVER ()
                + count(*) FILTER (WHERE wanted IN ('create', 'restore')) OVER (ORDER BY number)
                > CAST(current_setting('app.max_tasks') AS integer) THEN 'quota'
        ELSE wanted
    END AS outcome
    FROM judged
), decided AS MATERIALIZED (
    SELECT counted.*, known IS NULL AND NOT (
        CAST(:atomic AS boolean)
        AND bool_or(outcome IN ('missing', 'exists', 'changed', 'quota')) OVER ()
    ) AS applied
    FROM counted
), deleted AS (
    UPDATE tasks SET deleted_at = clock_timestamp() FROM decided
    WHERE tasks.user_id = CAST(:caller AS text) AND tasks.id = task_id AND applied AND outcome = 'delete'
    RETURNING tasks.id, tasks.seq
), updated AS (
    UPDATE tasks SET
        {assignments},
        completed_at = CASE WHEN 'completed' = ANY(names)
            THEN CASE WHEN new_completed THEN coalesce(tasks.completed_at, clock_timestamp()) END
            ELSE tasks.completed_at END,
        deleted_at = NULL, version = tasks.version + 1, updated_at = clock_timestamp()
    FROM decided
    WHERE tasks.user_id = CAST(:caller AS text) AND tasks.id = task_id
        AND applied AND outcome IN ('update', 'restore') AND (SELECT count(*) FROM deleted) >= 0
    RETURNING {their_columns}
), created AS (
    INSERT INTO tasks (user_id, id, completed_at, version, {written})
    SELECT CAST(:caller AS text), task_id, CASE WHEN new_completed THEN now() END, 1, {new}
    FROM decided
    WHERE applied AND outcome = 'create' AND (SELECT count(*) FROM deleted) >= 0
    ORDER BY number
    RETURNING {columns}
), changed AS (
    SELECT max(seq) AS seq FROM (
        SELECT seq FROM deleted UNION ALL SELECT seq FROM updated UNION ALL SELECT seq FROM created
    ) AS positions
), claimed AS (
    INSERT INTO idempotency_keys
        (user_id, slot, key_hash, fingerprint, task_id, created_at, seq, outcomes, task_ids)
    SELECT CAST(:caller AS text), mod(seq, {keys}), CAST(:key_hash AS bytea),
        CAST(:fingerprint AS bytea), task_ids[1], now(), seq, outcomes, task_ids
    FROM changed, (
        SELECT array_agg(outcome ORDER BY number) AS outcomes,
            array_agg(task_id ORDER BY number) AS task_ids FROM decided
    ) AS done
    WHERE CAST(:key_hash AS bytea) IS NOT NULL AND seq IS NOT NULL
    ON CONFLICT (user_id, slot) DO UPDATE SET key_hash = excluded.key_hash,
        fingerprint = excluded.fingerprint, task_id = excluded.task_id,
        created_at = excluded.created_at, seq = excluded.seq, outcomes = excluded.outcomes,
        task_ids = excluded.task_ids
), shown AS (
    SELECT {columns} FROM created
    UNION ALL SELECT {columns} FROM updated
    UNION ALL SELECT {columns} FROM decided
    WHERE outcome IN ('same', 'exists', 'changed')
        OR (known IS NOT NULL AND outcome IN ('create', 'update', 'restore'))
)
SELECT outcome, known, coalesce(changed.seq, known_seq), {shown_columns}
FROM decided LEFT JOIN shown ON shown.id = task_id CROSS JOIN changed
ORDER BY number
"""

_ASSIGNMENT = "{column} = CASE WHEN '{name}' = ANY(names) THEN new_{column} ELSE tasks.{column} END"


def _statement() -> Executable:
    """`_SQL` with the columns of a task. Those that are written include the folded copies."""
    written = {column: column.removeprefix("search_") for column in with_folded(WRITABLE)}
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = {column: TASKS.c[column].type.compile(dialect) for column in written}
    columns = {
        "columns": READABLE,
        "their_columns": [f"tasks.{name}" for name in READABLE],
        # The ID as text, as in `tasks.COLUMNS`.
        "shown_columns": [f"shown.{name}" if name != "id" else "CAST(shown.id AS text)" for name in READABLE],
        "fields": WRITABLE,
        "new_fields": [f"new_{name}" for name in WRITABLE],
        "written": written,
        "new": [f"new_{column}" for column in written],
        "typed": [f"new_{column} {kind}" for column, kind in types.items()],
        "assignments": [_ASSIGNMENT.format(column=column, name=name) for column, name in written.items()],
    }
    lists = {name: ", ".join(each) for name, each in columns.items()}
    return text(_SQL.format(**lists, keys=KEYS_PER_USER, kept=KEPT)).execution_options(prepare="apply_batch")


_APPLY = _statement()
