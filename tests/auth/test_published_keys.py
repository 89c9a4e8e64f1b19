"""Tokens verified with the keys that Better Auth publishes (JWKS)."""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from starlette.testclient import TestClient

from auth import keys
from tests.auth.key_server import PATH, KeyServer, SigningKey, key_server
from tests.auth.test_shared_secret import base64url
from tests.conftest import Serve
from tests.support import SECRET, Caller, assert_problem, assert_unauthorized, wait_until
from tools.tokens import mint

UNKNOWN_KEY = "The signing key is unknown"


@pytest.fixture
def published() -> Iterator[KeyServer]:
    with key_server() as server:
        yield server


@pytest.fixture
def key(published: KeyServer) -> SigningKey:
    key = SigningKey("first")
    published.keys = [key.jwk]
    return key


@pytest.fixture
def client(serve: Serve, published: KeyServer) -> TestClient:
    return serve(better_auth_secret=None, better_auth_url=published.url)


@pytest.fixture
def no_refetch_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the minimum interval between fetches."""
    monkeypatch.setattr(keys, "REFETCH_SECONDS", 0)


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "clock", lambda: 0)


def age_keys(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock to this time after the first fetch."""
    monkeypatch.setattr(keys, "clock", lambda: seconds)


def claims(published: KeyServer, **changes: object) -> dict[str, object]:
    """Claims as Better Auth's jwt plugin issues them."""
    now = int(time.time())
    made = {
        "iat": now,
        "exp": now + 900,
        "sub": "somebody",
        "id": "somebody",
        "iss": published.url,
        "aud": published.url,
    }
    return {name: value for name, value in {**made, **changes}.items() if value is not None}


def status_for(client: TestClient, token: str) -> int:
    return Caller(client, "", token).get().status_code


def is_fetching(client: TestClient) -> bool:
    """Whether a fetch of the keys has begun and not ended."""
    assert isinstance(client.app, FastAPI)
    fetch = client.app.state.token_verifier._keys._fetch
    return fetch is not None and not fetch.done()


def assert_unavailable(client: TestClient, token: str) -> None:
    response = Caller(client, "", token).get()
    assert_problem(response, 503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1


@pytest.mark.spec("auth.jwks.source", "auth.jwks.algorithms")
@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_it_accepts_a_valid_token(client: TestClient, published: KeyServer, algorithm: str) -> None:
    key = SigningKey("k", algorithm)
    published.keys = [SigningKey("other").jwk, key.jwk]
    assert status_for(client, key.sign(claims(published))) == 200
    assert published.requests == [PATH]


@pytest.mark.spec("auth.jwks.source")
def test_jwks_url_overrides_the_default_location(serve: Serve, published: KeyServer, key: SigningKey) -> None:
    bound = {"jwt_issuer": published.url, "jwt_audience": "tasks"}
    client = serve(better_auth_secret=None, jwks_url=f"{published.url}/keys.json", **bound)
    assert status_for(client, key.sign(claims(published, aud="tasks"))) == 200
    assert published.requests == ["/keys.json"]


@pytest.mark.spec("auth.issuer", "auth.jwks.issuer-default")
def test_jwt_issuer_overrides_the_better_auth_url(
    serve: Serve, published: KeyServer, key: SigningKey
) -> None:
    issuer = "https://issuer.example.com"
    client = serve(better_auth_secret=None, better_auth_url=published.url, jwt_issuer=issuer)
    assert status_for(client, key.sign(claims(published, iss=issuer))) == 200
    refused = Caller(client, "", key.sign(claims(published))).get()
    assert_unauthorized(refused, "The issuer is not accepted")


@pytest.mark.spec("auth.audience", "auth.jwks.issuer-default")
def test_jwt_audience_overrides_the_better_auth_url(
    serve: Serve, published: KeyServer, key: SigningKey
) -> None:
    client = serve(better_auth_secret=None, better_auth_url=published.url, jwt_audience="tasks")
    assert status_for(client, key.sign(claims(published, aud="tasks"))) == 200
    refused = Caller(client, "", key.sign(claims(published))).get()
    assert_unauthorized(refused, "The token is for another audience")


@pytest.mark.spec("auth.jwks.algorithms")
def test_a_public_key_is_not_accepted_as_an_hmac_secret(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    """Algorithm confusion: HS256 with the public key as the secret."""
    public = key.private.public_key()
    for secret in (
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        json.dumps(key.jwk).encode(),
        str(key.jwk["x"]).encode(),
    ):
        parts = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": key.kid}, claims(published))]
        signed = ".".join(base64url(part) for part in parts)
        token = f"{signed}.{base64url(hmac.digest(secret, signed.encode(), hashlib.sha256))}"
        assert_unauthorized(Caller(client, "", token).get(), "The algorithm is not accepted")


@pytest.mark.spec("auth.jwks.algorithms")
def test_a_key_verifies_only_its_own_algorithm(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    confused = SigningKey(key.kid, "ES256").sign(claims(published))
    assert_unauthorized(Caller(client, "", confused).get(), "The algorithm is not accepted")


@pytest.mark.spec("auth.jwks.algorithms")
@pytest.mark.parametrize(
    "jwk",
    [
        {"kty": "oct", "k": base64url(SECRET.encode()), "kid": "k", "alg": "HS256"},
        {"kty": "oct", "k": base64url(SECRET.encode()), "kid": "k"},
    ],
)
def test_published_symmetric_keys_are_ignored(
    client: TestClient, published: KeyServer, jwk: dict[str, object]
) -> None:
    published.keys = [jwk]
    token = jwt.encode(claims(published), SECRET, "HS256", {"kid": "k"})
    assert_unauthorized(Caller(client, "", token).get(), UNKNOWN_KEY)


@pytest.mark.spec("auth.jwks.algorithms")
@pytest.mark.usefixtures("no_refetch_delay")
def test_unusable_published_keys_are_skipped(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    published.keys = [
        {**key.jwk, "use": "enc"},
        {"kty": "OKP", "crv": "X25519", "x": key.jwk["x"], "kid": "x"},
        {"kty": "EC", "kid": "broken"},
        {"kid": "empty"},
        {"kty": "OKP", "crv": "Ed25519", "x": 5, "kid": "number"},
        {"kty": "OKP", "crv": [], "x": "", "kid": "list"},
        {"kty": {}, "kid": "object"},
        {**key.jwk, "kid": "odd", "alg": []},
        {**key.jwk, "kid": "none", "alg": "none"},
        {**key.jwk, "kid": 5},
        "text",
        None,
    ]
    assert_unauthorized(Caller(client, "", key.sign(claims(published))).get(), UNKNOWN_KEY)
    good = SigningKey("good")
    published.keys.append(good.jwk)
    assert status_for(client, good.sign(claims(published))) == 200


@pytest.mark.spec("auth.jwks.kid")
@pytest.mark.parametrize("kid", ["other", "", "first\0", "../first"])
def test_the_key_is_chosen_by_its_id(
    client: TestClient, published: KeyServer, key: SigningKey, kid: str
) -> None:
    assert_unauthorized(Caller(client, "", key.sign(claims(published), kid=kid)).get(), UNKNOWN_KEY)


@pytest.mark.spec("auth.jwks.kid")
def test_another_published_key_does_not_verify(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    other = SigningKey("second")
    published.keys.append(other.jwk)
    token = key.sign(claims(published), kid=other.kid)
    assert_unauthorized(Caller(client, "", token).get(), "The signature is invalid")


@pytest.mark.spec("auth.jwks.kid")
def test_a_token_without_a_key_id_is_refused(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    token = jwt.encode(claims(published), key.private, "EdDSA")
    assert_unauthorized(Caller(client, "", token).get(), UNKNOWN_KEY)
    assert_unauthorized(Caller(client, "", mint(SECRET, "somebody")).get(), UNKNOWN_KEY)
    assert published.requests == []


@pytest.mark.spec("auth.jwks.issuer-default", "auth.issuer", "auth.audience", "auth.session-cache")
@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://x.example"},
        {"iss": None},
        {"aud": "https://x.example"},
        {"aud": None},
        {"aud": "better-auth:session-cache"},
    ],
)
def test_issuer_and_audience_default_to_the_url(
    client: TestClient, published: KeyServer, key: SigningKey, changes: dict[str, object]
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    assert status_for(client, key.sign(claims(published, **changes))) == 401


@pytest.mark.spec("auth.jwks.unknown-kid")
def test_unknown_key_ids_do_not_trigger_repeated_fetches(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    for number in range(20):
        stranger = SigningKey(f"unknown-{number}").sign(claims(published))
        assert_unauthorized(Caller(client, "", stranger).get(), UNKNOWN_KEY)
    assert len(published.requests) == 1


@pytest.mark.spec("auth.jwks.unknown-kid")
@pytest.mark.parametrize(("seconds", "fetches"), [(4.9, 1), (5, 2)])
def test_an_unknown_key_id_is_looked_up_again_after_5_seconds(
    client: TestClient,
    published: KeyServer,
    key: SigningKey,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    fetches: int,
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    age_keys(monkeypatch, seconds)
    unknown = SigningKey("unknown").sign(claims(published))
    assert_unauthorized(Caller(client, "", unknown).get(), UNKNOWN_KEY)
    assert len(published.requests) == fetches


@pytest.mark.spec("auth.jwks.unknown-kid", "auth.jwks.rotation")
@pytest.mark.usefixtures("no_refetch_delay")
def test_a_new_key_is_fetched_immediately(client: TestClient, published: KeyServer, key: SigningKey) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    new = SigningKey("second", "ES256")
    published.keys = [new.jwk, key.jwk]
    assert status_for(client, new.sign(claims(published))) == 200
    assert status_for(client, key.sign(claims(published, n=2))) == 200
    assert len(published.requests) == 2


@pytest.mark.spec("auth.jwks.unknown-kid")
def test_concurrent_requests_share_a_fetch(published: KeyServer, key: SigningKey) -> None:
    async def scenario() -> list[int]:
        source = keys.JwksKeySource(f"{published.url}{PATH}")
        found = await asyncio.gather(*(source.keys_for({"kid": key.kid}) for _ in range(3)))
        return [len(each) for each in found]

    assert asyncio.run(scenario()) == [1, 1, 1]
    assert len(published.requests) == 1


@pytest.mark.spec("auth.jwks.unknown-kid")
def test_a_client_that_goes_away_does_not_cancel_the_fetch(published: KeyServer, key: SigningKey) -> None:
    published.hang = True

    async def scenario() -> int:
        source = keys.JwksKeySource(f"{published.url}{PATH}")
        first, second = (asyncio.create_task(source.keys_for({"kid": key.kid})) for _ in range(2))
        await asyncio.to_thread(wait_until, lambda: published.requests, "nothing was fetched")
        first.cancel()
        await asyncio.wait([first])
        published.released.set()
        return len(await second)

    assert asyncio.run(scenario()) == 1
    assert len(published.requests) == 1


@pytest.mark.spec("auth.jwks.rotation", "auth.jwks.refresh")
def test_a_withdrawn_key_is_rejected_after_the_keys_expire(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    published.keys = [SigningKey("second").jwk]
    age_keys(monkeypatch, 300)
    assert_unauthorized(Caller(client, "", key.sign(claims(published, n=2))).get(), UNKNOWN_KEY)


@pytest.mark.spec("auth.jwks.refresh")
def test_keys_are_refreshed_before_they_expire(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    published.hang = True
    age_keys(monkeypatch, 239)
    assert status_for(client, key.sign(claims(published, n=2))) == 200
    assert not is_fetching(client)
    age_keys(monkeypatch, 240)
    assert status_for(client, key.sign(claims(published, n=3))) == 200
    assert is_fetching(client)
    wait_until(lambda: len(published.requests) == 2, "nothing was fetched")


@pytest.mark.spec("auth.jwks.stale")
@pytest.mark.usefixtures("no_refetch_delay")
def test_stale_keys_are_used_while_the_endpoint_is_down(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    published.answer = (500, {}, b"")
    age_keys(monkeypatch, 24 * 3600 - 1)
    assert status_for(client, key.sign(claims(published, n=2))) == 200
    age_keys(monkeypatch, 24 * 3600)
    assert_unavailable(client, key.sign(claims(published, n=3)))
    published.answer = None
    new = SigningKey("second")
    published.keys.append(new.jwk)
    # The first request may share a fetch that started while the endpoint was down.
    wait_until(lambda: status_for(client, new.sign(claims(published))) == 200, "it does not recover")
    assert status_for(client, key.sign(claims(published, n=4))) == 200


@pytest.mark.spec("auth.jwks.stale", "auth.jwks.refresh")
@pytest.mark.usefixtures("no_refetch_delay")
def test_stale_keys_are_used_without_waiting_for_a_hung_endpoint(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    published.answer = (500, {}, b"")
    age_keys(monkeypatch, 301)
    assert status_for(client, key.sign(claims(published, n=2))) == 200
    published.hang = True
    assert status_for(client, key.sign(claims(published, n=3))) == 200
    assert is_fetching(client)


@pytest.mark.spec("auth.jwks.unavailable")
def test_it_responds_503_without_any_keys(client: TestClient, published: KeyServer, key: SigningKey) -> None:
    published.answer = (503, {}, b"")
    assert_unavailable(client, key.sign(claims(published)))


@pytest.mark.spec("auth.jwks.unknown-kid", "auth.jwks.unavailable")
def test_a_failing_endpoint_is_not_asked_for_every_request(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    published.answer = (503, {}, b"")
    for number in range(5):
        assert_unavailable(client, key.sign(claims(published, n=number)))
    assert len(published.requests) == 1


@pytest.mark.spec("auth.jwks.unavailable")
@pytest.mark.usefixtures("no_refetch_delay")
def test_an_unknown_key_gets_503_while_the_endpoint_is_down(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    assert status_for(client, key.sign(claims(published))) == 200
    published.answer = (503, {}, b"")
    assert_unavailable(client, SigningKey("second").sign(claims(published)))
    assert status_for(client, key.sign(claims(published, n=2))) == 200


@pytest.mark.spec("auth.jwks.unavailable")
def test_it_responds_503_when_the_endpoint_refuses_connections(
    serve: Serve, published: KeyServer, key: SigningKey
) -> None:
    client = serve(better_auth_secret=None, better_auth_url="http://127.0.0.1:1")
    assert_unavailable(client, key.sign(claims(published)))


@pytest.mark.spec("auth.jwks.hostile")
@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b""),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"keys": {}}'),
        (200, {}, b'{"keys": null}'),
        (200, {}, b"\xff\xfe"),
        (200, {}, b"[" * 60_000),
        (200, {}, b'{"keys": [' + b" " * 70_000 + b"]}"),
        (302, {"Location": "/elsewhere"}, b""),
        (301, {"Location": "file:///etc/passwd"}, b""),
        (302, {"Location": "/elsewhere"}, b'{"keys": []}'),
        (404, {}, b"not here"),
        (204, {}, b""),
    ],
    ids=lambda answer: f"{answer[0]}-{answer[2][:12]!r}",
)
@pytest.mark.usefixtures("no_refetch_delay")
def test_an_invalid_key_set_is_ignored(
    client: TestClient, published: KeyServer, key: SigningKey, answer: tuple[int, dict[str, str], bytes]
) -> None:
    published.answer = answer
    assert_unavailable(client, key.sign(claims(published)))
    published.answer = None
    assert status_for(client, key.sign(claims(published))) == 200
    assert set(published.requests) == {PATH}


@pytest.mark.spec("auth.jwks.hostile")
def test_fetching_from_a_hung_endpoint_times_out(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert keys.FETCH_SECONDS == 5
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.2)
    published.hang = True
    assert_unavailable(client, key.sign(claims(published)))


@pytest.mark.spec("auth.jwks.hostile")
@pytest.mark.parametrize("where", ["head", "body"])
def test_fetching_from_a_slow_endpoint_times_out(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(keys, "FETCH_SECONDS", 0.3)
    published.slow_part = where
    assert_unavailable(client, key.sign(claims(published)))
    assert published.client_disconnected.wait(10)


@pytest.mark.spec("auth.jwks.hostile")
@pytest.mark.parametrize(("size", "status"), [(65_536, 200), (65_537, 503)])
def test_the_size_of_a_key_set_is_limited(
    client: TestClient, published: KeyServer, key: SigningKey, size: int, status: int
) -> None:
    document = json.dumps({"keys": [key.jwk]}).encode()
    published.answer = (200, {}, document.ljust(size))
    assert status_for(client, key.sign(claims(published))) == status


@pytest.mark.spec("auth.jwks.source")
def test_proxy_environment_variables_are_ignored(
    client: TestClient, published: KeyServer, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert status_for(client, key.sign(claims(published))) == 200


@pytest.mark.spec("auth.jwks.unavailable")
def test_a_hung_endpoint_does_not_block_other_requests(
    client: TestClient, published: KeyServer, key: SigningKey
) -> None:
    """The fetch does not block the event loop."""
    published.hang = True
    with ThreadPoolExecutor() as threads:
        waiting = [
            threads.submit(status_for, client, key.sign(claims(published, n=number))) for number in range(3)
        ]
        wait_until(lambda: published.requests, "nothing was fetched")
        assert client.get("/health/live").status_code == 200
        assert not any(each.done() for each in waiting)
        published.released.set()
        assert [each.result() for each in waiting] == [200] * 3
    assert len(published.requests) == 1
