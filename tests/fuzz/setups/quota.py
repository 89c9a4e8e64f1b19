"""A set-up in which a user can have few tasks."""

from tests.fuzz.lab import Lab, set_up
from tests.fuzz.prober import JSON, Options
from tests.operations import RESTORE
from tests.support import TASKS

QUOTA = 2


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
