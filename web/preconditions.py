"""Entity tags, and the requests that depend on them (RFC 9110, sections 8.8.3 and 13.1).

A tag contains a digest of the user: browsers revalidate with a stored tag although another user
has signed in since, and a tag that is equal for both would show one user the other's data.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from fastapi import Request, Response

from problems import INVALID_PRECONDITION, PRECONDITION_REQUIRED, ProblemError
from services.tasks import Expected

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
# One element of a list, which may be empty (RFC 9110, section 5.6.1.2). Linear: no two of its parts
# match the same white space.
_ELEMENT = re.compile(rf"[ \t]*(?:({_TAG})[ \t]*)?(,|\Z)")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")
_POSITION = re.compile(r"0|[1-9][0-9]{0,17}")
_DIGEST_BYTES = 6


class Tags(NamedTuple):
    """The value of If-Match or If-None-Match: any representation, or one of these."""

    any: bool
    tags: Sequence[str]


def parse(request: Request, header: str) -> Tags | None:
    """The value of the header, or None if the request does not have it. Raises a problem (400)."""
    values = request.headers.getlist(header)
    if not values:
        return None
    value = ",".join(values)
    if value.strip(" \t") == "*":
        return Tags(True, ())
    tags, element = [], _ELEMENT.match(value)
    while element and element[2]:
        tags.append(element[1])
        element = _ELEMENT.match(value, element.end())
    if element is None:
        raise ProblemError(INVALID_PRECONDITION, f"{header} must be * or a list of quoted entity tags.")
    return Tags(False, [tag for tag in (*tags, element[1]) if tag])


def task_tag(seq: int, user_id: str) -> str:
    """The tag of a task at this position of the feed, which no other state of a task ever has."""
    return f'"{seq}-{_digest(user_id)}"'


def if_match(request: Request, user_id: str) -> Expected | None:
    """The states of the task that a change may replace, or None for any.

    The comparison is strong: a weak tag matches nothing. Beside the tag of a task, its version
    alone is a tag, for clients that have the task from a list.
    """
    given = parse(request, "If-Match")
    if given is None and request.app.state.settings.require_if_match:
        raise ProblemError(PRECONDITION_REQUIRED, "Send If-Match with the entity tag of the task.")
    if given is None or given.any:
        return None
    suffix = f"-{_digest(user_id)}"
    strong = [tag[1:-1] for tag in given.tags if tag.startswith('"')]
    positions = (tag.removesuffix(suffix) for tag in strong if tag.endswith(suffix))
    return Expected(
        [int(tag) for tag in positions if _POSITION.fullmatch(tag)],
        [int(tag) for tag in strong if _VERSION.fullmatch(tag)],
    )


def list_tag(feed: int, user_id: str, query: str) -> str:
    """The tag of a page of a list, which changes with every change of the user's tasks."""
    return f'"{feed}-{_digest(user_id, query)}"'


def known_positions(known: Tags | None, user_id: str, query: str) -> list[int]:
    """The positions of the feed in those tags that are of this list."""
    if known is None:
        return []
    suffix = f"-{_digest(user_id, query)}"
    names = (tag.removeprefix("W/")[1:-1] for tag in known.tags)
    positions = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
    return [int(each) for each in positions if _POSITION.fullmatch(each)]


def if_none_match(request: Request) -> Tags | None:
    """The tags that the client has. Raises a problem (400)."""
    return parse(request, "If-None-Match")


def unless_known(response: Response, tag: str, known: Tags | None) -> Response:
    """The response with its tag, or 304 if the client has it already; the comparison is weak."""
    if known is not None and (known.any or tag in {each.removeprefix("W/") for each in known.tags}):
        response = Response(status_code=304)
    response.headers["ETag"] = tag
    return response


def _digest(*texts: str) -> str:
    digest = hashlib.blake2b("\n".join(texts).encode(), digest_size=_DIGEST_BYTES).digest()
    return base64.urlsafe_b64encode(digest).decode()
