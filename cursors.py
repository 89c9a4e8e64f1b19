"""Cursors for keyset paging: where a page ended, bound to the list it came from.

A cursor is the last id of the page and a digest of that id, the user and the
filter. It hides nothing and grants nothing, for a forged one only pages through
the caller's own tasks; the digest makes a cursor in the wrong list an error
instead of a page with tasks missing.
"""

import base64
import binascii
import hashlib
from uuid import UUID

_DIGEST_BYTES = 8


class InvalidCursor(ValueError):
    """The text is no cursor, or one of another list."""


def encode(last: UUID, user_id: str, completed: bool | None) -> str:
    return base64.urlsafe_b64encode(last.bytes + _digest(last, user_id, completed)).decode()


def decode(cursor: str, user_id: str, completed: bool | None) -> UUID:
    """The id after which the page begins. Raises InvalidCursor."""
    try:
        raw = base64.b64decode(cursor, altchars=b"-_", validate=True)
        last = UUID(bytes=raw[:16])
    except (binascii.Error, ValueError):
        raise InvalidCursor from None
    if encode(last, user_id, completed) != cursor:
        raise InvalidCursor
    return last


def _digest(last: UUID, user_id: str, completed: bool | None) -> bytes:
    # The user id comes last: the parts before it have a fixed length.
    material = last.bytes + bytes([2 if completed is None else completed]) + user_id.encode()
    return hashlib.blake2b(material, digest_size=_DIGEST_BYTES).digest()
