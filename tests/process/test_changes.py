"""Clients that follow the changes while others write, worker processes die, and the trash is purged."""

import os
import random
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import httpx2
import pytest
from httpx2 import Response
from sqlalchemy import URL

from tests.environment import Sql
from tests.factories import new_task
from tests.process.service import running_service, service_environment
from tests.process.test_retries import workers
from tests.support import TASKS, Caller, client_as, wait_until
from tests.tasks.copy import Copy, live_tasks, purge_trash

USERS, WRITERS, FOLLOWERS, ROUNDS = 2, 3, 3, 40
KILLS = 3


class Patient(Caller):
    """Sends a request again until there is a response other than 503."""

    def request(self, method: str, path: str, **kwargs: Any) -> Response:
        while True:
            try:
                response = super().request(method, path, **kwargs)
            except httpx2.TransportError:
                continue
            if response.status_code != 503:
                return response


def write(caller: Caller, choice: random.Random) -> None:
    """Some of every kind of change; the outcome of one that is sent again is not known."""
    for number in range(ROUNDS):
        created = caller.post(new_task(id=str(uuid.UUID(int=choice.getrandbits(128)))))
        assert created.status_code in {200, 201, 409}
        [task, other, *_] = choice.sample(caller.ids("?limit=200"), k=2)
        assert caller.patch(task, {"title": f"t{number}"}).status_code in {200, 404}
        if number % 3 == 0:
            assert caller.delete(other).status_code in {204, 404}
        if number % 9 == 0:
            caller.request("POST", f"{TASKS}/{other}/restore")


def follow(caller: Caller, limit: int, written: Event) -> Copy:
    copy = Copy(caller, limit)
    copy.follow_until(written)
    return copy


@pytest.mark.spec("changes.complete", "changes.expired", "schema.feed.order")
def test_followers_have_every_task_whatever_happens(database_url: URL, tmp_path: Path, sql: Sql) -> None:
    environment = service_environment(database_url, WEB_CONCURRENCY="2", DB_POOL_TIMEOUT="30")
    written = Event()
    with (
        running_service(environment, tmp_path / "output") as service,
        ThreadPoolExecutor(USERS * (WRITERS + FOLLOWERS)) as threads,
    ):
        users = [client_as(service.client, f"followed-{uuid.uuid4()}") for _ in range(USERS)]
        callers = [Patient(each.client, each.user_id, each.token) for each in users]
        for caller in callers:
            caller.create()
            caller.create()
        following = [
            threads.submit(follow, caller, limit, written) for caller in callers for limit in (1, 7, 200)
        ]
        writing = [
            threads.submit(write, caller, random.Random(f"{caller.user_id}{number}"))
            for caller in callers
            for number in range(WRITERS)
        ]
        try:
            for _ in range(KILLS):
                wait_until(lambda: len(workers(service)) == 2, "there are not two workers")
                os.kill(workers(service)[0], signal.SIGKILL)
                for caller in callers:
                    purge_trash(sql, caller.user_id)
            for writer in writing:
                writer.result()
        finally:
            written.set()
        expected = {caller.user_id: live_tasks(caller) for caller in callers}
        for follower in following:
            copy = follower.result()
            assert copy.tasks == expected[copy.caller.user_id]
        for user_id, tasks in expected.items():
            assert len(tasks) > ROUNDS
            stored = sql("SELECT id::text FROM tasks WHERE user_id = %s AND deleted_at IS NULL", user_id)
            assert {task for (task,) in stored} == set(tasks)
