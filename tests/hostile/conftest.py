"""One gunicorn per HTTP parser, and a check after each test that no other user was affected."""

import json
import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import URL

from tests.hostile.raw_http import Target, new_token
from tests.process.service import running_service, service_environment
from tests.support import ORIGIN, Caller, client_as

PARSERS = ["python"]
"""Add "fast" to try gunicorn_h1c; specs/decisions/0013-http-parser.md says what it needs."""


@pytest.fixture(scope="session", params=PARSERS)
def parser(request: pytest.FixtureRequest) -> str:
    """The value of gunicorn's setting `http_parser`."""
    return str(request.param)


@pytest.fixture(scope="session")
def target(parser: str, database_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    environment = service_environment(
        database_url, CORS_ORIGINS=ORIGIN, GUNICORN_CMD_ARGS=f"--http-parser {parser}"
    )
    with running_service(environment, tmp_path_factory.mktemp("hostile") / f"{parser}.log") as service:
        yield Target(service)


@pytest.fixture(scope="session")
def bystander(target: Target) -> Caller:
    """Another user, who has one task."""
    caller = client_as(target.service.client, f"bystander-{uuid.uuid4()}")
    caller.create(title="The bystander's task")
    return caller


@pytest.fixture
def owner_token() -> str:
    """The token of a user without tasks."""
    return new_token("owner")


@pytest.fixture(autouse=True)
def bystander_unaffected(target: Target, bystander: Caller) -> Iterator[None]:
    """After each test, fail if the bystander's tasks changed or an error was logged."""
    before = target.log().rfind("\n") + 1
    yield
    assert [task["title"] for task in bystander.get().json()] == ["The bystander's task"]
    assert_no_errors_logged(target.log()[before:])


def assert_no_errors_logged(log: str) -> None:
    """Every line is a JSON object at level INFO. Not `splitlines`: JSON may hold U+2028."""
    assert "Traceback" not in log
    for line in log.split("\n")[:-1]:
        entry = json.loads(line)
        assert entry["level"] == "INFO", entry
        assert entry.get("status") != 500, entry
