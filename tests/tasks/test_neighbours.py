"""An operation on one task touches that task alone."""

import pytest

from tests.factories import new_task
from tests.operations import CHANGING_ONE_TASK, Operation, each
from tests.support import Caller


@pytest.mark.spec("tasks.replace.replaced", "tasks.update.merge", "tasks.delete.gone")
@each(CHANGING_ONE_TASK)
def test_the_users_other_tasks_do_not_change(owner: Caller, operation: Operation) -> None:
    older, task, newer = (owner.create() for _ in range(3))
    assert operation.send(owner, task["id"]).status_code == operation.status
    assert owner.read(older["id"]) == older
    assert owner.read(newer["id"]) == newer


@pytest.mark.spec("tasks.create.created")
def test_one_request_creates_one_task(owner: Caller) -> None:
    created = owner.post(new_task()).json()
    assert owner.ids() == [created["id"]]
