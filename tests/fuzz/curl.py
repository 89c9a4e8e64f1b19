"""The `curl` command that repeats a request, for reports of failures."""

import shlex
from collections.abc import Iterable

MAXIMUM_BODY = 400
"""Characters of a body that a command repeats."""

_NOT_REPEATED = {"host", "content-length", "connection", "accept", "accept-encoding", "user-agent"}


def command(
    method: str, url: str, headers: Iterable[tuple[str, str]], body: bytes, user_id: str | None
) -> str:
    """With the token of `user_id` in a variable that `make token` sets, and a long body cut.

    Without a user, the `Authorization` header is repeated as it was.
    """
    words = ["curl", "-i", *(["--head"] if method == "HEAD" else ["-X", method]), shlex.quote(url)]
    for name, value in headers:
        if name.lower() == "authorization" and user_id is not None:
            words += ["-H", '"Authorization: Bearer $TOKEN"']
        elif name.lower() not in _NOT_REPEATED:
            words += ["-H", shlex.quote(f"{name}: {value}")]
    if body:
        words += ["--data-raw", shlex.quote(_text(body))]
    token = [] if user_id is None else [f"TOKEN=$(make token SUB={shlex.quote(user_id)});"]
    return " ".join([*token, *words])


def _text(body: bytes) -> str:
    text = body.decode(errors="backslashreplace")
    return text if len(text) <= MAXIMUM_BODY else f"{text[:MAXIMUM_BODY]}… ({len(body)} bytes)"
