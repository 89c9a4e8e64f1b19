"""Logging of requests: no request data, and batched output."""

import asyncio
import io
import json
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from observability.logs import BATCH_LINES, BATCH_SECONDS, BatchHandler, JsonFormatter
from observability.request_context import RequestInfo, current_request
from tests.conftest import Serve
from tests.support import SECRET, TASKS, Caller, client_as
from web.middleware import RequestContextMiddleware


@pytest.mark.spec("process.logs.secrets")
def test_neither_a_token_nor_a_body_is_logged(owner: Caller, caplog: pytest.LogCaptureFixture) -> None:
    body = {"title": "mark-title", "description": "mark-description", "tags": ["mark-tag"]}
    stale = client_as(owner.client, owner.user_id, exp=1)
    with caplog.at_level(logging.DEBUG):
        task = owner.post(body).json()["id"]
        owner.put(task, body)
        owner.patch(task, body)
        owner.patch(task, {"title": "mark-wrong", "priority": "mark-priority"})
        owner.get(f"{TASKS}/{task}")
        owner.get(f"{TASKS}?mark=mark")
        owner.delete(task)
        stale.get()
    # The test client logs its requests as well.
    records = [record for record in caplog.records if not record.name.startswith("http")]
    logged = "\n".join(map(JsonFormatter().format, records))
    assert "access" in logged
    for secret in ("mark", SECRET, str(owner.token), str(stale.token)):
        assert secret not in logged


@pytest.mark.spec("process.logs.ascii")
def test_a_user_id_cannot_disguise_a_log_line(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    subject = "eve\u202e\u2066\u200b\u2028-\u0430dmin"
    with caplog.at_level(logging.INFO):
        assert client_as(client, subject).get().status_code == 200
    [record] = [record for record in caplog.records if record.name == "access"]
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert json.loads(line)["user_id"] == subject


@pytest.mark.spec("process.logs")
def test_a_rejected_request_is_logged_with_its_user(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caller = client_as(serve(rate_limit_requests="1/minute"), f"logged-{uuid.uuid4()}", scope="openid")
    with caplog.at_level(logging.INFO):
        assert [caller.get().status_code for _ in range(2)] == [403, 429]
    users = [record.__dict__["user_id"] for record in caplog.records if record.name == "access"]
    assert users == [caller.user_id] * 2


@pytest.mark.spec("process.logs")
def test_a_request_whose_client_went_away_has_no_status(caplog: pytest.LogCaptureFixture) -> None:
    """gunicorn cancels it; there was no answer yet."""

    async def wait(*_: object) -> Any:
        await asyncio.Event().wait()

    async def scenario() -> None:
        scope = {"type": "http", "method": "GET", "path": TASKS, "query_string": b"", "headers": []}
        request = asyncio.create_task(RequestContextMiddleware(wait, ())(scope, wait, wait))
        await asyncio.sleep(0)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    [record] = [record for record in caplog.records if record.name == "access"]
    line = json.loads(JsonFormatter().format(record))
    assert line["method"] == "GET"
    assert "status" not in line


class Output(io.StringIO):
    """A stream that records each write and sets an event."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.written = asyncio.Event()

    def write(self, text: str) -> int:
        self.writes.append(text)
        self.written.set()
        return len(text)


@pytest.fixture
def output() -> Iterator[Output]:
    output = Output()
    handler = BatchHandler(output)
    log.addHandler(handler)
    yield output
    log.removeHandler(handler)


log = logging.getLogger("batch")
log.setLevel(logging.INFO)


@pytest.mark.spec("process.logs.prompt")
def test_lines_are_written_in_batches(output: Output) -> None:
    async def scenario() -> None:
        assert BATCH_SECONDS <= 0.05
        log.info("one")
        log.info("two")
        assert output.writes == []
        await asyncio.wait_for(output.written.wait(), 2)
        assert output.writes == ["one\ntwo\n"]
        output.written.clear()
        log.info("three")
        await asyncio.wait_for(output.written.wait(), 2)
        assert output.writes == ["one\ntwo\n", "three\n"]

    asyncio.run(scenario())


@pytest.mark.spec("process.logs")
def test_batched_lines_keep_their_own_request_ids(output: Output) -> None:
    log.handlers[0].setFormatter(JsonFormatter())

    async def request(name: str) -> None:
        current_request.set(RequestInfo(name))
        log.info("done")

    async def scenario() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in ("first", "second", "third"):
                tasks.create_task(request(name))
        await asyncio.wait_for(output.written.wait(), 10)

    asyncio.run(scenario())
    [lines] = output.writes
    assert [json.loads(line)["request_id"] for line in lines.splitlines()] == ["first", "second", "third"]


@pytest.mark.spec("process.logs.prompt")
def test_a_warning_flushes_the_batch(output: Output) -> None:
    async def scenario() -> None:
        log.info("one")
        log.warning("two")
        assert output.writes == ["one\ntwo\n"]

    asyncio.run(scenario())


@pytest.mark.spec("process.logs.prompt")
def test_lines_outside_an_event_loop_are_written_immediately(output: Output) -> None:
    log.info("one")
    assert output.writes == ["one\n"]


@pytest.mark.spec("process.logs.prompt")
def test_a_full_batch_is_written_immediately(output: Output) -> None:
    async def scenario() -> None:
        for number in range(BATCH_LINES):
            log.info("%s", number)
        assert output.writes[0].endswith(f"\n{BATCH_LINES - 1}\n")

    asyncio.run(scenario())
