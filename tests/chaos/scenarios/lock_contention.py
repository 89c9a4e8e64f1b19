"""Lock contention: occupies every database connection of the service with a waiting statement."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.chaos.runner import Run
from tests.chaos.servers import MAX_CONNECTIONS
from tests.chaos.workload import Connection
from tests.environment import Sql
from tests.support import TASKS, wait_until

WAITING_FOR_LOCK = "wait_event_type = 'Lock'"


@contextmanager
def all_connections_waiting(run: Run) -> Iterator[Sql]:
    """Every connection of the service waits for a row lock of the yielded session.

    Sends four requests per connection, because their distribution over workers is random.
    """
    name = run.environment.new_name("bait")
    task = (
        Connection(run.load.target, name, keep_alive=False).send("POST", TASKS, {"title": "bait"}).body["id"]
    )
    with run.sql() as sql:
        sql("BEGIN")
        sql("SELECT FROM tasks WHERE id = %s FOR UPDATE", task)
        for _ in range(4 * MAX_CONNECTIONS):
            threading.Thread(target=_update_task, args=(run, name, task), daemon=True).start()
        try:
            wait_until(
                lambda: len(run.postgres.backends(WAITING_FOR_LOCK)) >= MAX_CONNECTIONS,
                "some connections are free",
            )
            yield sql
        finally:
            sql("ROLLBACK")


def _update_task(run: Run, name: str, task: str) -> None:
    Connection(run.load.target, name, keep_alive=False).send("PATCH", f"{TASKS}/{task}", {"title": "bait"})
