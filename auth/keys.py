"""Sources of the keys that verify tokens: shared secrets, or a JSON Web Key Set (JWKS).

    KeysUnavailable     the key may exist, but its endpoint does not respond
    UnknownKey          there is no such key

Claims are checked in `tokens.py`.
"""

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from time import monotonic as clock
from typing import Protocol
from urllib.parse import urlsplit

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
    """The JWKS endpoint is unavailable, and the cache has no usable key."""


class UnknownKey(Exception):
    """The token has no `kid`, or one that is not in the key set."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and the only algorithm that it may be used with."""

    algorithm: str
    material: jwt.PyJWK | bytes


class KeySource(Protocol):
    async def keys_for(self, header: Mapping[str, object]) -> Sequence[Key]:
        """The keys that may verify a token with this header.

        Raises UnknownKey or KeysUnavailable.
        """
        ...

    async def close(self) -> None: ...


class SharedSecrets:
    """HS256 with one secret, or with several during a rotation."""

    def __init__(self, secrets: Sequence[SecretStr]) -> None:
        self._keys = [Key("HS256", secret.get_secret_value().encode()) for secret in secrets]

    async def keys_for(self, header: Mapping[str, object]) -> Sequence[Key]:
        return self._keys

    async def close(self) -> None:
        """Nothing to close."""


class JwksKeySource:
    """The key set at a URL (RFC 7517), cached; fetched in a thread, one fetch at a time.

    A request waits for a fetch if its key is unknown, or if the keys are older than
    FRESH_SECONDS and the last fetch succeeded. While fetches fail, cached keys are used
    without waiting and refetched in the background. Not thread-safe: event loop only.
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
        age = clock() - self._fetched_at
        if kid not in self._keys or (age >= FRESH_SECONDS and self._answered):
            await self._refetch()
        elif age >= REFRESH_SECONDS:
            self._begin_fetch()
        if clock() - self._fetched_at >= STALE_SECONDS:
            raise KeysUnavailable
        if kid not in self._keys:
            raise UnknownKey if self._answered else KeysUnavailable
        return [self._keys[kid]]

    async def close(self) -> None:
        """Cancel a fetch in progress."""
        if self._fetch is not None:
            self._fetch.cancel()
            await asyncio.gather(self._fetch, return_exceptions=True)

    async def _refetch(self) -> None:
        fetch = self._begin_fetch()
        if fetch is not None:
            await asyncio.shield(fetch)

    def _begin_fetch(self) -> asyncio.Task[None] | None:
        """The fetch in progress or a new one; None during the cool-down after the last one."""
        if self._fetch is not None and not self._fetch.done():
            return self._fetch
        if clock() - self._tried_at < REFETCH_SECONDS:
            return None
        self._fetch = asyncio.create_task(self._load())
        return self._fetch

    async def _load(self) -> None:
        try:
            keys = await asyncio.wait_for(asyncio.to_thread(fetch_keys, self._url), FETCH_SECONDS)
        except Exception as error:  # A hostile endpoint must not cause a 500.
            self._answered = False
            log.warning("The key endpoint does not answer: %s", type(error).__name__)
        else:
            self._answered = True
            self._keys = keys
            self._fetched_at = clock()
        finally:
            self._tried_at = clock()


def fetch_keys(url: str) -> dict[str, Key]:
    """The usable keys of the key set by key ID. Blocks.

    Raises an exception unless the endpoint responds with a key set within the limits above.
    """
    document = json.loads(_download(url))
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError("not a key set")
    usable = (_usable(each) for each in document["keys"])
    return dict(filter(None, usable))


def _usable(jwk: object) -> tuple[str, Key] | None:
    """None for a key of another type or purpose, which a key set may contain."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    kid, algorithm = jwk.get("kid"), jwk.get("alg", "EdDSA")
    if not isinstance(kid, str) or not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        return None
    try:
        key = jwt.PyJWK(jwk)
    except (jwt.PyJWTError, TypeError, ValueError):
        return None
    return (kid, Key(key.algorithm_name, key)) if key.algorithm_name in ALGORITHMS else None


def _download(url: str) -> bytes:
    """The response body, limited in size and in total time.

    http.client follows no redirects and uses no proxy: both could lead to a host that is
    not configured.
    """
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=FETCH_SECONDS)
    with contextlib.closing(connection):
        connection.connect()
        deadline = threading.Timer(FETCH_SECONDS, _abort, [connection.sock])
        deadline.start()
        try:
            connection.request("GET", parts.path or "/", headers={"Accept": "application/json"})
            with connection.getresponse() as answer:
                body = answer.read(MAXIMUM_BYTES + 1)
        finally:
            deadline.cancel()
    if answer.status != 200 or len(body) > MAXIMUM_BYTES:
        raise ValueError("no key set")
    return body


def _abort(connection: socket.socket) -> None:
    """Unblock a thread that reads from a server which sends its response byte by byte."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
