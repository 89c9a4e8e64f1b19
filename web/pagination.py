"""Keyset pagination: the cursor that continues a list, and the `Link` to the next page.

A cursor is the ID of the last task of a page with a digest of that ID, the user and the
filter. It is neither secret nor a capability: a forged one only pages through the
caller's own tasks. The digest turns a cursor used with another list into an error
instead of a page with tasks missing.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from urllib.parse import urlencode
from uuid import UUID

from problems import INVALID_CURSOR, ProblemError
from schemas import TaskFilter

_DIGEST_BYTES = 8


def encode_cursor(last: UUID, user_id: str, where: TaskFilter) -> str:
    return base64.urlsafe_b64encode(last.bytes + _digest(last, user_id, where)).decode()


def decode_cursor(cursor: str, user_id: str, where: TaskFilter) -> UUID:
    """The ID after which the page begins. Raises a 400 problem for any other list's cursor."""
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        last = UUID(bytes=raw[:16])
    except (binascii.Error, ValueError):
        raise _invalid() from None
    if encode_cursor(last, user_id, where) != cursor:
        raise _invalid()
    return last


def next_link(path: str, query: Mapping[str, str], cursor: str) -> str:
    """A `Link` header (RFC 8288) with the same query, continued at the cursor."""
    return f'<{path}?{urlencode({**query, "cursor": cursor})}>; rel="next"'


def _digest(last: UUID, user_id: str, where: TaskFilter) -> bytes:
    list_of = json.dumps([user_id, where.given()], sort_keys=True, default=str)
    return hashlib.blake2b(last.bytes + list_of.encode(), digest_size=_DIGEST_BYTES).digest()


def _invalid() -> ProblemError:
    return ProblemError(INVALID_CURSOR, "The cursor does not belong to this list.")
