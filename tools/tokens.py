"""Tokens for trying things out, as Better Auth would sign them with a shared secret.

python -m tools.tokens SUBJECT
"""

import sys
import time

import jwt
from pydantic_settings import BaseSettings, SettingsConfigDict

SECONDS = 3600


class _TokenSettings(BaseSettings):
    """The part of the settings that makes a token; the database is not needed for it."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    better_auth_secret: str = ""
    jwt_issuer: str | None = None
    jwt_audience: str | None = None


def mint(secret: str, subject: str, **claims: object) -> str:
    """A token that is good for an hour, unless the claims say otherwise."""
    now = int(time.time())
    return jwt.encode({"sub": subject, "iat": now, "exp": now + SECONDS, **claims}, secret, "HS256")


def mint_from_environment(subject: str) -> str:
    """A token that the service with the same environment and `.env` accepts."""
    settings = _TokenSettings()
    secret = settings.better_auth_secret.split(",")[0]
    if not secret:
        sys.exit("Tokens can be made only with BETTER_AUTH_SECRET; with published keys, ask Better Auth.")
    bound = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience}
    return mint(secret, subject, **{name: value for name, value in bound.items() if value})


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("Say for whom: make token SUB=some-user")
    print(mint_from_environment(sys.argv[1]))
