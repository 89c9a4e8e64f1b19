"""Rotation of keys and secrets while users are signed in."""

import time

import jwt
import pytest
from starlette.testclient import TestClient

from auth import keys
from tests.better_auth.conftest import only_with
from tests.better_auth.server import SECRET, BetterAuth, Person
from tests.conftest import Serve
from tests.support import assert_unauthorized

NEW_SECRET = "the secret that signs from now on"


def kid(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


@only_with["published keys"]
@pytest.mark.spec("auth.jwks.rotation", "auth.jwks.unknown-kid", "auth.jwks.refresh")
def test_signing_keys_can_be_rotated(
    auth: BetterAuth, api: TestClient, ann: Person, bob: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = ann.on(api, old := ann.token()).create()
    bobs_old = bob.token()
    auth.expire_keys()
    assert kid(new := ann.token()) != kid(old) == kid(bobs_old)
    monkeypatch.setattr(keys, "clock", lambda: time.monotonic() + keys.REFETCH_SECONDS)
    assert ann.on(api, new).ids() == [task["id"]]
    assert ann.on(api, old).ids() == [task["id"]]
    auth.deploy(gracePeriod=0)
    monkeypatch.setattr(keys, "clock", lambda: time.monotonic() + 2 * keys.FRESH_SECONDS)
    assert_unauthorized(bob.on(api, bobs_old).get(), "The signing key is unknown")
    assert ann.on(api, new).ids() == [task["id"]]


@only_with["shared secret"]
@pytest.mark.spec("auth.secret-rotation")
def test_the_shared_secret_can_be_rotated(auth: BetterAuth, serve: Serve, ann: Person) -> None:
    """Add the new secret to the API, sign with it, then remove the old one from the API."""
    before, both, after = (
        serve(better_auth_secret=secret, jwt_audience=auth.url)
        for secret in (SECRET, f"{SECRET},{NEW_SECRET}", NEW_SECRET)
    )
    task = ann.on(before, old := ann.token()).create()
    auth.deploy(secret=NEW_SECRET)
    ann.sign_in()
    new = ann.token()
    assert_unauthorized(ann.on(before, new).get(), "The signature is invalid")
    for token in (old, new):
        assert ann.on(both, token).ids() == [task["id"]]
    assert ann.on(after, new).ids() == [task["id"]]
    assert_unauthorized(ann.on(after, old).get(), "The signature is invalid")
