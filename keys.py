"""Where the keys that verify tokens come from: shared secrets, or published keys.

    KeysUnavailable     the key may exist, but its endpoint does not answer
    UnknownKey          no such key

What a token must say besides its signature belongs in `auth.py`.
"""

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPResponse
from typing import IO, Protocol

import jwt
from pydantic import SecretStr

ALGORITHMS = frozenset({"EdDSA", "ES256", "RS256"})
"""For published keys. Never HS256: its secret would be public."""

REFRESH_SECONDS = 240
FRESH_SECONDS = 300
STALE_SECONDS = 24 * 3600
REFETCH_SECONDS = 5
FETCH_SECONDS = 5
MAXIMUM_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class KeysUnavailable(Exception):
    """The key endpoint does not answer, and what is cached does not help."""


class UnknownKey(Exception):
    """The token names no key, or one that is not published."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the one algorithm for which it was made."""

    algorithm: str
    material: jwt.PyJWK | bytes


class KeySource(Protocol):
    async def keys_for(self, header: Mapping[str, object]) -> Sequence[Key]:
        """The keys that may verify a token with this header. Raises both errors above."""
        ...


class SharedSecrets:
    """HS256 with one secret, or with several while they are being rotated."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        self._keys = [Key("HS256", secret.get_secret_value().encode()) for secret in secrets]

    async def keys_for(self, header: Mapping[str, object]) -> Sequence[Key]:
        return self._keys


class PublishedKeys:
    """The key set at a URL (RFC 7517), cached; one fetch at a time, in a thread.

    All state is touched by the event loop only.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._keys: dict[str, Key] = {}
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._answered = False
        self._fetch: asyncio.Task[None] | None = None

    async def keys_for(self, header: Mapping[str, object]) -> Sequence[Key]:
        kid = header.get("kid")
        if not isinstance(kid, str):
            raise UnknownKey
        age = time.monotonic() - self._fetched_at
        if age >= FRESH_SECONDS:
            await self._refetch()
        elif age >= REFRESH_SECONDS:
            self._begin_fetch()
        if kid not in self._keys:
            await self._refetch()
        if time.monotonic() - self._fetched_at >= STALE_SECONDS:
            raise KeysUnavailable
        if kid not in self._keys:
            raise UnknownKey if self._answered else KeysUnavailable
        return [self._keys[kid]]

    async def _refetch(self) -> None:
        fetch = self._begin_fetch()
        if fetch is not None:
            await asyncio.shield(fetch)

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one, or None when the last one is too recent."""
        if self._fetch is not None and not self._fetch.done():
            return self._fetch
        if time.monotonic() - self._tried_at < REFETCH_SECONDS:
            return None
        self._tried_at = time.monotonic()
        self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _load(self) -> None:
        try:
            keys = await asyncio.to_thread(fetch_keys, self._url)
        except (OSError, HTTPException, ValueError, RecursionError, jwt.PyJWTError) as error:
            self._answered = False
            log.warning("The key endpoint does not answer: %s", type(error).__name__)
        else:
            self._answered = True
            self._keys = keys
            self._fetched_at = time.monotonic()


def fetch_keys(url: str) -> dict[str, Key]:
    """The published keys that can verify a signature, by their id. Blocks.

    Raises OSError, HTTPException, ValueError, RecursionError or PyJWTError when
    the endpoint does not answer with a key set, within the limits above.
    """
    document = json.loads(_download(url))
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a key set")
    keys = {}
    for each in document["keys"]:
        key = _usable(each)
        if key is not None:
            keys[str(each["kid"])] = key
    return keys


def _usable(jwk: object) -> Key | None:
    """None for a key of another kind or purpose, which a set may well have."""
    if not isinstance(jwk, dict) or not isinstance(jwk.get("kid"), str) or jwk.get("use", "sig") != "sig":
        return None
    if jwk.get("alg", "EdDSA") not in ALGORITHMS:
        return None
    try:
        key = jwt.PyJWK(jwk)
    except jwt.PyJWTError:
        return None
    return Key(key.algorithm_name, key) if key.algorithm_name in ALGORITHMS else None


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect could lead to a host that nobody configured."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        raise urllib.error.HTTPError(req.full_url, code, "a redirect", headers, fp)


_opener = urllib.request.build_opener(_NoRedirects)


def _download(url: str) -> bytes:
    """The body of the answer, bounded in size and in time as a whole."""
    deadline = time.monotonic() + FETCH_SECONDS
    request = urllib.request.Request(url, headers={"Accept": "application/json"})  # noqa: S310
    body = bytearray()
    with _opener.open(request, timeout=FETCH_SECONDS) as answer:
        assert isinstance(answer, HTTPResponse)
        while chunk := answer.read1(MAXIMUM_BYTES):
            body += chunk
            if len(body) > MAXIMUM_BYTES:
                raise ValueError("too large")
            if time.monotonic() > deadline:
                raise TimeoutError
    return bytes(body)
