"""Tokens for development and tests, signed with a shared secret as Better Auth signs them.

python -m tools.tokens SUBJECT
"""

import sys
import time

import jwt
from pydantic_settings import BaseSettings, SettingsConfigDict

SECONDS = 3600


class _TokenSettings(BaseSettings):
    """The subset of the settings that is needed to sign a token, without the database."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore")

    better_auth_secret: str = ""
    jwt_issuer: str | None = None
    jwt_audience: str | None = None


def mint(secret: str, subject: str, **claims: object) -> str:
    """An HS256 token, valid for one hour unless `claims` has another `exp`."""
    now = int(time.time())
    return jwt.encode({"sub": subject, "iat": now, "exp": now + SECONDS, **claims}, secret, "HS256")


def mint_from_environment(subject: str) -> str:
    """A token that is accepted by a service with the same environment and `.env`."""
    settings = _TokenSettings()
    secret = settings.better_auth_secret.split(",")[0]
    if not secret:
        sys.exit(
            "Tokens can be signed only with BETTER_AUTH_SECRET; with JWKS, get a token from Better Auth."
        )
    optional = {"iss": settings.jwt_issuer, "aud": settings.jwt_audience}
    return mint(secret, subject, **{name: value for name, value in optional.items() if value})


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("Subject missing. Usage: make token SUB=some-user")
    print(mint_from_environment(sys.argv[1]))
