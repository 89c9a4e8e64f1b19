"""Keyset pagination: the cursor that continues a list, and the `Link` to the next page.

A cursor is the position of the last task on a page (its sort key and ID), plus a digest of that
position, the user, the filters and the order. It is not a security control: a forged cursor only
pages through the caller's own tasks. The digest makes a cursor of another list an error, instead
of silently skipping tasks.
"""

import base64
import hashlib
import json
import re
import struct
from collections.abc import Iterable
from itertools import accumulate
from urllib.parse import urlencode
from uuid import UUID

from pydantic import TypeAdapter

from problems import INVALID_CURSOR, UNKNOWN_CURSOR, ProblemError
from schemas import TaskRead, task_json
from services.lists import MAXIMUM_KEY, PAGE_BYTES, Position
from web.parameters import CURSOR_PATTERN, TaskQuery

_CURSOR = re.compile(CURSOR_PATTERN.removesuffix("$"))
_DIGEST_BYTES = 8
_POSITION = struct.Struct(">q16s")
_NO_KEY = -1
_list_json = TypeAdapter(list[TaskRead]).dump_json


def encode_cursor(last: Position, user_id: str, query: TaskQuery) -> str:
    position = _POSITION.pack(_NO_KEY if last.key is None else last.key, last.id.bytes)
    cursor = position + _digest(position, user_id, query)
    return base64.urlsafe_b64encode(cursor).decode().rstrip("=")


def decode_cursor(cursor: str, user_id: str, query: TaskQuery) -> Position:
    """The position after which the page begins.

    Raises a problem: 400 for text that is not a cursor, 404 for another list's cursor.
    """
    if not _CURSOR.fullmatch(cursor):
        raise ProblemError(INVALID_CURSOR, "The value is not a cursor.")
    key, task_id = _POSITION.unpack(base64.urlsafe_b64decode(f"{cursor}=")[: _POSITION.size])
    last = Position(None if key == _NO_KEY else key, UUID(bytes=task_id))
    if not _NO_KEY <= key < MAXIMUM_KEY or encode_cursor(last, user_id, query) != cursor:
        raise ProblemError(UNKNOWN_CURSOR, "The cursor does not belong to this list.")
    return last


def next_link(path: str, query: Iterable[tuple[str, str]], cursor: str) -> str:
    """A `Link` header (RFC 8288) with the same query, continued at the cursor."""
    parameters = [(name, value) for name, value in query if name != "cursor"]
    return f'<{path}?{urlencode([*parameters, ("cursor", cursor)])}>; rel="next"'


def _digest(position: bytes, user_id: str, query: TaskQuery) -> bytes:
    list_of = json.dumps([user_id, query.order, query.given], sort_keys=True, default=str)
    return hashlib.blake2b(position + list_of.encode(), digest_size=_DIGEST_BYTES).digest()


def fitting(found: list[TaskRead]) -> tuple[bytes, int]:
    """The JSON of the tasks that fit on a page, at least one if there is any, and their number."""
    body = _list_json(found)
    if len(body) <= PAGE_BYTES:
        return body, len(found)
    # Each task plus its comma or the closing bracket; `<` leaves room for the opening one.
    ends = accumulate(len(task_json(task)) + 1 for task in found)
    count = max(1, sum(end < PAGE_BYTES for end in ends))
    return _list_json(found[:count]), count
