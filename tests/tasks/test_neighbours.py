"""An operation on one task touches that task alone."""

from collections.abc import Callable

import pytest
from httpx2 import Response

from tests.factories import full_task, new_task
from tests.support import Caller

Operation = Callable[[Caller, str], Response]

OPERATIONS: dict[str, Operation] = {
    "replace": lambda owner, task: owner.put(task, full_task()),
    "update": lambda owner, task: owner.patch(task, {"completed": True}),
    "delete": lambda owner, task: owner.delete(task),
}


@pytest.mark.spec("tasks.replace.replaced", "tasks.update.merge", "tasks.delete.gone")
@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_the_users_other_tasks_stay_as_they_are(owner: Caller, operation: Operation) -> None:
    older, task, newer = (owner.create() for _ in range(3))
    assert operation(owner, task["id"]).status_code < 300
    assert owner.read(older["id"]) == older
    assert owner.read(newer["id"]) == newer


@pytest.mark.spec("tasks.create.created")
def test_one_request_makes_one_task(owner: Caller) -> None:
    created = owner.post(new_task()).json()
    assert owner.ids() == [created["id"]]
