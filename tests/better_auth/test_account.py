"""People who delete their account at Better Auth, whose hook deletes their tasks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from tests.better_auth.server import PASSWORD, BetterAuth, Person
from tests.environment import Sql
from tests.process.service import Service, running_service, service_environment
from tests.support import Caller
from tests.tasks.test_account import rows_of


@pytest.fixture
def service(auth: BetterAuth, database_url: URL, tmp_path: Path) -> Iterator[Service]:
    """The API as Better Auth reaches it."""
    keys = {name.upper(): str(value or "") for name, value in auth.key_source().items()}
    with running_service(service_environment(database_url, **keys), tmp_path / "output") as service:
        yield service


def delete_user(person: Person) -> int:
    return person.browser.post("/delete-user", json={"password": PASSWORD}).status_code


@pytest.mark.spec("account.erase", "auth.sub")
def test_the_tasks_of_a_deleted_user_are_deleted(
    auth: BetterAuth, service: Service, ann: Person, bob: Person, sql: Sql
) -> None:
    anns, bobs = (Caller(service.client, each.id, each.token()) for each in (ann, bob))
    anns.create()
    task = bobs.create()
    auth.deploy(tasksApi=str(service.client.base_url).rstrip("/"))
    assert delete_user(ann) == 200
    assert set(rows_of(sql, ann.id).values()) == {0}
    assert bobs.get().json() == [task]
    assert ann.browser.get("/get-session").json() is None


def test_a_user_whose_tasks_cannot_be_deleted_is_not_deleted(
    auth: BetterAuth, service: Service, ann: Person
) -> None:
    caller = Caller(service.client, ann.id, ann.token())
    task = caller.create()
    auth.deploy(tasksApi="http://127.0.0.1:1")
    assert delete_user(ann) == 503
    ann.sign_in()
    assert caller.get().json() == [task]
