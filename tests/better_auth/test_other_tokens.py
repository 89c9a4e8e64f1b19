"""Other tokens that Better Auth signs, some with the same keys. The API must reject them."""

import jwt
import pytest
from starlette.testclient import TestClient

from tests.better_auth.conftest import only_with
from tests.better_auth.server import BetterAuth, Person
from tests.conftest import Serve
from tests.support import assert_unauthorized

NO_SUBJECT = "A required claim is missing"
UNKNOWN_KEY = "The signing key is unknown"


@pytest.fixture
def apis(serve: Serve, auth: BetterAuth, api: TestClient) -> list[TestClient]:
    """Two APIs. The second one checks no audience, so with a shared secret only `sub` identifies tokens."""
    return [api, serve(**{**auth.key_source(), "jwt_audience": None})]


def assert_rejected_everywhere(apis: list[TestClient], auth: BetterAuth, person: Person, token: str) -> None:
    """Expect rejection of a token that is signed with Better Auth's secret and has no subject."""
    for each in apis:
        refusal = NO_SUBJECT if auth.configuration == "hs256" else UNKNOWN_KEY
        assert_unauthorized(person.on(each, token).get(), refusal)


def cached_session(person: Person) -> str:
    """The session cookie of `session.cookieCache` with the strategy "jwt"."""
    assert person.browser.get("/get-session").json()["user"]["id"] == person.id
    return person.browser.cookies["better-auth.session_data"]


@pytest.mark.spec("auth.email-link")
def test_the_token_of_a_verification_link_is_rejected(
    auth: BetterAuth, apis: list[TestClient], ann: Person
) -> None:
    token = auth.mailed_token(ann.email)
    assert_rejected_everywhere(apis, auth, ann, token)
    assert ann.browser.get("/verify-email", params={"token": token}).json()["status"] is True


@pytest.mark.spec("auth.session-cache")
def test_a_session_cache_signed_with_the_secret_is_rejected(
    auth: BetterAuth, apis: list[TestClient], ann: Person
) -> None:
    auth.deploy(cookieCache="secret")
    token = cached_session(ann)
    assert jwt.get_unverified_header(token)["alg"] == "HS256"
    assert_rejected_everywhere(apis, auth, ann, token)


@only_with["published keys"]
@pytest.mark.spec("auth.session-cache")
def test_a_session_cache_signed_with_the_published_keys_is_rejected(
    auth: BetterAuth, api: TestClient, ann: Person
) -> None:
    """Signed with the same key, with the user as `sub`; only the audience differs."""
    auth.deploy(cookieCache="keys")
    token = cached_session(ann)
    assert jwt.get_unverified_header(token)["kid"] == jwt.get_unverified_header(ann.token())["kid"]
    assert jwt.decode(token, options={"verify_signature": False})["sub"] == ann.id
    assert_unauthorized(ann.on(api, token).get(), "The token is for another audience")
