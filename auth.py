"""From the bearer token to the user: `get_current_user`, on which every operation depends.

    TokenRefused     the token is not good; says which fixed sentence to answer

Identity is the claim `sub` and nothing else. Where keys come from is in
`keys.py`, how often one may fail in `rate_limits.py`.
"""

import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import jwt
from fastapi import Depends, Request
from jwt.types import Options

from keys import Key, KeySource, KeysUnavailable, PublishedKeys, SharedSecrets, UnknownKey
from problems import INSUFFICIENT_SCOPE, UNAUTHORIZED, ProblemError, unavailable
from rate_limits import RateLimits
from settings import Settings

LEEWAY_SECONDS = 30
CACHE_SECONDS = 60
CACHE_SIZE = 10_000
LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z: a claim later than that is no date."""

READ, WRITE = "tasks:read", "tasks:write"

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")

# The first that fits counts, so a subclass stands before its base.
_REASONS: dict[type[Exception], str] = {
    jwt.ExpiredSignatureError: "The token has expired",
    jwt.ImmatureSignatureError: "The token is not valid yet",
    jwt.InvalidIssuerError: "The token has another issuer",
    jwt.InvalidAudienceError: "The token is for another audience",
    jwt.InvalidSignatureError: "The signature does not verify",
    jwt.InvalidAlgorithmError: "The algorithm is not accepted",
    jwt.MissingRequiredClaimError: "A required claim is missing",
}


class TokenRefused(Exception):
    """The token is not good; `reason` repeats nothing of it, and is None when there is none."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class User:
    """Who sends a request, and to what the token is limited (None: to nothing)."""

    id: str
    scopes: frozenset[str] | None
    expires_at: float


class Authenticator:
    """Verifies tokens; one for each process."""

    def __init__(self, settings: Settings) -> None:
        url = settings.keys_url
        self._keys: KeySource = PublishedKeys(url) if url else SharedSecrets(settings.better_auth_secret)
        self._issuer = settings.issuer
        self._audience = settings.audience
        self._verified = VerifiedTokens()

    async def close(self) -> None:
        await self._keys.close()

    async def user(self, token: str) -> User:
        """The token's user. Raises TokenRefused, or KeysUnavailable."""
        user = self._verified.get(token)
        if user is None:
            if not _COMPACT.fullmatch(token):
                raise TokenRefused("The token is malformed")
            user = self._identify(await self._claims(token))
            self._verified.add(token, user)
        return user

    async def _claims(self, token: str) -> Mapping[str, object]:
        try:
            keys = await self._keys.keys_for(jwt.get_unverified_header(token))
            return self._verify(token, keys)
        except UnknownKey:
            raise TokenRefused("The key is not known") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            # PyJWT lets some of Python's own errors out of hostile tokens.
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
        """PyJWT has checked signature and times; here is what it lets pass."""
        subject, expires_at = claims.get("sub"), claims.get("exp")
        if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
            raise TokenRefused("The subject is not acceptable")
        if isinstance(expires_at, bool) or not isinstance(expires_at, int | float):
            raise TokenRefused("The expiry is not a number")
        if expires_at > LAST_SECOND:
            raise TokenRefused("The expiry is not a date")
        if self._audience is None and "aud" in claims:
            raise TokenRefused("The token is for another audience")
        if "scope" not in claims:
            return User(subject, None, expires_at)
        scope = claims["scope"]
        if not isinstance(scope, str):
            raise TokenRefused("The scope is not a string")
        return User(subject, frozenset(scope.split(" ")), expires_at)


class VerifiedTokens:
    """Tokens that were verified lately, by digest, so that none is kept.

    Touched by the event loop only. An entry is good for CACHE_SECONDS and never
    past the token's expiry; the least recently used goes first.
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


def _token(request: Request) -> str:
    authorization = request.headers.getlist("authorization")
    if len(authorization) > 1:
        raise TokenRefused("There is more than one Authorization header")
    scheme, _, token = (authorization[0] if authorization else "").partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused(None)
    return token.strip()


def _unauthorized(reason: str | None) -> ProblemError:
    """RFC 6750, section 3: a request without credentials is told no error code."""
    if reason is None:
        return ProblemError(
            UNAUTHORIZED, "The request has no bearer token.", headers={"WWW-Authenticate": "Bearer"}
        )
    challenge = f'Bearer error="invalid_token", error_description="{reason}"'
    return ProblemError(UNAUTHORIZED, f"{reason}.", headers={"WWW-Authenticate": challenge})


def _insufficient(scope: str) -> ProblemError:
    challenge = (
        f'Bearer error="insufficient_scope", error_description="The token lacks a scope", scope="{scope}"'
    )
    return ProblemError(
        INSUFFICIENT_SCOPE, f"This needs the scope {scope}.", headers={"WWW-Authenticate": challenge}
    )


async def get_current_user(request: Request) -> str:
    """The ID of the user whose bearer token the request carries.

    Raises a problem: 401 for a token that is missing or refused, 403 for one without the
    scope that the method needs, 429 above a rate limit, 503 when the keys are away.
    """
    authenticator: Authenticator = request.app.state.authenticator
    limits: RateLimits = request.app.state.limits
    try:
        user = await authenticator.user(_token(request))
    except TokenRefused as refusal:
        await limits.failures.hit(limits.address(request))
        raise _unauthorized(refusal.reason) from None
    except KeysUnavailable:
        raise unavailable("The keys that verify tokens cannot be reached.") from None
    request.state.user_id = user.id
    await limits.requests.hit(user.id)
    needed = READ if request.method == "GET" else WRITE
    if user.scopes is not None and needed not in user.scopes:
        raise _insufficient(needed)
    return user.id


CurrentUser = Annotated[str, Depends(get_current_user)]
"""For the parameter `user_id` of every operation."""
