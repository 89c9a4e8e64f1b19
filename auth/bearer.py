"""From the Authorization header to the user: `get_current_user`.

Every operation on tasks depends on it. What makes a token valid is in `tokens.py`.
"""

from typing import Annotated

from fastapi import Depends, Request

from auth.keys import KeysUnavailable
from auth.rate_limits import rate_limits
from auth.tokens import LEEWAY_SECONDS, TokenRefused, TokenVerifier
from observability import request_context
from problems import INSUFFICIENT_SCOPE, UNAUTHORIZED, ProblemError, unavailable

TASKS, READ, WRITE = "/api/tasks", "tasks:read", "tasks:write"
ACCOUNT_SCOPES = {"/api/account": "account:delete", "/api/account/export": "account:export"}
"""The scopes of the operations that are not on tasks, by path."""


async def get_current_user(request: Request) -> str:
    """The ID of the user whose bearer token the request carries.

    Raises a problem: 401 for a token that is missing or refused, 403 for one without the
    scope that the operation needs, 429 above a rate limit, 503 when the keys are unavailable.
    """
    verifier: TokenVerifier = request.app.state.token_verifier
    limits = rate_limits(request)
    try:
        user = await verifier.verify(_token(request))
    except TokenRefused as refusal:
        await limits.failures.hit(limits.address(request))
        raise _unauthorized(refusal.reason) from None
    except KeysUnavailable:
        raise unavailable("The keys that verify tokens cannot be reached.") from None
    info = request_context.current()
    info.user_id, info.accepted_until = user.id, user.expires_at + LEEWAY_SECONDS
    await limits.requests.hit(user.id)
    needed = _needed_scope(request.scope["route"].path, request.method)
    if user.scopes is not None and needed not in user.scopes:
        raise _insufficient(needed)
    return user.id


CurrentUser = Annotated[str, Depends(get_current_user)]
"""For the parameter `user_id` of every operation."""


def _needed_scope(path: str, method: str) -> str:
    """Raises KeyError for a new path without a scope, which must not fall back to that of the tasks."""
    if path.startswith(TASKS):
        return READ if method == "GET" else WRITE
    return ACCOUNT_SCOPES[path]


def _token(request: Request) -> str:
    authorization = request.headers.getlist("authorization")
    if len(authorization) > 1:
        raise TokenRefused("There is more than one Authorization header")
    scheme, _, token = (authorization[0] if authorization else "").partition(" ")
    if scheme.lower() != "bearer":
        raise TokenRefused(None)
    return token.strip()


def _unauthorized(reason: str | None) -> ProblemError:
    """A request without credentials gets no error code (RFC 6750, section 3)."""
    if reason is None:
        return ProblemError(
            UNAUTHORIZED, "The request has no bearer token.", headers={"WWW-Authenticate": "Bearer"}
        )
    challenge = f'Bearer error="invalid_token", error_description="{reason}"'
    return ProblemError(UNAUTHORIZED, f"{reason}.", headers={"WWW-Authenticate": challenge})


def _insufficient(scope: str) -> ProblemError:
    challenge = (
        'Bearer error="insufficient_scope", '
        f'error_description="The token lacks the required scope", scope="{scope}"'
    )
    return ProblemError(
        INSUFFICIENT_SCOPE,
        f"This operation requires the scope {scope}.",
        headers={"WWW-Authenticate": challenge},
    )
