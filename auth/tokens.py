"""Verification of bearer tokens: signature, claims, and a cache of verified ones.

    TokenRefused     the token is not valid; `reason` is the sentence sent to the client

A user is identified by the claim `sub` alone. Where keys come from is in `keys.py`.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jwt
from jwt.types import Options

from auth.keys import JwksKeySource, Key, KeySource, SharedSecrets, UnknownKey
from settings import Settings

LEEWAY_SECONDS = 30
CACHE_SECONDS = 60
CACHE_SIZE = 10_000
LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z, the latest expiry that a datetime can hold."""

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")

# The first match counts, so a subclass comes before its base class.
_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The token has expired",
    jwt.ImmatureSignatureError: "The token is not valid yet",
    jwt.InvalidIssuerError: "The issuer is not accepted",
    jwt.InvalidAudienceError: "The token is for another audience",
    jwt.InvalidSignatureError: "The signature is invalid",
    jwt.InvalidAlgorithmError: "The algorithm is not accepted",
    jwt.MissingRequiredClaimError: "A required claim is missing",
}


class TokenRefused(Exception):
    """The token is not valid; `reason` never echoes it, and is None when there is no token."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class User:
    """The user of a verified token, and its scopes (None: full access)."""

    id: str
    scopes: frozenset[str] | None
    expires_at: float


class TokenVerifier:
    """Verifies tokens and caches the result; one per process."""

    def __init__(self, settings: Settings) -> None:
        url = settings.keys_url
        self._keys: KeySource = JwksKeySource(url) if url else SharedSecrets(settings.better_auth_secret)
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._cache = TokenCache()

    async def close(self) -> None:
        await self._keys.close()

    async def verify(self, token: str) -> User:
        """The user of a valid token. Raises TokenRefused or `keys.KeysUnavailable`."""
        user = self._cache.get(token)
        if user is None:
            if not _COMPACT.fullmatch(token):
                raise TokenRefused("The token is malformed")
            user = self._identify(await self._claims(token))
            self._cache.add(token, user)
        return user

    async def _claims(self, token: str) -> Mapping[str, object]:
        try:
            keys = await self._keys.keys_for(jwt.get_unverified_header(token))
            return self._verify(token, keys)
        except UnknownKey:
            raise TokenRefused("The signing key is unknown") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # Hostile tokens make PyJWT raise some of Python's own exceptions.
            reasons = (reason for kind, reason in _REASONS.items() if isinstance(error, kind))
            raise TokenRefused(next(reasons, "The token is malformed")) from None

    def _verify(self, token: str, keys: Sequence[Key]) -> Mapping[str, object]:
        options: Options = {"require": ["exp", "sub"], "enforce_minimum_key_length": True}
        refusal = jwt.InvalidSignatureError()
        for key in keys:
            try:
                return jwt.decode(
                    token,
                    key.material,
                    algorithms=[key.algorithm],
                    options=options,
                    audience=self._audience,
                    issuer=self._issuer,
                    leeway=LEEWAY_SECONDS,
                )
            except jwt.InvalidSignatureError as error:
                refusal = error
        raise refusal

    def _identify(self, claims: Mapping[str, object]) -> User:
        """Check what PyJWT does not; it has verified signature, times, issuer and an expected audience."""
        subject, expires_at = claims.get("sub"), claims.get("exp")
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise TokenRefused("The subject is invalid")
        if isinstance(expires_at, bool) or not isinstance(expires_at, int | float):
            raise TokenRefused("The expiry is not a number")
        if expires_at > LAST_SECOND:
            raise TokenRefused("The expiry is out of range")
        if self._audience is None and "aud" in claims:
            raise TokenRefused("The token is for another audience")
        if "scope" not in claims:
            return User(subject, None, expires_at)
        scope = claims["scope"]
        if not isinstance(scope, str):
            raise TokenRefused("The scope is not a string")
        return User(subject, frozenset(scope.split(" ")), expires_at)


class TokenCache:
    """Recently verified tokens by SHA-256 digest, so that no token stays in memory.

    An entry lives for CACHE_SECONDS, and never beyond the token's expiry; the least
    recently used is evicted first. For the event loop only, not thread-safe.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, tuple[float, User]] = OrderedDict()

    def get(self, token: str) -> User | None:
        digest = _digest(token)
        entry = self._entries.get(digest)
        if entry is None:
            return None
        good_until, user = entry
        if time.time() >= good_until:
            del self._entries[digest]
            return None
        self._entries.move_to_end(digest)
        return user

    def add(self, token: str, user: User) -> None:
        good_until = min(user.expires_at, time.time() + CACHE_SECONDS)
        self._entries[_digest(token)] = good_until, user
        if len(self._entries) > CACHE_SIZE:
            self._entries.popitem(last=False)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
