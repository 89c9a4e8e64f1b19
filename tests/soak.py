"""`make soak`: writers and followers for a long time, while processes die and the trash is purged.

Every follower keeps a copy as docs/sync.md says. In the end each copy must equal the list and the
database.
"""

import logging
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
from alembic import command
from httpx2 import Response

from tests.environment import Sql, alembic, find_program, new_database
from tests.factories import new_task
from tests.not_run import POOLER
from tests.pooler import pooler
from tests.process.service import Service, running_service, service_environment
from tests.process.test_retries import workers
from tests.support import TASKS, Caller, client_as, wait_until
from tests.tasks.copy import Copy, live_tasks, purge_trash
from tools import postgres

KILL_SECONDS = 5
"""Between the death of one worker and that of the next."""
POOL = 60
"""How many tasks of a user are changed again and again."""


class Patient(Caller):
    """Sends a request again until there is a response other than 429 and 503."""

    def request(self, method: str, path: str, **kwargs: Any) -> Response:
        while True:
            try:
                response = super().request(method, path, **kwargs)
            except httpx2.TransportError:
                continue
            if response.status_code not in {429, 503}:
                return response


@dataclass(frozen=True)
class Report:
    writes: int
    pages: int
    restarts: int
    kills: int
    differences: int

    def __str__(self) -> str:
        return (
            "| writes | pages | restarts of a copy | killed workers | differences |\n"
            "| ---: | ---: | ---: | ---: | ---: |\n"
            f"| {self.writes} | {self.pages} | {self.restarts} | {self.kills} | {self.differences} |"
        )


@dataclass
class Soak:
    """One run against a service with two workers."""

    service: Service
    sql: Sql
    users: int
    writers: int
    """In all, like the followers."""
    followers: int
    written: Event

    def run(self, seconds: float) -> Report:
        signed_in = [client_as(self.service.client, f"soak-{uuid.uuid4()}") for _ in range(self.users)]
        callers = [Patient(each.client, each.user_id, each.token) for each in signed_in]
        ends_at = time.monotonic() + seconds
        with ThreadPoolExecutor(self.writers + self.followers) as threads:
            following = [
                threads.submit(self._follow, callers[number % self.users], number)
                for number in range(self.followers)
            ]
            writing = [
                threads.submit(write, callers[number % self.users], number, ends_at)
                for number in range(self.writers)
            ]
            try:
                kills = self._disturb(callers, writing)
                writes = sum(each.result() for each in writing)
            finally:
                self.written.set()
            copies = [each.result() for each in following]
        return self._report(callers, copies, writes, kills)

    def _follow(self, caller: Caller, number: int) -> Copy:
        copy = Copy(caller, limit=(1, 7, 200)[number % 3], wait=number % 2, most_restarts=10_000)
        copy.follow_until(self.written)
        return copy

    def _disturb(self, callers: Sequence[Caller], writing: Sequence[Future[int]]) -> int:
        """Kill a worker and purge the trash now and then, until everything is written."""
        kills = 0
        while not all(each.done() for each in writing):
            again_at = time.monotonic() + KILL_SECONDS
            wait_until(lambda: len(workers(self.service)) == 2, "there are not two workers")
            os.kill(workers(self.service)[0], signal.SIGKILL)
            kills += 1
            for caller in callers:
                purge_trash(self.sql, caller.user_id)
            while time.monotonic() < again_at and not all(each.done() for each in writing):
                time.sleep(0.1)
        return kills

    def _report(self, callers: Sequence[Caller], copies: Sequence[Copy], writes: int, kills: int) -> Report:
        listed = {caller.user_id: live_tasks(caller) for caller in callers}
        differences = sum(copy.tasks != listed[copy.caller.user_id] for copy in copies)
        for user_id, tasks in listed.items():
            query = "SELECT id::text FROM tasks WHERE user_id = %s AND deleted_at IS NULL"
            differences += {task for (task,) in self.sql(query, user_id)} != set(tasks)
        pages = sum(copy.pages for copy in copies)
        return Report(writes, pages, sum(copy.restarts for copy in copies), kills, differences)


def write(caller: Caller, seed: int, ends_at: float) -> int:
    """Some of every kind of change. The outcome of one that is sent again is not known."""
    choice, sent = random.Random(f"{caller.user_id}{seed}"), 0
    while time.monotonic() < ends_at:
        operations = [operation(choice) for _ in range(choice.choice((1, 1, 1, 5, 20)))]
        distinct = {each["id"]: each for each in operations}
        body = {"operations": [*distinct.values()], "atomic": choice.random() < 0.2}
        keyed = {"Idempotency-Key": str(uuid.UUID(int=choice.getrandbits(128)))}
        if len(distinct) > 1:
            response = caller.request("POST", f"{TASKS}/batch", json=body, headers=keyed)
            assert response.status_code in {200, 409}, response.text
        else:
            alone(caller, operations[0])
        sent += 1
    return sent


def operation(choice: random.Random) -> dict[str, Any]:
    task = str(uuid.UUID(int=choice.randrange(POOL)))
    kind = choice.choice(("create", "update", "update", "delete", "restore"))
    found: dict[str, Any] = {"op": kind, "id": task}
    if kind == "create":
        found["task"] = new_task()
    if kind == "update":
        found["task"] = {"title": f"t{choice.random()}"}
    return found


def alone(caller: Caller, given: dict[str, Any]) -> None:
    """The operation as a request of its own."""
    task = given["id"]
    if given["op"] == "create":
        response = caller.post({**given["task"], "id": task})
    elif given["op"] == "update":
        response = caller.patch(task, given["task"])
    elif given["op"] == "delete":
        response = caller.delete(task)
    else:
        response = caller.request("POST", f"{TASKS}/{task}/restore")
    assert response.status_code in {200, 201, 204, 404, 409}, response.text


def main() -> int:
    """Return 1 if a copy differs, else 0."""
    seconds = float(os.environ.get("SECONDS", "600"))
    logging.disable(logging.INFO)
    with ExitStack() as stack:
        server = stack.enter_context(postgres.temporary_server())
        url = stack.enter_context(new_database(server))
        alembic(url, command.upgrade, "head")
        program = find_program(POOLER)
        if program is None:
            print("Without a pooler: pgbouncer is not installed.", file=sys.stderr)
        else:
            pooled = stack.enter_context(pooler(program, server))
            url = url.set(host=pooled.host, port=pooled.port)
        sql = Sql(url.set(host=server.host, port=server.port))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        environment = service_environment(url, WEB_CONCURRENCY="2", DB_POOL_TIMEOUT="30")
        service = stack.enter_context(running_service(environment, folder / "output"))
        report = Soak(service, sql, users=4, writers=16, followers=16, written=Event()).run(seconds)
        sql.close()
    print(report)
    return int(report.differences > 0)


if __name__ == "__main__":
    sys.exit(main())
