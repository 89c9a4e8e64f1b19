"""The registry of operations on tasks. Tests derive their tables from it.

A new operation needs one row here. From it follow the statuses that the contract must
declare, the methods of each path, authentication and scopes, isolation, the round trip,
the thread hop and the plan, and what the contract fuzz expects of it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from httpx2 import Response

from auth.bearer import READ, WRITE
from tests.factories import full_task
from tests.support import ACCOUNT, TASKS, Caller

ID = "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f"
"""Of a task that does not exist."""

COMMON_STATUSES = {401, 403, 422, 429, 500, 503}
BODY_STATUSES = {400, 408, 413, 415}

Fields = Mapping[str, Any]
Effect = Callable[[Fields, Fields], Fields]
"""From the defaults and the fields that were sent to the fields that the task then has."""


@dataclass(frozen=True)
class Operation:
    """One row. `effect` is None for an operation that changes no stored task."""

    name: str
    """The operationId."""
    method: str
    path: str
    status: int
    """Of a success."""
    scope: str
    body: Callable[[], dict[str, Any]] | None = None
    """A valid body that changes the task."""
    body_limit: int = 65_536
    """In bytes."""
    effect: Effect | None = None
    tagged: bool = True
    """Whether a success has an entity tag, or is about a task that has one."""
    takes_deleted: bool = False
    """Whether it is about deleted tasks, too."""
    query: str = ""
    """Query string of a typical request."""
    statuses: frozenset[int] = frozenset()
    """Declared beyond those that follow from the rest."""

    @property
    def on_one_task(self) -> bool:
        return "{task_id}" in self.path

    @property
    def on_tasks(self) -> bool:
        return self.path.startswith(TASKS)

    @property
    def writes(self) -> bool:
        return self.method != "GET"

    @property
    def declared_statuses(self) -> set[int]:
        body = BODY_STATUSES if self.body else set()
        not_found = {400, 404} if self.on_one_task else set()
        conditional = {304} if self.method == "GET" else {412, 428} if self.on_one_task else set()
        return {
            self.status,
            *self.statuses,
            *COMMON_STATUSES,
            *body,
            *not_found,
            *(conditional if self.tagged else ()),
        }

    def url(self, task: str = ID) -> str:
        return self.path.format(task_id=task) + (f"?{self.query}" if self.query else "")

    def send(self, caller: Caller, task: str = ID, **kwargs: Any) -> Response:
        """A valid request, about this task if the operation is about one."""
        if self.body is not None:
            kwargs.setdefault("json", self.body())
        return caller.request(self.method, self.url(task), **kwargs)


OPERATIONS = (
    Operation(
        "list_tasks",
        "GET",
        TASKS,
        200,
        READ,
        query="completed=false&limit=5",
        statuses=frozenset({400, 404, 409}),
    ),
    Operation("list_changes", "GET", f"{TASKS}/changes", 200, READ, tagged=False, statuses=frozenset({410})),
    Operation("create_task", "POST", TASKS, 201, WRITE, body=full_task, statuses=frozenset({200, 409})),
    Operation(
        "batch_tasks",
        "POST",
        f"{TASKS}/batch",
        200,
        WRITE,
        body=lambda: {"operations": [{"op": "create", "task": full_task()}]},
        tagged=False,
        body_limit=262_144,
        statuses=frozenset({409, 428}),
    ),
    Operation("get_task", "GET", f"{TASKS}/{{task_id}}", 200, READ),
    Operation(
        "replace_task",
        "PUT",
        f"{TASKS}/{{task_id}}",
        200,
        WRITE,
        body=full_task,
        effect=lambda defaults, sent: {**defaults, **sent},
    ),
    Operation(
        "update_task",
        "PATCH",
        f"{TASKS}/{{task_id}}",
        200,
        WRITE,
        body=lambda: {"title": "Changed", "completed": True},
        effect=lambda _, sent: sent,
    ),
    Operation(
        "delete_task",
        "DELETE",
        f"{TASKS}/{{task_id}}",
        204,
        WRITE,
        effect=lambda *_: {"deleted_at": ...},
    ),
    Operation(
        "restore_task",
        "POST",
        f"{TASKS}/{{task_id}}/restore",
        200,
        WRITE,
        takes_deleted=True,
        statuses=frozenset({409}),
    ),
    Operation("export_account", "GET", f"{ACCOUNT}/export", 200, "account:export", tagged=False),
    Operation("erase_account", "DELETE", ACCOUNT, 204, "account:delete", tagged=False),
)

ON_TASKS = tuple(each for each in OPERATIONS if each.on_tasks)
ON_ONE_TASK = tuple(each for each in OPERATIONS if each.on_one_task)
RESTORE = next(each for each in OPERATIONS if each.takes_deleted)
CHANGING_ONE_TASK = tuple(each for each in ON_ONE_TASK if each.scope == WRITE and not each.takes_deleted)


def each(operations: tuple[Operation, ...] = OPERATIONS) -> pytest.MarkDecorator:
    """Runs a test with the parameter `operation` for each of these."""
    return pytest.mark.parametrize("operation", operations, ids=[each.name for each in operations])


def methods_of(path: str) -> list[str]:
    """All methods of a path template, HEAD included, sorted."""
    methods = {each.method for each in OPERATIONS if each.path == path}
    return sorted(methods | {"HEAD"} if "GET" in methods else methods)
