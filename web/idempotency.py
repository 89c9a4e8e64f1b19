"""The header Idempotency-Key, under which a create or a batch can be repeated."""

import re

from fastapi import Request

from problems import INVALID_IDEMPOTENCY_KEY, ProblemError

KEY_PATTERN = r"^[!-~]{1,255}$"
_KEY = re.compile(KEY_PATTERN.removesuffix("$"))


def idempotency_key(request: Request) -> str | None:
    """The key, without the quotation marks of a structured field (RFC 9651), or None without the header.

    Raises a problem (400).
    """
    values = request.headers.getlist("Idempotency-Key")
    if not values:
        return None
    if len(values) > 1 or not _KEY.fullmatch(values[0]):
        raise ProblemError(
            INVALID_IDEMPOTENCY_KEY, "Idempotency-Key must be 1 to 255 visible ASCII characters, sent once."
        )
    [key] = values
    return key[1:-1] if len(key) > 2 and key[0] == key[-1] == '"' else key
