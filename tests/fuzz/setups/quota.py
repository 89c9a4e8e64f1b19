"""A set-up in which a user can have few tasks."""

from tests.fuzz.lab import Lab, set_up
from tests.fuzz.prober import JSON, Options
from tests.fuzz.probes.batch import BATCH, request_of, results_of
from tests.operations import ID, RESTORE
from tests.support import TASKS

QUOTA = 2


@set_up("batch.quota", "batch.atomic", at_least=6)
def a_batch_that_exceeds_the_quota(lab: Lab) -> None:
    create, nothing = {"op": "create", "task": {"title": "New"}}, {"op": "delete", "id": ID}
    with lab.service(MAX_TASKS_PER_USER=str(QUOTA)) as prober:
        user = lab.user()
        too_many = request_of(user, *[create] * (QUOTA + 1), atomic=True)
        prober.refuse(409, "batch-failed", "POST", BATCH, **too_many)
        _, found = results_of(prober, user, nothing, *[create] * (QUOTA + 1))
        statuses = [each["status"] for each in found]
        prober.expect(statuses == [404, *[201] * QUOTA, 409], f"the statuses are {statuses}")
        tasks = [each["task"]["id"] for each in found if "task" in each]
        delete = {"op": "delete", "id": tasks[0]}
        for operations in ((create, delete), ({**delete, "id": tasks[1]}, create)):
            prober.accept(200, "POST", BATCH, **request_of(user, *operations, atomic=True))
        prober.refuse(409, "batch-failed", "POST", BATCH, **request_of(user, create, atomic=True))
        restore = {"op": "restore", "id": tasks[0]}
        prober.refuse(409, "batch-failed", "POST", BATCH, **request_of(user, restore, atomic=True))


@set_up("tasks.create.quota", "tasks.restore.quota", at_least=2 * QUOTA + 3)
def a_user_with_as_many_tasks_as_allowed(lab: Lab) -> None:
    with lab.service(MAX_TASKS_PER_USER=str(QUOTA)) as prober:
        user = lab.user()
        request: Options = {"token": user, "content": b'{"title": "New"}', "headers": JSON}
        for _ in range(QUOTA):
            task = prober.accept(201, "POST", TASKS, **request).json()["id"]
        prober.refuse(409, "quota-reached", "POST", TASKS, **request)
        prober.accept(204, "DELETE", f"{TASKS}/{task}", token=user)
        prober.accept(201, "POST", TASKS, **request)
        prober.refuse(409, "quota-reached", "POST", TASKS, **request)
        prober.refuse(409, "quota-reached", "POST", RESTORE.url(task), token=user)
        of_another: Options = {**request, "token": lab.user()}
        prober.accept(201, "POST", TASKS, **of_another)
