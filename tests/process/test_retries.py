"""A create that is sent many times at once, while a worker process dies."""

import os
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import URL

from tests.environment import Sql
from tests.process.service import Service, running_service, service_environment
from tests.support import SECRET, TASKS, wait_until
from tools.tokens import mint

REQUESTS = 50
WAITING = """
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def workers(service: Service) -> list[int]:
    pid = service.process.pid
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.spec("tasks.create.key", "tasks.durable", "tasks.concurrent")
def test_many_requests_and_a_killed_worker_create_one_task(
    database_url: URL, sql: Sql, tmp_path: Path
) -> None:
    """The requests wait for a write lock when the worker dies, so that none has been answered."""
    user_id, key = f"retrying-{uuid.uuid4()}", str(uuid.uuid4())
    headers = {"Authorization": f"Bearer {mint(SECRET, user_id)}", "Idempotency-Key": key}
    environment = service_environment(database_url, WEB_CONCURRENCY="2", DB_POOL_TIMEOUT="30")

    def create(_: int) -> httpx2.Response:
        """As a client does it: again and again until there is a response."""
        while True:
            try:
                response = httpx2.post(url, json={"title": "x"}, headers=headers, timeout=30)
            except httpx2.TransportError:
                continue
            if response.status_code != 503:
                return response

    with (
        running_service(environment, tmp_path / "output") as service,
        ThreadPoolExecutor(REQUESTS) as threads,
    ):
        url = f"{service.client.base_url}".rstrip("/") + TASKS
        wait_until(lambda: len(workers(service)) == 2, "there are not two workers")
        holder = Sql(database_url)
        holder("BEGIN")
        holder("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", user_id)
        requests = [threads.submit(create, number) for number in range(REQUESTS)]
        wait_until(lambda: sql(WAITING) == [(2,)], "not both workers wait for the lock")
        os.kill(workers(service)[0], signal.SIGKILL)
        holder.close()
        responses = [request.result() for request in requests]
    assert {response.status_code for response in responses} == {201}
    assert len({response.content for response in responses}) == 1
    assert sql("SELECT count(*) FROM tasks WHERE user_id = %s", user_id) == [(1,)]
