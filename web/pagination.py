"""Keyset pagination: the cursor that continues a list, and the `Link` to the next page.

A cursor is the ID of the last task on a page, plus a digest of that ID, the user and the
filter. It is not a security control: a forged cursor only pages through the caller's own
tasks. The digest makes a cursor of another list an error, instead of silently skipping
tasks.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from urllib.parse import urlencode
from uuid import UUID

from problems import INVALID_CURSOR, UNKNOWN_CURSOR, ProblemError
from schemas import TaskFilter

CURSOR_PATTERN = r"^[A-Za-z0-9_-]{32}$"
"""Base64url (RFC 4648, section 5) of the 16 bytes of an ID and the 8 of the digest."""

_CURSOR = re.compile(CURSOR_PATTERN.removesuffix("$"))
_DIGEST_BYTES = 8


def encode_cursor(last: UUID, user_id: str, where: TaskFilter) -> str:
    return base64.urlsafe_b64encode(last.bytes + _digest(last, user_id, where)).decode()


def decode_cursor(cursor: str, user_id: str, where: TaskFilter) -> UUID:
    """The ID after which the page begins.

    Raises a problem: 400 for text that is not a cursor, 404 for another list's cursor.
    """
    if not _CURSOR.fullmatch(cursor):
        raise ProblemError(INVALID_CURSOR, "The value is not a cursor.")
    last = UUID(bytes=base64.urlsafe_b64decode(cursor)[:16])
    if encode_cursor(last, user_id, where) != cursor:
        raise ProblemError(UNKNOWN_CURSOR, "The cursor does not belong to this list.")
    return last


def next_link(path: str, query: Mapping[str, str], cursor: str) -> str:
    """A `Link` header (RFC 8288) with the same query, continued at the cursor."""
    return f'<{path}?{urlencode({**query, "cursor": cursor})}>; rel="next"'


def _digest(last: UUID, user_id: str, where: TaskFilter) -> bytes:
    list_of = json.dumps([user_id, where.given()], sort_keys=True, default=str)
    return hashlib.blake2b(last.bytes + list_of.encode(), digest_size=_DIGEST_BYTES).digest()
