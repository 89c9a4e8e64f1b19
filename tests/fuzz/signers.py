"""Signs the tokens of a fuzz run, with a shared secret or with a published key.

PyJWT refuses to sign some claims that a service must reject, so claims are encoded here.
"""

import base64
import hmac
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import jwt

from tests.auth.key_server import SigningKey

SECONDS = 3600

Claims = Mapping[str, object]


class Signer(Protocol):
    @property
    def secrets(self) -> list[str]:
        """Values that must not appear in responses or logs."""

    def sign(self, claims: Claims) -> str:
        """A token with these claims, and with the issuer and audience that the service expects."""

    def impostor(self) -> "Signer":
        """Signs with a secret or key that the service does not know, under the same name."""

    def forgeries(self, claims: Claims) -> Iterator[tuple[str, str]]:
        """Tokens that confuse keys and algorithms, by what is wrong with them."""


def mint(signer: Signer, subject: str, **claims: object) -> str:
    """A token that is valid for one hour, unless `claims` has another `exp`."""
    now = int(time.time())
    return signer.sign({"sub": subject, "iat": now, "exp": now + SECONDS, **claims})


@dataclass(frozen=True)
class SharedSecret:
    secret: str

    @property
    def secrets(self) -> list[str]:
        return [self.secret]

    def sign(self, claims: Claims) -> str:
        return encode(self.secret, claims)

    def impostor(self) -> "SharedSecret":
        return SharedSecret("a secret that the service does not know")

    def forgeries(self, claims: Claims) -> Iterator[tuple[str, str]]:
        yield "another algorithm", jwt.encode({**claims}, self.secret, "HS512")
        yield "the secret's beginning as key", encode(self.secret[:-1], claims)
        yield "the secret in upper case as key", encode(self.secret.upper(), claims)


@dataclass(frozen=True)
class PublishedKey:
    key: SigningKey
    url: str
    """Of the Better Auth server: the issuer and the audience."""

    @property
    def secrets(self) -> list[str]:
        return []

    def sign(self, claims: Claims) -> str:
        return self._sign(self.key, claims, self.key.kid)

    def impostor(self) -> "PublishedKey":
        return PublishedKey(SigningKey(self.key.kid, self.key.algorithm), self.url)

    def forgeries(self, claims: Claims) -> Iterator[tuple[str, str]]:
        public = json.dumps(self.key.jwk)
        yield "the public key as secret", encode(public, self._with_defaults(claims), kid=self.key.kid)
        yield "an unknown key", self._sign(self.key, claims, f"{self.key.kid}-2")

    def _sign(self, key: SigningKey, claims: Claims, kid: str) -> str:
        payload = json.dumps(self._with_defaults(claims)).encode()
        return jwt.api_jws.encode(payload, key.private, key.algorithm, {"kid": kid})

    def _with_defaults(self, claims: Claims) -> Claims:
        return {"iss": self.url, "aud": self.url, **claims}


def encode(secret: str, claims: Claims, **header: object) -> str:
    """Sign with HS256, without validating the claims, the header or the secret."""
    signed = f"{encode_part({'alg': 'HS256', 'typ': 'JWT', **header})}.{encode_part(claims)}"
    return f"{signed}.{encode_base64(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def encode_part(document: Claims) -> str:
    """A header or a payload in base64."""
    return encode_base64(json.dumps(document).encode())


def decode_part(part: str) -> dict[str, object]:
    document: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=="))
    return document


def encode_base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
