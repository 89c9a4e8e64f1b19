"""What people do: sign up, use the API with their tokens, sign out, come back."""

import jwt
import pytest
from starlette.testclient import TestClient

from tests.better_auth.server import BetterAuth, Person
from tests.support import TASKS, assert_problem, assert_unauthorized

ALGORITHMS = {"eddsa": "EdDSA", "es256": "ES256", "hs256": "HS256"}


@pytest.mark.spec("auth.hs256", "auth.jwks.algorithms", "auth.jwks.issuer-default")
def test_a_token_of_better_auth_opens_the_api(auth: BetterAuth, api: TestClient, ann: Person) -> None:
    token = ann.token()
    assert jwt.get_unverified_header(token)["alg"] == ALGORITHMS[auth.configuration]
    caller = ann.on(api, token)
    task = caller.create(title="Water the plants")
    assert task["user_id"] == ann.id
    assert caller.patch(task["id"], {"completed": True}).json()["completed"] is True
    assert caller.put(task["id"], {"title": "Feed the cat"}).json()["title"] == "Feed the cat"
    assert caller.ids() == [task["id"]]
    assert caller.delete(task["id"]).status_code == 204
    assert caller.ids() == []


@pytest.mark.spec("tasks.isolation", "tasks.list.own")
def test_two_people_see_their_own_tasks_alone(api: TestClient, ann: Person, bob: Person) -> None:
    anns, bobs = ann.on(api), bob.on(api)
    task = anns.create()
    other = bobs.create()
    assert anns.ids() == [task["id"]]
    assert bobs.ids() == [other["id"]]
    assert_problem(bobs.get(f"{TASKS}/{task['id']}"), 404, "not-found")
    assert_problem(bobs.delete(task["id"]), 404, "not-found")
    assert anns.read(task["id"]) == task


@pytest.mark.spec("auth.sub")
def test_who_comes_back_finds_their_tasks(api: TestClient, ann: Person) -> None:
    task = ann.on(api).create()
    ann.sign_out()
    ann.sign_in()
    assert ann.on(api).ids() == [task["id"]]


def test_the_token_that_comes_with_the_session_is_one_too(api: TestClient, ann: Person) -> None:
    session = ann.browser.get("/get-session")
    assert ann.on(api, session.headers["set-auth-jwt"]).ids() == []


@pytest.mark.spec("auth.exp")
def test_an_expired_token_is_refused_and_the_next_one_is_not(
    auth: BetterAuth, api: TestClient, ann: Person
) -> None:
    auth.deploy(expirationTime="-1 hour")
    assert_unauthorized(ann.on(api).get(), "The token has expired")
    auth.deploy()
    assert ann.on(api).get().status_code == 200


@pytest.mark.spec("auth.signed-out")
def test_signing_out_ends_the_session_but_no_token(api: TestClient, ann: Person) -> None:
    token = ann.token()
    ann.sign_out()
    assert ann.browser.get("/token").status_code == 401
    assert ann.on(api, token).get().status_code == 200
