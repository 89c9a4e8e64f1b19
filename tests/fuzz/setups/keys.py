"""Set-ups with published keys: of each type, rotated, and from endpoints that fail or attack."""

import base64
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jwt

from tests.auth.key_server import PATH, KeyServer, SigningKey, key_server
from tests.fuzz.context import DAY, User
from tests.fuzz.lab import Lab, accept_each_operation, refuse_each_operation, set_up
from tests.fuzz.prober import Prober
from tests.fuzz.signers import Claims, encode, encode_base64, encode_part
from tests.support import TASKS, wait_until

ALGORITHMS = ("EdDSA", "ES256", "RS256")
USER = "fuzz-published"
COOL_DOWN = 5
"""Seconds between two fetches for unknown keys."""
MAXIMUM_BYTES = 65_536
HOSTILE: dict[str, tuple[int, dict[str, str], bytes]] = {
    "no JSON": (200, {}, b"<html>"),
    "no key set": (200, {}, b'{"keys": {}}'),
    "a list": (200, {}, b"[]"),
    "null": (200, {}, b"null"),
    "an error": (500, {}, b'{"keys": []}'),
    "no body": (204, {}, b""),
    "deep nesting": (200, {}, b"[" * 60_000),
    "no text": (200, {}, b'{"keys": ["\xff"]}'),
}


def claims(published: KeyServer, **changes: object) -> dict[str, object]:
    """The claims of Better Auth's tokens, with changes; a claim that is None is left out."""
    now = int(time.time())
    url = published.url
    given = {"sub": USER, "iss": url, "aud": url, "iat": now, "exp": now + DAY, **changes}
    return {name: value for name, value in given.items() if value is not None}


def signed(key: SigningKey, published: KeyServer, **changes: object) -> User:
    return User(USER, key.sign(claims(published, **changes)))


@contextmanager
def _published(lab: Lab, *keys: SigningKey, **settings: str) -> Iterator[tuple[KeyServer, Prober]]:
    with key_server() as published:
        published.keys = [key.jwk for key in keys]
        with lab.service(**{"BETTER_AUTH_URL": published.url, **settings}) as prober:
            yield published, prober


@set_up("auth.jwks.source", "auth.jwks.algorithms", "auth.jwks.issuer-default", at_least=21)
def a_token_of_each_published_key(lab: Lab) -> None:
    keys = [SigningKey(f"key-{algorithm}", algorithm) for algorithm in ALGORITHMS]
    with _published(lab, *keys) as (published, prober):
        for key in keys:
            accept_each_operation(prober, signed(key, published))
            with_others = [published.url, "https://another.example.com"]
            prober.accept(200, "GET", TASKS, token=signed(key, published, aud=with_others))
        prober.expect(set(published.requests) == {PATH}, f"keys came from {published.requests}")
        with lab.service(BETTER_AUTH_URL=f"{published.url}/") as with_slash:
            with_slash.accept(200, "GET", TASKS, token=signed(keys[0], published))
        prober.expect(set(published.requests) == {PATH}, f"keys came from {published.requests}")


def _forged(keys: list[SigningKey], published: KeyServer) -> Iterator[str]:
    """Tokens that must be rejected although the key endpoint knows their `kid`."""
    now = int(time.time())
    url = published.url
    key = keys[0]
    unpublished = SigningKey(key.kid)
    yield unpublished.sign(claims(published))
    yield keys[1].sign(claims(published), kid=key.kid)
    yield jwt.encode(claims(published), key.private, "EdDSA")  # No `kid`.
    for kid in ("", 1, None, [key.kid], f"{key.kid} ", key.kid.upper()):
        yield _with_key_id(key, claims(published), kid)
    for each in keys:
        for secret in (json.dumps(each.jwk), each.jwk.get("x", each.jwk.get("n"))):
            yield encode(str(secret), claims(published), kid=each.kid)
    yield jwt.encode(claims(published), "", "none", {"kid": key.kid})
    header, payload, signature = key.sign(claims(published)).split(".")
    other = key.sign(claims(published, sub="fuzz-owner")).split(".")[1]
    yield f"{header}.{other}.{signature}"
    yield f"{header}.{payload}."
    for issuer in (None, "", f"{url}/", url.upper(), "https://auth.example.com"):
        yield key.sign(claims(published, iss=issuer))
    for audience in (None, "", [], [f"{url}/"], "better-auth:session-cache"):
        yield key.sign(claims(published, aud=audience))
    yield key.sign(claims(published, exp=now - 31, iat=now - 3600))
    yield key.sign(claims(published, exp=None))
    yield key.sign(claims(published, nbf=now + 60))
    yield key.sign(claims(published, sub=None))


def _with_key_id(key: SigningKey, document: Claims, kid: object) -> str:
    """Sign with a `kid` that need not be a string, which PyJWT refuses."""
    signed = f"{encode_part({'alg': 'EdDSA', 'typ': 'JWT', 'kid': kid})}.{encode_part(document)}"
    return f"{signed}.{encode_base64(key.private.sign(signed.encode()))}"


@set_up(
    "auth.jwks.algorithms", "auth.jwks.kid", "auth.jwks.issuer-default", "auth.jwks.unknown-kid", at_least=193
)
def a_forged_token_of_a_published_key(lab: Lab) -> None:
    keys = [SigningKey(f"key-{algorithm}", algorithm) for algorithm in ALGORITHMS]
    with _published(lab, *keys) as (published, prober):
        prober.accept(200, "GET", TASKS, token=signed(keys[0], published))
        started = time.monotonic()
        for token in _forged(keys, published):
            refuse_each_operation(prober, 401, "unauthorized", token)
        fetches, seconds = len(published.requests), time.monotonic() - started
        allowed = 2 + seconds // COOL_DOWN
        prober.expect(fetches <= allowed, f"unknown keys caused {fetches} fetches in {seconds:.1f} s")


@set_up(
    "auth.jwks.rotation", "auth.jwks.unknown-kid", "auth.jwks.unavailable", "auth.jwks.stale", at_least=15
)
def a_key_endpoint_that_changes(lab: Lab) -> None:
    """Three services whose endpoints change at once, so that their cool-downs pass together."""
    first, second = SigningKey("first"), SigningKey("second")
    with (
        _published(lab, first) as (rotated, with_rotation),
        _published(lab, first) as (failing, with_failure),
        _published(lab, first) as (recovering, with_recovery),
    ):
        for published, prober in ((rotated, with_rotation), (failing, with_failure)):
            prober.accept(200, "GET", TASKS, token=signed(first, published))
        started = time.monotonic()
        rotated.keys = [second.jwk]
        failing.answer = recovering.answer = (503, {}, b"")
        refuse_each_operation(with_recovery, 503, "unavailable", signed(first, recovering))
        fetches, allowed = len(recovering.requests), 1 + (time.monotonic() - started) // COOL_DOWN
        with_recovery.expect(fetches <= allowed, f"{fetches} fetches from an endpoint that fails")
        with_recovery.refuse(401, "unauthorized", "GET", TASKS)
        recovering.answer = None

        _wait_for(with_rotation, 200, signed(second, rotated))
        seconds = time.monotonic() - started
        with_rotation.expect(seconds > COOL_DOWN - 1, f"keys were fetched again after {seconds:.1f} s")
        with_rotation.refuse(401, "unauthorized", "GET", TASKS, token=signed(first, rotated))
        _wait_for(with_failure, 503, signed(second, failing))
        with_failure.accept(200, "GET", TASKS, token=signed(first, failing))
        with_failure.refuse(503, "unavailable", "GET", TASKS, token=signed(second, failing))
        _wait_for(with_recovery, 200, signed(first, recovering))


def _wait_for(prober: Prober, status: int, token: User) -> None:
    wait_until(
        lambda: prober.request("GET", TASKS, token=token).status_code == status,
        f"the status never becomes {status}",
    )
    prober.met()


@set_up("auth.jwks.hostile", at_least=len(HOSTILE) + 3)
def a_hostile_key_endpoint(lab: Lab) -> None:
    key = SigningKey("first")
    padded = json.dumps({"keys": [key.jwk]}).encode().ljust(MAXIMUM_BYTES)
    for answer in (*HOSTILE.values(), (200, {}, padded + b" ")):
        with _published(lab, key) as (published, prober):
            published.answer = answer
            prober.refuse(503, "unavailable", "GET", TASKS, token=signed(key, published))
    with _published(lab, key) as (published, prober):
        published.answer = (200, {}, padded)
        prober.accept(200, "GET", TASKS, token=signed(key, published))
    with key_server() as elsewhere, _published(lab, key) as (published, prober):
        elsewhere.keys = [key.jwk]
        published.answer = (302, {"Location": f"{elsewhere.url}{PATH}"}, b"")
        prober.refuse(503, "unavailable", "GET", TASKS, token=signed(key, published))
        prober.expect(not elsewhere.requests, "a redirect of the key endpoint is followed")


@set_up("auth.jwks.hostile", at_least=1)
def a_key_endpoint_that_never_ends(lab: Lab) -> None:
    key = SigningKey("first")
    with _published(lab, key) as (published, prober):
        published.slow_part = "body"
        started = time.monotonic()
        prober.refuse(503, "unavailable", "GET", TASKS, token=signed(key, published))
        seconds = time.monotonic() - started
        prober.expect(seconds < 3 * COOL_DOWN, f"a slow key endpoint kept a request for {seconds:.1f} s")


@set_up("auth.jwks.algorithms", at_least=5)
def an_unusable_published_key(lab: Lab) -> None:
    """Symmetric and malformed keys, and those for encryption, are skipped; the others remain usable."""
    key = SigningKey("first")
    with key_server() as published:
        secret = "a shared secret that is long enough to sign with"
        encoded = base64.urlsafe_b64encode(secret.encode()).rstrip(b"=").decode()
        symmetric = {"kty": "oct", "k": encoded, "kid": "shared", "alg": "HS256"}
        published.keys = [
            symmetric, None, "key", {}, {"kid": "first"}, {**key.jwk, "kid": 1},
            {**key.jwk, "kid": "bad", "x": "!"}, {**key.jwk, "kid": "other", "alg": "RS256"},
            {**key.jwk, "kid": "encryption", "use": "enc"}, key.jwk,
        ]  # fmt: skip
        with lab.service(BETTER_AUTH_URL=published.url) as prober:
            prober.accept(200, "GET", TASKS, token=signed(key, published))
            shared = encode(secret, claims(published), kid="shared")
            prober.refuse(401, "unauthorized", "GET", TASKS, token=shared)
            for kid in ("bad", "other", "encryption"):
                prober.refuse(401, "unauthorized", "GET", TASKS, token=key.sign(claims(published), kid=kid))


@set_up("auth.jwks.source", "auth.issuer", "auth.audience", at_least=6)
def keys_issuer_and_audience_of_their_own(lab: Lab) -> None:
    key = SigningKey("first")
    with key_server() as published:
        published.keys = [key.jwk]
        settings = {
            "JWKS_URL": f"{published.url}/keys",
            "JWT_ISSUER": "the issuer",
            "JWT_AUDIENCE": "the audience",
        }
        for extra in ({}, {"BETTER_AUTH_URL": "https://auth.example.com"}):
            with lab.service(**settings, **extra) as prober:
                ours = {"iss": "the issuer", "aud": "the audience"}
                prober.accept(200, "GET", TASKS, token=signed(key, published, **ours))
                for name in ours:
                    for value in (None, published.url, "https://auth.example.com"):
                        token = signed(key, published, **{**ours, name: value})
                        prober.refuse(401, "unauthorized", "GET", TASKS, token=token)
        prober.expect(set(published.requests) == {"/keys"}, f"keys came from {published.requests}")
