"""GET /api/tasks/{task_id}"""

import uuid

import pytest

from tests.operations import ID, ON_ONE_TASK, Operation, each
from tests.support import TASKS, Caller, assert_problem, error_locations

NOT_CANONICAL = [
    "1",
    "null",
    "019ab2f05b7e7cc398c4dc0c0c07398f",
    "{019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f}",
    "urn:uuid:019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f",
    "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398",
    "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398g",
    "٠19ab2f0-5b7e-7cc3-98c4-dc0c0c07398f",
    "%00",
    "019ab2f0-5b7e-7cc3-98c4-dc0c0c07398f%00",
    "%ff",
    "'; DROP TABLE tasks; --",
]


@pytest.mark.spec("tasks.get.found")
def test_it_answers_with_the_task(owner: Caller) -> None:
    task = owner.create()
    response = owner.get(f"{TASKS}/{task['id']}")
    assert (response.status_code, response.json()) == (200, task)


@pytest.mark.spec("tasks.id")
def test_ids_are_case_insensitive(owner: Caller) -> None:
    task = owner.create()
    assert owner.read(task["id"].upper()) == task


@pytest.mark.spec("tasks.id")
@each(ON_ONE_TASK)
@pytest.mark.parametrize("task_id", NOT_CANONICAL)
def test_it_rejects_non_canonical_ids(owner: Caller, operation: Operation, task_id: str) -> None:
    assert error_locations(operation.send(owner, task_id)) == {"task_id"}


@pytest.mark.spec("tasks.not-found")
@each(ON_ONE_TASK)
@pytest.mark.parametrize("task_id", [ID, str(uuid.UUID(int=0)), str(uuid.UUID(int=2**128 - 1))])
def test_a_task_that_does_not_exist_is_not_found(owner: Caller, operation: Operation, task_id: str) -> None:
    assert_problem(operation.send(owner, task_id), 404, "not-found")
