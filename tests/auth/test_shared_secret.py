"""Tokens signed with the shared secret (HS256)."""

import base64
import hashlib
import hmac
import json
import time
import uuid
from datetime import UTC, datetime

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from fastapi import FastAPI
from starlette.testclient import TestClient

from auth.keys import Key
from auth.tokens import CACHE_SIZE, TokenCache, User
from tests.conftest import Serve
from tests.support import SECRET, TASKS, Caller, assert_unauthorized
from tools.tokens import mint

BAD_SIGNATURE = "The signature is invalid"
MISSING_CLAIM = "A required claim is missing"
BAD_SUBJECT = "The subject is invalid"

NOW = int(time.time())


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(header: object, payload: object, secret: bytes = SECRET.encode()) -> str:
    """Sign arbitrary headers and payloads, which JWT libraries would refuse."""
    parts = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    signed = ".".join(base64url(part.encode("utf-8", "surrogatepass")) for part in parts)
    return f"{signed}.{base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def token_with(**changes: object) -> str:
    """A valid token with changed claims; None removes a claim."""
    claims = {"sub": "somebody", "iat": NOW, "exp": NOW + 3600, **changes}
    kept = {name: value for name, value in claims.items() if value is not None}
    return sign({"alg": "HS256", "typ": "JWT"}, kept)


def status_for(client: TestClient, token: str) -> int:
    return Caller(client, "", token).get().status_code


def assert_token_refused(client: TestClient, token: str, description: str) -> None:
    assert_unauthorized(Caller(client, "", token).get(), description)


@pytest.mark.spec("auth.hs256", "auth.sub")
def test_the_subject_of_a_valid_token_is_the_user(client: TestClient) -> None:
    user_id = f"user-{uuid.uuid4()}"
    task = Caller(client, user_id, token_with(sub=user_id)).create()
    assert task["user_id"] == user_id


@pytest.mark.spec("auth.algorithm")
@pytest.mark.parametrize(
    "algorithm",
    ["none", "None", "NONE", "nOnE", "HS384", "HS512", "RS256", "EdDSA", "", "hs256", None, 5, ["HS256"]],
)
def test_another_algorithm_is_refused(client: TestClient, algorithm: object) -> None:
    claims = {"sub": "somebody", "exp": NOW + 3600}
    signed = sign({"alg": algorithm, "typ": "JWT"}, claims)
    unsigned = signed.rsplit(".", 1)[0] + "."
    assert status_for(client, signed) == 401
    assert status_for(client, unsigned) == 401


@pytest.mark.spec("auth.algorithm")
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_a_properly_signed_token_of_another_algorithm_is_refused(client: TestClient, algorithm: str) -> None:
    token = jwt.encode({"sub": "somebody", "exp": NOW + 3600}, SECRET + "x" * 40, algorithm)
    assert_token_refused(client, token, "The algorithm is not accepted")


@pytest.mark.spec("auth.hs256")
def test_another_secret_is_refused(client: TestClient) -> None:
    for secret in (
        "another secret that is long enough",
        SECRET + " ",
        SECRET.upper(),
        base64url(SECRET.encode()),
    ):
        assert_token_refused(client, mint(secret, "somebody"), BAD_SIGNATURE)


@pytest.mark.spec("auth.hs256")
def test_the_key_is_the_secret_in_utf8(serve: Serve) -> None:
    secret = "schlüssel für die prüfung ✓ und mehr"
    assert status_for(serve(better_auth_secret=secret), mint(secret, "somebody")) == 200


@pytest.mark.spec("auth.hs256")
def test_an_empty_key_is_refused(client: TestClient) -> None:
    assert_token_refused(
        client, sign({"alg": "HS256"}, {"sub": "somebody", "exp": NOW + 60}, b""), BAD_SIGNATURE
    )


@pytest.mark.spec("auth.hs256")
def test_a_changed_token_is_refused(client: TestClient) -> None:
    header, payload, signature = token_with().split(".")
    other = base64url(json.dumps({"sub": "somebody else", "exp": NOW + 3600}).encode())
    assert_token_refused(client, f"{header}.{other}.{signature}", BAD_SIGNATURE)
    assert_token_refused(client, f"{header}.{payload}.{signature[:-3]}", BAD_SIGNATURE)
    assert_token_refused(client, f"{header}.{payload}.AAAA", BAD_SIGNATURE)


@pytest.mark.spec("auth.secret-rotation")
def test_any_of_several_secrets_is_accepted(serve: Serve) -> None:
    old, new = "the old secret, no: that is split".replace(",", ";"), "the new secret that signs from now on"
    client = serve(better_auth_secret=f"{new},{old}")
    assert status_for(client, mint(new, "somebody")) == 200
    assert status_for(client, mint(old, "somebody")) == 200
    assert_token_refused(client, mint(SECRET, "somebody"), BAD_SIGNATURE)
    assert_token_refused(client, mint(f"{new},{old}", "somebody"), BAD_SIGNATURE)


@pytest.mark.spec("auth.secret-rotation")
def test_a_removed_secret_is_rejected(serve: Serve) -> None:
    assert_token_refused(serve(better_auth_secret="x" * 32), mint(SECRET, "somebody"), BAD_SIGNATURE)


@pytest.mark.spec("auth.exp")
@pytest.mark.parametrize("seconds", [29, 0, -5])
def test_a_token_is_accepted_within_the_leeway_after_expiry(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    set_clock(monkeypatch, NOW)
    assert status_for(client, token_with(exp=NOW - seconds)) == 200


@pytest.mark.spec("auth.exp")
@pytest.mark.parametrize("seconds", [30, 3600, 1_700_000_000])
def test_an_expired_token_is_rejected(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    set_clock(monkeypatch, NOW)
    assert_token_refused(client, token_with(exp=NOW - seconds), "The token has expired")


@pytest.mark.spec("auth.exp")
@pytest.mark.parametrize(
    "expiry", ["4102444800", True, 1e300, 10**30, 253_402_300_800, [4_102_444_800], {}, "", "soon"]
)
def test_it_rejects_an_expiry_that_is_not_a_timestamp(client: TestClient, expiry: object) -> None:
    assert status_for(client, token_with(exp=expiry)) == 401


@pytest.mark.spec("auth.exp")
@pytest.mark.parametrize("expiry", ["NaN", "Infinity", "-Infinity", "1e999", "-0"])
def test_it_rejects_an_expiry_that_is_not_a_number(client: TestClient, expiry: str) -> None:
    assert status_for(client, sign({"alg": "HS256"}, f'{{"sub": "somebody", "exp": {expiry}}}')) == 401


@pytest.mark.spec("auth.exp")
def test_it_needs_an_expiry(client: TestClient) -> None:
    assert_token_refused(client, token_with(exp=None), MISSING_CLAIM)


@pytest.mark.spec("auth.exp")
def test_an_expiry_may_have_fractional_seconds(client: TestClient) -> None:
    assert status_for(client, token_with(exp=NOW + 3600.5)) == 200


@pytest.mark.spec("auth.nbf")
@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_that_is_not_valid_yet_is_rejected(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, claim: str
) -> None:
    set_clock(monkeypatch, NOW)
    assert status_for(client, token_with(**{claim: NOW + 30})) == 200
    assert_token_refused(client, token_with(**{claim: NOW + 31}), "The token is not valid yet")
    assert status_for(client, token_with(**{claim: "later"})) == 401


@pytest.mark.spec("auth.sub")
@pytest.mark.parametrize(
    "subject", ["x" * 255, "a b", "00000000-0000-0000-0000-000000000000", "名前", "𝒯" * 255, " ", "0", "null"]
)
def test_any_text_may_be_a_subject(client: TestClient, subject: str) -> None:
    assert Caller(client, subject, token_with(sub=subject)).create()["user_id"] == subject


@pytest.mark.spec("auth.sub")
@pytest.mark.parametrize(
    "subject", ["", "x" * 256, "a\0b", "a\nb", "\x1f", "\x7f", "\x85", "a\ud800", "\udfff"]
)
def test_it_rejects_invalid_subjects(client: TestClient, subject: str) -> None:
    assert_token_refused(client, token_with(sub=subject), BAD_SUBJECT)


@pytest.mark.spec("auth.sub")
@pytest.mark.parametrize("subject", [1, 1.5, True, [], ["somebody"], {"id": "somebody"}])
def test_it_rejects_a_subject_that_is_not_a_string(client: TestClient, subject: object) -> None:
    assert status_for(client, token_with(sub=subject)) == 401


@pytest.mark.spec("auth.sub")
def test_it_needs_a_subject(client: TestClient) -> None:
    assert_token_refused(client, token_with(sub=None), MISSING_CLAIM)


@pytest.mark.spec("auth.email-link")
def test_an_email_verification_token_is_rejected(client: TestClient) -> None:
    """As `createEmailVerificationToken` of Better Auth signs it, with the same secret."""
    token = token_with(sub=None, email="ann@example.com", updateTo=None, userId="somebody", id="somebody")
    assert_token_refused(client, token, MISSING_CLAIM)


@pytest.mark.spec("auth.session-cache", "auth.audience")
def test_a_session_cache_token_is_rejected(client: TestClient, serve: Serve) -> None:
    token = token_with(aud="better-auth:session-cache")
    assert_token_refused(client, token, "The token is for another audience")
    assert_token_refused(
        serve(jwt_audience="https://app.example.com"), token, "The token is for another audience"
    )


@pytest.mark.spec("auth.audience")
def test_the_audience_must_be_the_one_that_is_set(serve: Serve) -> None:
    client = serve(jwt_audience="https://api.example.com")
    assert status_for(client, token_with(aud="https://api.example.com")) == 200
    assert status_for(client, token_with(aud=["https://x.example", "https://api.example.com"])) == 200
    for audience in ("https://x.example", "https://api.example.com/", ["x"], [], "", 5, None):
        assert status_for(client, token_with(aud=audience)) == 401


@pytest.mark.spec("auth.audience")
def test_an_audience_is_refused_when_none_is_set(client: TestClient) -> None:
    assert_token_refused(client, token_with(aud="https://x.example"), "The token is for another audience")


@pytest.mark.spec("auth.audience")
@pytest.mark.parametrize("audience", ["", [], {}, 0, False, None])
def test_an_empty_audience_is_rejected(client: TestClient, audience: object) -> None:
    claims = {"sub": "somebody", "exp": NOW + 3600, "aud": audience}
    assert status_for(client, sign({"alg": "HS256"}, claims)) == 401


@pytest.mark.spec("auth.issuer")
def test_the_issuer_must_be_the_one_that_is_set(serve: Serve) -> None:
    client = serve(jwt_issuer="https://app.example.com")
    assert status_for(client, token_with(iss="https://app.example.com")) == 200
    assert_token_refused(client, token_with(iss="https://x.example"), "The issuer is not accepted")
    assert_token_refused(client, token_with(), MISSING_CLAIM)
    assert status_for(client, token_with(iss=["https://app.example.com"])) == 401


@pytest.mark.spec("auth.issuer")
def test_any_issuer_is_accepted_when_none_is_set(client: TestClient) -> None:
    assert status_for(client, token_with(iss="https://x.example")) == 200


@pytest.mark.spec("auth.invalid")
@pytest.mark.parametrize(
    "payload", ["[]", "null", '"x"', "5", "", "{", '{"sub": "\\ud800", "exp": 9999999999}', "[" * 50_000]
)
def test_it_rejects_a_payload_that_is_not_an_object(client: TestClient, payload: str) -> None:
    assert status_for(client, sign({"alg": "HS256"}, payload)) == 401


@pytest.mark.spec("auth.invalid")
@pytest.mark.parametrize(
    "header",
    [
        "[]",
        "null",
        "{",
        "",
        '{"alg": "HS256", "kid": 5}',
        '{"alg": "HS256", "crit": ["x"], "x": 1}',
        '{"alg": "HS256", "b64": false}',
    ],
)
def test_it_rejects_malformed_and_unsupported_headers(client: TestClient, header: str) -> None:
    assert status_for(client, sign(header, {"sub": "somebody", "exp": NOW + 3600})) == 401


@pytest.mark.spec("auth.algorithm", "auth.hs256")
def test_a_token_with_its_own_key_is_refused(client: TestClient) -> None:
    """`jwk`, `jku` and `x5u` let a token bring the key that verifies it."""
    key = generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key()))
    headers = {"jwk": public, "jku": "http://127.0.0.1:1/jwks"}
    token = jwt.encode({"sub": "somebody", "exp": NOW + 3600}, pem, "RS256", headers=headers)
    assert_token_refused(client, token, "The algorithm is not accepted")
    spki = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert (
        status_for(client, sign({"alg": "HS256", "jwk": public}, {"sub": "x", "exp": NOW + 60}, spki)) == 401
    )


def set_clock(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """Stop the clock at this time; the token, its signature and its verification are real."""
    monkeypatch.setattr("auth.tokens.time.time", lambda: now)
    monkeypatch.setattr("jwt.api_jwt.datetime", _FixedClock(now))


@pytest.mark.spec("auth.cache")
def test_a_cached_token_still_expires(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = Caller(client, "", token_with(exp=NOW + 10, n=1))
    set_clock(monkeypatch, NOW)
    assert caller.get().status_code == 200
    set_clock(monkeypatch, NOW + 40)
    assert_unauthorized(caller.get(), "The token has expired")


@pytest.mark.spec("auth.cache")
@pytest.mark.parametrize(("seconds", "status"), [(59, 200), (60, 401)])
def test_verified_tokens_are_cached_for_a_minute(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, seconds: float, status: int
) -> None:
    """Replacing the key shows whether the cached result is used."""
    caller = Caller(client, "", token_with(n=seconds))
    set_clock(monkeypatch, NOW)
    assert caller.get().status_code == 200
    assert isinstance(client.app, FastAPI)
    keys = client.app.state.token_verifier._keys
    monkeypatch.setattr(keys, "_keys", [Key("HS256", b"another secret that is long enough")])
    set_clock(monkeypatch, NOW + seconds)
    assert caller.get().status_code == status


@pytest.mark.spec("auth.cache")
def test_the_cache_forgets_the_token_that_was_used_longest_ago() -> None:
    cache, user = TokenCache(), User("somebody", None, time.time() + 60)
    for number in range(CACHE_SIZE):
        cache.add(str(number), user)
    assert cache.get("0") == user
    cache.add("one more", user)
    assert cache.get("1") is None
    assert [cache.get(token) for token in ("0", "2", "one more")] == [user] * 3


class _FixedClock:
    def __init__(self, now: float) -> None:
        self._now = now

    def now(self, tz: object = None) -> object:
        return datetime.fromtimestamp(self._now, UTC)


def test_responses_do_not_echo_claims(client: TestClient) -> None:
    marks = {"sub": "mark-1\0", "name": "mark-2"}
    response = Caller(client, "", token_with(**marks)).get(f"{TASKS}?mark-3=1")
    assert "mark" not in response.text + str(response.headers)
