"""What requests leave in the log: nothing that was in them."""

import logging

import pytest

from logs import JsonFormatter
from tests.support import SECRET, TASKS, Caller, client_as


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
    # The test's own client logs its requests as well.
    records = [record for record in caplog.records if not record.name.startswith("http")]
    logged = "\n".join(map(JsonFormatter().format, records))
    assert "access" in logged
    for secret in ("mark", SECRET, str(owner.token), str(stale.token)):
        assert secret not in logged
