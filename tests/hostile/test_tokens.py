"""Tokens that ask for another verification than the service's (RFC 8725), with both kinds of keys."""

import base64
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from httpx2 import Response
from sqlalchemy import URL

from tests.auth.key_server import PATH, KeyServer, SigningKey, key_server
from tests.hostile.conftest import assert_no_errors_logged
from tests.hostile.raw_http import Target, new_token, parametrize_cases, request_with_id, statuses_and_ids
from tests.process.service import running_service, service_environment
from tests.support import SECRET, assert_problem

PUBLISHED = SigningKey("published")
UNPUBLISHED = SigningKey("published")
"""Another key with the same key ID."""

Claims = dict[str, object]


@dataclass(frozen=True)
class Issuer:
    """A service that uses published keys, and a second key endpoint that it must never contact."""

    target: Target
    url: str
    elsewhere: KeyServer

    def claims(self, **changes: object) -> Claims:
        now = int(time.time())
        user = f"owner-{uuid.uuid4()}"
        return {"sub": user, "iss": self.url, "aud": self.url, "exp": now + 600, **changes}

    def send(self, token: str) -> Response:
        return self.target.send(with_token(token))


@pytest.fixture(scope="session")
def issuer(parser: str, database_url: URL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Issuer]:
    output = tmp_path_factory.mktemp("hostile") / f"{parser}-published.log"
    with key_server() as keys, key_server() as elsewhere:
        keys.keys = [PUBLISHED.jwk]
        elsewhere.keys = [UNPUBLISHED.jwk]
        environment = service_environment(
            database_url,
            BETTER_AUTH_SECRET="",
            BETTER_AUTH_URL=keys.url,
            GUNICORN_CMD_ARGS=f"--http-parser {parser}",
        )
        with running_service(environment, output) as service:
            yield Issuer(Target(service), keys.url, elsewhere)
            assert_no_errors_logged(output.read_text())
        assert elsewhere.requests == []


def with_token(token: str, *fields: str) -> bytes:
    return request_with_id("first", "GET /api/tasks HTTP/1.1", f"Authorization: Bearer {token}", *fields)


def encoded(part: bytes | Mapping[str, object]) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(header: bytes | Mapping[str, object], claims: bytes | Mapping[str, object]) -> str:
    """A token with a dummy signature, for verifiers that insist on three parts."""
    return f"{encoded(header)}.{encoded(claims)}.{encoded(b'none')}"


def signed(header: bytes | Mapping[str, object], claims: bytes | Mapping[str, object], key: bytes) -> str:
    """Sign with HMAC-SHA256, whatever algorithm the header names."""
    message = f"{encoded(header)}.{encoded(claims)}".encode()
    signature = jwt.get_algorithm_by_name("HS256").sign(message, key)
    return f"{message.decode()}.{encoded(signature)}"


def assert_invalid(answer: Response) -> None:
    """401 with `invalid_token`, and nothing of the token repeated."""
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token", error_description="')
    assert "owner-" not in answer.text + str(answer.headers)


OTHER_ALGORITHMS: dict[str, Any] = {
    "none": "none",
    "None": "None",
    "nOnE": "nOnE",
    "NONE": "NONE",
    "none and a space": "none ",
    "empty": "",
    "null": None,
    "absent": ...,
    "number": 256,
    "boolean": True,
    "list": ["HS256"],
    "object": {"name": "HS256"},
    "lower case": "hs256",
    "suffix": "HS256\x00",
    "HS512": "HS512",
    "HS384": "HS384",
    "asymmetric": "RS256",
    "EdDSA": "EdDSA",
    "key wrapping": "dir",
}


@parametrize_cases(OTHER_ALGORITHMS)
@pytest.mark.spec("auth.algorithm")
def test_only_hs256_verifies_with_a_secret(target: Target, case: object) -> None:
    header = {"typ": "JWT"} if case is ... else {"typ": "JWT", "alg": case}
    claims = jwt.decode(new_token("owner"), options={"verify_signature": False})
    for token in (
        unsigned(header, claims),
        signed(header, claims, SECRET.encode()),
        signed(header, claims, b""),
    ):
        assert_invalid(target.send(with_token(token)))
    stripped = unsigned(header, claims).rpartition(".")[0] + "."
    assert_invalid(target.send(with_token(stripped)))


@parametrize_cases(OTHER_ALGORITHMS)
@pytest.mark.spec("auth.jwks.algorithms")
def test_only_the_algorithm_of_a_published_key_verifies_with_it(issuer: Issuer, case: object) -> None:
    """EdDSA is the key's algorithm, but the signature is not made with the key."""
    header = {"kid": "published"} if case is ... else {"kid": "published", "alg": case}
    assert_invalid(issuer.send(unsigned(header, issuer.claims())))


PUBLIC_KEY = PUBLISHED.private.public_key()


def published_as_secret() -> dict[str, bytes]:
    """The public key in every form that a verifier might use as an HMAC secret."""
    raw = PUBLIC_KEY.public_bytes_raw()
    pem = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
    der = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return {
        "raw": raw,
        "PEM": PUBLIC_KEY.public_bytes(*pem),
        "PEM without a line's end": PUBLIC_KEY.public_bytes(*pem).rstrip(),
        "DER": PUBLIC_KEY.public_bytes(*der),
        "x": str(PUBLISHED.jwk["x"]).encode(),
        "JWK": json.dumps(PUBLISHED.jwk).encode(),
        "kid": b"published",
        "empty": b"",
    }


@parametrize_cases(published_as_secret())
@pytest.mark.spec("auth.jwks.algorithms")
def test_a_published_key_is_never_an_hmac_secret(issuer: Issuer, case: bytes) -> None:
    for algorithm in ("HS256", "EdDSA"):
        header = {"alg": algorithm, "kid": "published"}
        assert_invalid(issuer.send(signed(header, issuer.claims(), case)))


def foreign_keys(url: str) -> dict[str, Claims]:
    """Headers by which a token brings its own key, or says where it is (RFC 7515, section 4.1)."""
    return {
        "jwk": {"jwk": UNPUBLISHED.jwk},
        "jwk of an unknown kid": {"jwk": UNPUBLISHED.jwk, "kid": "elsewhere"},
        "jku": {"jku": f"{url}{PATH}"},
        "jku and another kid": {"jku": f"{url}{PATH}", "kid": "elsewhere"},
        "x5u": {"x5u": f"{url}/certificate.pem"},
        "x5c": {"x5c": ["MIIB"], "x5t": "AAAA"},
        "kid as URL": {"kid": f"{url}{PATH}"},
        "iss in the header": {"iss": url},
    }


@pytest.mark.parametrize("case", foreign_keys("").keys())
@pytest.mark.spec("auth.jwks.kid")
def test_a_key_named_or_carried_by_the_token_is_ignored(issuer: Issuer, case: str) -> None:
    """The `issuer` fixture asserts at the end that no URL of a token was fetched."""
    header = foreign_keys(issuer.elsewhere.url)[case]
    assert_invalid(issuer.send(UNPUBLISHED.sign(issuer.claims(), **header)))


KEY_IDS: dict[str, Any] = {
    "path": "../../../../dev/null",
    "path with a NUL": "published\x00.pem",
    "encoded path": "%2e%2e%2fpublished",
    "SQL": "' UNION SELECT '' -- ",
    "shell": "published; id",
    "format": "%s{0}",
    "line feed": "published\n",
    "space": " published",
    "other case": "PUBLISHED",
    "empty": "",
    "long": "k" * 4000,
    "number": 1,
    "boolean": True,
    "null": None,
    "list": ["published"],
    "object": {"published": "published"},
    "attribute": "__class__",
}


@parametrize_cases(KEY_IDS)
@pytest.mark.spec("auth.jwks.kid")
def test_a_key_id_is_never_interpreted(issuer: Issuer, case: object) -> None:
    header: Claims = {"alg": "HS256", "kid": case}
    for key in (b"", b"\x00" * 32):
        assert_invalid(issuer.send(signed(header, issuer.claims(), key)))
    assert_invalid(issuer.send(unsigned({"alg": "EdDSA", "kid": case}, issuer.claims())))


EXTENSIONS: dict[str, Claims] = {
    "unknown": {"crit": ["example"], "example": True},
    "unencoded payload": {"crit": ["b64"], "b64": False},
    "absent extension": {"crit": ["example"]},
    "empty": {"crit": []},
    "no list": {"crit": "exp"},
    "standard name": {"crit": ["alg"]},
}


@parametrize_cases(EXTENSIONS)
def test_a_crit_header_is_refused(target: Target, case: Claims) -> None:
    """RFC 7515, section 4.1.11: no extension is supported."""
    claims = jwt.decode(new_token("owner"), options={"verify_signature": False})
    header: Claims = {"alg": "HS256", "typ": "JWT", **case}
    assert_invalid(target.send(with_token(signed(header, claims, SECRET.encode()))))


def malformed_tokens() -> dict[str, Callable[[str], str]]:
    return {
        "a fourth part": lambda token: f"{token}.e30",
        "five parts": lambda token: f"{token}.e30.e30",
        "dot after": lambda token: f"{token}.",
        "dot before": lambda token: f".{token}",
        "padded": lambda token: f"{token}=",
        "doubled": lambda token: f"{token}{token}",
        "two, comma": lambda token: f"{token}, {token}",
        "two, space": lambda token: f"{token} {token}",
        "parameter": lambda token: f"{token}; realm=x",
        "quoted": lambda token: f'"{token}"',
        "scheme twice": lambda token: f"Bearer {token}",
        "standard alphabet": lambda token: token.replace(".", "+.", 1),
        "slash": lambda token: token.replace(".", "/.", 1),
        "percent": lambda token: token.replace(".", "%2E"),
        "full-width dot": lambda token: token.replace(".", "\xef\xbc\x8e"),
        "NEL inside": lambda token: token.replace(".", ".\x85", 1),
        "no-break space inside": lambda token: token.replace(".", "\xa0.", 1),
        "tab inside": lambda token: token.replace(".", "\t.", 1),
        "no signature": lambda token: token.rpartition(".")[0] + ".",
        "no signature and no dot": lambda token: token.rpartition(".")[0],
        "truncated": lambda token: token[:-2],
        "extended": lambda token: f"{token}AA",
        "upper case": str.upper,
        "JWE": lambda token: f"{encoded({'alg': 'dir', 'enc': 'A256GCM'})}..AAAA.AAAA.AAAA",
        "JSON serialization": lambda token: json.dumps({"payload": token}),
        "empty": lambda token: "",
        "dots": lambda token: "..",
    }


@parametrize_cases(malformed_tokens())
def test_a_malformed_compact_serialization_is_refused(target: Target, case: Callable[[str], str]) -> None:
    assert_problem(target.send(with_token(case(new_token("owner")))), 401, "unauthorized")


def malformed_claims() -> dict[str, tuple[bytes, bytes]]:
    header = json.dumps({"alg": "HS256", "typ": "JWT"}).encode()
    claims = json.dumps({"sub": "owner-", "exp": 99_999_999_999}).encode()
    return {
        "a token in a token": (b'{"alg":"HS256","cty":"JWT"}', new_token("owner").encode()),
        "claims in a list": (header, b"[" + claims + b"]"),
        "claims as a string": (header, json.dumps(claims.decode()).encode()),
        "claims null": (header, b"null"),
        "claims not JSON": (header, b"sub=owner"),
        "claims not UTF-8": (header, b'{"sub":"\xff","exp":99999999999}'),
        "deep claims": (header, b'{"sub":' + b"[" * 3500),
        "deep header": (b'{"alg":' + b"[" * 3500, claims),
        "deep and whole header": (b'{"alg":"HS256","x":' + b"[" * 1700 + b"]" * 1700 + b"}", b"{}"),
        "huge number in the header": (b'{"alg":"HS256","x":' + b"9" * 5000 + b"}", claims),
        "huge number in the claims": (header, b'{"sub":"x","exp":' + b"9" * 5000 + b"}"),
        "header in a list": (b"[" + header + b"]", claims),
        "header null": (b"null", claims),
        "expiry not a number": (header, b'{"sub":"owner-","exp":NaN}'),
        "expiry infinite": (header, b'{"sub":"owner-","exp":Infinity}'),
        "expiry too large": (header, b'{"sub":"owner-","exp":1e400}'),
        "expiry true": (header, b'{"sub":"owner-","exp":true}'),
        "no subject": (header, b'{"exp":99999999999}'),
        "subject an object": (header, b'{"sub":{},"exp":99999999999}'),
        "subject with a NUL": (header, b'{"sub":"owner-\\u0000","exp":99999999999}'),
        "subject half a pair": (header, b'{"sub":"owner-\\ud800","exp":99999999999}'),
        "subject with an escape": (header, b'{"sub":"owner-\\u001b[31m","exp":99999999999}'),
        "subject too long": (header, b'{"sub":"' + b"owner-" * 43 + b'","exp":99999999999}'),
    }


@parametrize_cases(malformed_claims())
def test_malformed_claims_are_refused_even_when_signed(target: Target, case: tuple[bytes, bytes]) -> None:
    assert_invalid(target.send(with_token(signed(*case, SECRET.encode()))))


TYPES: dict[str, Any] = {
    "access token": "at+jwt",
    "logout token": "logout+jwt",
    "DPoP proof": "dpop+jwt",
    "JWE": "JWE",
    "number": 5,
    "null": None,
    "list": ["JWT"],
    "long": "j" * 2000,
}


@parametrize_cases(TYPES)
def test_typ_does_not_change_verification(target: Target, case: object) -> None:
    claims = jwt.decode(new_token("owner"), options={"verify_signature": False})
    header: Claims = {"alg": "HS256", "typ": case}
    assert target.send(with_token(signed(header, claims, SECRET.encode()))).status_code == 200
    assert_invalid(target.send(with_token(signed(header, claims, b"another secret" * 4))))


@pytest.mark.parametrize("size", [6000, 8100])
def test_a_large_token_is_verified_or_refused(target: Target, size: int) -> None:
    token = new_token("owner")
    padding = "a" * ((size - len(token)) * 3 // 4 - 20)
    assert target.send(with_token(new_token("owner", padding=padding))).status_code == 200
    assert_invalid(target.send(with_token("a" * size)))
    assert_invalid(target.send(with_token(".".join(["a" * (size // 3)] * 3))))


def test_a_token_over_the_limit_of_a_field_is_refused(target: Target) -> None:
    assert statuses_and_ids(target.exchange(with_token("a" * 9000))) == [(431, None)]


def elsewhere() -> dict[str, Callable[[str], bytes]]:
    line = "GET /api/tasks HTTP/1.1"
    return {
        "query": lambda token: request_with_id("first", f"GET /api/tasks?access_token={token} HTTP/1.1"),
        "cookie": lambda token: request_with_id("first", line, f"Cookie: better-auth.session_token={token}"),
        "own field": lambda token: request_with_id("first", line, f"X-Access-Token: {token}"),
        "proxy's field": lambda token: request_with_id("first", line, f"Proxy-Authorization: Bearer {token}"),
        "forwarded": lambda token: request_with_id(
            "first", line, f"X-Forwarded-Authorization: Bearer {token}"
        ),
        "underscore": lambda token: request_with_id("first", line, f"Authorization_: Bearer {token}"),
        "Basic": lambda token: request_with_id("first", line, f"Authorization: Basic {token}"),
        "no scheme": lambda token: request_with_id("first", line, f"Authorization: {token}"),
        "tab after the scheme": lambda token: request_with_id(
            "first", line, f"Authorization: Bearer\t{token}"
        ),
        "scheme in quotes": lambda token: request_with_id("first", line, f'Authorization: "Bearer" {token}'),
        "long scheme": lambda token: request_with_id("first", line, f"Authorization: Bearerx {token}"),
        "no-break space after the scheme": lambda token: request_with_id(
            "first", line, f"Authorization: Bearer\xa0{token}"
        ),
    }


@parametrize_cases(elsewhere())
@pytest.mark.spec("auth.missing")
def test_a_token_outside_authorization_is_ignored(target: Target, case: Callable[[str], bytes]) -> None:
    answer = target.send(case(new_token("owner")))
    assert_problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.spec("auth.one-header")
def test_two_tokens_are_refused(target: Target) -> None:
    for second in (new_token("stranger"), "", "x"):
        message = with_token(new_token("owner"), f"authorization: Bearer {second}")
        assert_invalid(target.send(message))


def test_identity_headers_are_ignored(target: Target) -> None:
    """Headers with which some proxies assert an identity."""
    others = ["X-User-Id", "X-Forwarded-User", "X-Remote-User", "X-Authenticated-User", "From"]
    message = request_with_id("first", "GET /api/tasks HTTP/1.1", *(f"{name}: someone" for name in others))
    assert_problem(target.send(message), 401, "unauthorized")


def test_duplicate_claims_are_read_consistently(target: Target) -> None:
    """The last one counts for verification and for identity alike."""
    claims = b'{"sub":"owner-1","sub":"owner-2","exp":1,"exp":%d}' % (time.time() + 600)
    twice = signed(b'{"alg":"none","alg":"HS256"}', claims, SECRET.encode())
    assert target.send(with_token(twice)).json() == []
    reverse = signed(b'{"alg":"HS256","alg":"none"}', claims, SECRET.encode())
    assert_invalid(target.send(with_token(reverse)))


def test_a_token_of_the_published_key_is_accepted(issuer: Issuer) -> None:
    assert issuer.send(PUBLISHED.sign(issuer.claims())).json() == []
