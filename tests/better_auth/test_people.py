"""User journeys: sign up, use the API, sign out and sign in again."""

import jwt
import pytest
from starlette.testclient import TestClient

from tests.better_auth.server import BetterAuth, Person
from tests.support import TASKS, assert_problem, assert_unauthorized

ALGORITHMS = {"eddsa": "EdDSA", "es256": "ES256", "hs256": "HS256"}


@pytest.mark.spec("auth.hs256", "auth.jwks.algorithms", "auth.jwks.issuer-default")
def test_the_api_accepts_tokens_of_better_auth(auth: BetterAuth, api: TestClient, ann: Person) -> None:
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
def test_users_see_only_their_own_tasks(api: TestClient, ann: Person, bob: Person) -> None:
    anns, bobs = ann.on(api), bob.on(api)
    task = anns.create()
    other = bobs.create()
    assert anns.ids() == [task["id"]]
    assert bobs.ids() == [other["id"]]
    assert_problem(bobs.get(f"{TASKS}/{task['id']}"), 404, "not-found")
    assert_problem(bobs.delete(task["id"]), 404, "not-found")
    assert anns.read(task["id"]) == task


@pytest.mark.spec("auth.sub")
def test_a_user_finds_their_tasks_after_signing_in_again(api: TestClient, ann: Person) -> None:
    task = ann.on(api).create()
    ann.sign_out()
    ann.sign_in()
    assert ann.on(api).ids() == [task["id"]]


def test_the_token_in_the_session_response_is_accepted(api: TestClient, ann: Person) -> None:
    session = ann.browser.get("/get-session")
    assert ann.on(api, session.headers["set-auth-jwt"]).ids() == []


@pytest.mark.spec("auth.exp")
def test_a_fresh_token_is_accepted_after_one_has_expired(
    auth: BetterAuth, api: TestClient, ann: Person
) -> None:
    auth.deploy(expirationTime="-1 hour")
    assert_unauthorized(ann.on(api).get(), "The token has expired")
    auth.deploy()
    assert ann.on(api).get().status_code == 200


@pytest.mark.spec("auth.signed-out")
def test_tokens_outlive_the_session(api: TestClient, ann: Person) -> None:
    token = ann.token()
    ann.sign_out()
    assert ann.browser.get("/token").status_code == 401
    assert ann.on(api, token).get().status_code == 200
